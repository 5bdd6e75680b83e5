"""Data of one's own in `tril/Text-v0`, from the command line and from Python, for every algorithm."""

import csv
import json

import gymnasium as gym
import pytest
import yaml
from click.testing import CliRunner
from instruct_model import instruct_tokenizer, save_instruct_model
from seven import SEVEN

from tril_gym.agents import BC, PPO, PPOConfig, PPOPlusPlus, PPOPlusPlusConfig, References, tiny_guide, tiny_policy
from tril_gym.cli import main
from tril_gym.data.splits import is_held_out

QUESTIONS = [{"question": f"say {word} {number}:", "answer": word} for word in ("yes", "no") for number in range(20)]
TEXT = ["--env", "tril/Text-v0"]
SMALL = ["--num-envs", "4", "--iterations", "1", "--tiny-samples", "0", "--eval-examples", "4"]
CONSTANT = ["--lr-schedule", "constant"]  # so that a run can be extended
TINY = {"samples": 0, "width": 8, "heads": 2, "layers": 1}
COLUMN = ["--column", "prompt=question"]
MATCH = ["--reward", "exact_match", "--reward-arg", "exact_match.against=answer"]
# Those that learn from references, or whose guide can only be them where no model is named.
NEED_REFERENCES = ("bc", "gail")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    with (tmp_path / "data.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"], delimiter="\t")
        writer.writeheader()
        writer.writerows(QUESTIONS)
    (tmp_path / "prompts.json").write_text(json.dumps([{"prompt": row["question"]} for row in QUESTIONS]))
    (tmp_path / "own.py").write_text("def short(completions):\n    return [-len(text) for text in completions]\n")
    return tmp_path


def train(*arguments):
    found = CliRunner().invoke(main, ["train", *arguments, "--output-dir", "run"], catch_exceptions=False)
    return found.exit_code, found.output


@pytest.mark.parametrize("algorithm", [name for name in SEVEN if name not in NEED_REFERENCES])
def test_prompts_alone_are_enough(algorithm, folder):
    code, output = train(algorithm, *TEXT, "--dataset", "prompts.json", "--reward", "own:short", *SMALL)
    assert code == 0, output
    metrics = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["reward/mean"] <= 0


def test_tiny_models_begin_with_random_weights_without_references(folder, caplog):
    arguments = [*TEXT, "--dataset", "prompts.json", "--reward", "own:short"]
    code, output = train("ppo", *arguments, *SMALL[:4], *SMALL[6:])
    assert code == 0, output
    assert "prompts.json has no references, so tiny models begin with random weights" in caplog.text
    assert yaml.safe_load((folder / "run" / "config.yaml").read_text())["tiny_samples"] == 0


def test_imitation_without_a_reward_says_so(folder):
    data = ["--dataset", "data.jsonl", *COLUMN, "--column", "completion=answer"]
    code, output = train("bc", *TEXT, *data, *SMALL, "--eval-every", "1")
    assert code == 0, output
    assert output.splitlines()[-1].startswith("no reward was named, so nothing scores the held-out texts")
    assert "reward 0.000" not in output
    assert not (folder / "run" / "best").exists()


def test_references_are_not_shown_as_the_texts_of_the_policy(folder):
    data = ["--dataset", "data.jsonl", *COLUMN, "--column", "completion=answer", "--reward", "exact_match"]
    code, output = train("bc", *TEXT, *data, *SMALL)
    assert code == 0, output
    (line,) = [line for line in output.splitlines() if line.startswith("   1  ")]
    assert line.split()[1] == "loss"  # and not the reward of the references, which is 1
    assert "→" not in output.partition("evaluating after")[0]
    assert "score/exact_match" in output
    (folder / "run").rename(folder / "imitation")
    control = train("ppo", *TEXT, *data, *SMALL)[1]
    assert "→" in control.partition("evaluating after")[0]


@pytest.mark.parametrize("algorithm", [*NEED_REFERENCES, "a-lol"])
def test_algorithms_that_need_references_say_so(algorithm, folder):
    settings = ["--reward", "own:short", *SMALL]
    code, output = train(algorithm, *TEXT, "--dataset", "prompts.json", *settings)
    assert code == 2, output
    assert "learns from references, and example" in output
    assert "completion" in output
    assert not (folder / "run").exists()
    code, output = train(algorithm, *TEXT, "--dataset", "data.tsv", *COLUMN, "--column", "completion=answer", *settings)
    assert code == 0, output


def test_references_as_guide_need_references(folder):
    arguments = ["ppo-pp", *TEXT, "--guide", "references", "--reward", "own:short", *SMALL]
    code, output = train(*arguments, "--dataset", "prompts.json")
    assert code == 2, output
    assert "learns from references, and example" in output


def test_a_run_keeps_its_columns_and_measured_lengths(folder):
    code, output = train("ppo", *TEXT, "--dataset", "data.jsonl", *COLUMN, *MATCH, *SMALL, *CONSTANT)
    assert code == 0, output
    env_args = yaml.safe_load((folder / "run" / "config.yaml").read_text())["env_args"]
    assert env_args["column"] == {"prompt": "question"}
    assert env_args["reward_settings"] == {"exact_match": {"against": "answer"}}
    sizes = {name: env_args[name] for name in ("max_prompt_length", "max_new_tokens")}
    assert 2 <= sizes["max_prompt_length"] < 20
    assert sizes["max_new_tokens"] == 128, "there is no reference to measure"
    evaluated = CliRunner().invoke(main, ["evaluate", "run", "--examples", "3"], catch_exceptions=False)
    assert evaluated.exit_code == 0, evaluated.output
    code, output = train("ppo", "--resume", "--iterations", "2", *COLUMN)
    assert code == 0, output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ppo", "--dataset", "data.jsonl", *COLUMN], "ppo learns from rewards, and this environment has none"),
        (["ppo", "--dataset", "data.jsonl", *MATCH], "no column 'prompt'; found question, answer"),
        (["ppo", "--dataset", "data.jsonl", *MATCH, "--column", "prompt=qestion"], "(did you mean 'question'?)"),
        (["ppo", "--dataset", "data.jsonl", *MATCH, "--column", "promt=question"], "(did you mean 'prompt'?)"),
        (["ppo", "--dataset", "data.jsonl", *MATCH, "--column", "prompt"], "not of the form OURS=THEIRS"),
        (["ppo", "--dataset", "data.jsonl", *COLUMN, *MATCH, "--column", "prompt=answer"], "is given twice"),
        (["ppo", "--dataset", "data.jsonl", *COLUMN, "--reward", "exact_match"], "against=NAME"),
        (
            ["ppo", "--dataset", "data.jsonl", *COLUMN, *MATCH[:3], "exact_match.against=anwser"],
            "did you mean 'answer'",
        ),
        (["ppo", "--dataset", "data.jsonl", *COLUMN, *MATCH[:3], "exact_match.match=x"], "no setting 'match'"),
        (["bc", "--dataset", "data.jsonl", *COLUMN, "--column", "completion=words"], "no column 'words'"),
        (["ppo", *MATCH, "--column", "prompt=question"], "no column 'question'"),
    ],
)
def test_mistakes_are_one_message(arguments, words, folder):
    code, output = train(*arguments, *TEXT, *SMALL)
    assert code == 2, output
    assert words in output
    assert not (folder / "run").exists()


def test_columns_are_mapped_for_every_task(folder):
    rows = [{"review": f"a good film {number} that I like", "stars": number % 2} for number in range(40)]
    (folder / "films.json").write_text(json.dumps(rows))
    names = ["--column", "text=review", "--column", "label=stars"]
    code, output = train("ppo", "--env", "tril/IMDB-v0", "--dataset", "films.json", *names, *SMALL)
    assert code == 0, output


@pytest.mark.parametrize("rows", [QUESTIONS, tuple(QUESTIONS)])
def test_python_trains_on_a_list_of_rows(rows):
    envs = gym.make_vec(
        "tril/Text-v0",
        num_envs=4,
        dataset=rows,
        column={"prompt": "question"},
        reward="exact_match",
        reward_settings={"exact_match": {"against": "answer"}},
        tokenizer="fit",
        max_new_tokens=3,
        autoreset_mode="Disabled",
    )
    policy = tiny_policy(envs, **TINY)
    for agent in (
        PPO(policy, envs, PPOConfig(check_model=False)),
        PPOPlusPlus(policy, tiny_guide(envs, **TINY), envs, PPOPlusPlusConfig(check_model=False)),
    ):
        assert not agent.needs_references
        agent.learn(iterations=1)
    assert PPOPlusPlus(policy, References(), envs, PPOPlusPlusConfig(check_model=False)).needs_references
    assert BC(policy, envs).needs_references


def test_reward_args_add_to_the_settings_of_a_reward():
    own = 'reward_settings={"rouge_l": {"reduction": "mean"}}'
    arguments = ["train", "bc", "--env-arg", own, "--reward", "rouge_l", "--reward-arg", "rouge_l.stemming=true"]
    found = yaml.safe_load(CliRunner().invoke(main, [*arguments, "--show-config"]).output)
    assert found["env_args"]["reward_settings"] == {"rouge_l": {"reduction": "mean", "stemming": True}}


def test_evaluate_names_no_option_that_it_lacks(tmp_path):
    save_instruct_model(tmp_path / "model", instruct_tokenizer())
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"prompt": "grass", "completion": "green"}))
    assert not is_held_out("grass")
    command = ["evaluate", str(tmp_path / "model"), "--env", "tril/Text-v0", "--dataset", str(file)]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 2
    assert "has too few examples, 1" in found.output
    assert "--eval-dataset" not in found.output
    assert "test.jsonl" in found.output
