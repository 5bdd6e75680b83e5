"""The command line: help, a complete run, resuming and evaluating it, and a message for every mistake."""

import json
import re
import shutil
from dataclasses import fields

import pytest
from click.testing import CliRunner

from tril_gym.cli import main
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type
from tril_gym.experiment.run_folder import RunFolder
from tril_gym.experiment.verdict import duration

SMALL = ["--tiny-samples", "64", "--num-envs", "8", "--eval-examples", "8", "--iterations", "2"]
CONSTANT = ["--lr-schedule", "constant"]  # so that a run can be extended
TIMES = re.compile(r"^time/|tokens_per_second")


def call(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not TIMES.search(name)} for row in rows]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two iterations."""
    folder = tmp_path_factory.mktemp("runs") / "ppo"
    lines = call("train", "ppo", *SMALL, "--output-dir", folder).splitlines()
    assert lines[-1] == json.loads((folder / "evaluation.json").read_text())["verdict"]["sentence"]
    return folder


def test_help_of_every_command():
    assert "train" in call("--help")
    for name in ALGORITHMS:
        assert name in call("train", "--help")
        text = call("train", name, "--help")
        for config_field in fields(agent_type(name).config_type):
            assert f"--{config_field.name.replace('_', '-')}" in text
    assert "--split" in call("evaluate", "--help")


def test_help_lists_only_settings_of_the_algorithm():
    assert "--rollin-prob" in call("train", "ppo-pp", "--help")
    assert "--rollin-prob" not in call("train", "ppo", "--help")
    assert "--clip-range" not in call("train", "bc", "--help")


def test_list_names_everything():
    text = call("list")
    for name in ("tril/CommonGen-v0", "ppo-pp", "cider_d", "embedded"):
        assert name in text
    assert "tril/" not in call("list", "rewards")


def test_list_shows_the_settings_of_a_reward():
    text = call("list", "rewards", "number_match")
    assert "Needs references" in text
    assert "Settings, --reward-arg number_match.NAME=VALUE" in text
    assert "tolerance" in text
    assert "[default: last]" in text
    assert "Settings" not in call("list", "rewards", "cider_d")
    assert "did you mean 'rouge_l'?" in call("list", "rewards", "rouge_k", code=2)


def test_files_of_a_run_folder(run):
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.yaml", "words.json", "metrics.jsonl", "samples.jsonl", "evaluation.json", "curve.png", "reward",
        "checkpoints", "policy", "best",
    }  # fmt: skip
    assert RunFolder(run).read_config()["hyperparameters"]["critic"] == "separate"
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")] == []
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["verdict"]["kl"] == evaluation["after"]["metrics"]["sampled"]["kl"]
    for when in ("before", "after"):
        assert {"greedy", "sampled"} == set(evaluation[when]["metrics"])
        assert len(evaluation[when]["samples"]) == 3
        for decoding in ("greedy", "sampled"):
            found, intervals = evaluation[when]["metrics"][decoding], evaluation[when]["intervals"][decoding]
            assert sum(evaluation[when]["rewards"][decoding]) / 8 == pytest.approx(found["reward/mean"])
            for name in ("text/repetition", "text/ended", "text/unknown_words"):
                assert 0 <= intervals[name][0] <= found[name] <= intervals[name][1] <= 1
    assert evaluation["before"]["metrics"]["sampled"]["kl"] == pytest.approx(0, abs=1e-4)
    rows = metrics(run)
    assert [row["iteration"] for row in rows] == [1, 2]
    assert rows[0]["policy/ratio_error"] < 1e-4
    assert {"score/cider_d", "score/concept_coverage", "kl", "critic/loss", "grad_norm/policy"} <= set(rows[0])


def test_the_same_seed_gives_the_same_metrics(run, tmp_path):
    call("train", "ppo", *SMALL, "--output-dir", tmp_path / "again")
    assert metrics(tmp_path / "again") == metrics(run)
    call("train", "ppo", *SMALL, "--seed", 1, "--output-dir", tmp_path / "other")
    assert metrics(tmp_path / "other") != metrics(run)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    run, folder = tmp_path / "whole", tmp_path / "stopped"
    call("train", "ppo", *SMALL, *CONSTANT, "--output-dir", run)
    call("train", "ppo", *SMALL, *CONSTANT, "--output-dir", folder, "--iterations", 1)
    # lines of iterations after the last checkpoint must be replaced
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 2}\n{"iter')
    call("train", "ppo", "--output-dir", folder, "--resume", "--iterations", 2)
    assert metrics(folder) == metrics(run)
    ends = [json.loads((place / "evaluation.json").read_text()) for place in (folder, run)]
    for end in ends:
        assert end["verdict"].pop("sentence").endswith(f"in {duration(end['verdict'].pop('seconds'))}")
    assert ends[0] == ends[1]


def test_other_settings_are_refused_on_resume(run):
    assert "--num-envs is 8" in call("train", "ppo", "--output-dir", run, "--resume", "--num-envs", 9, code=2)
    assert "a run of ppo, not of bc" in call("train", "bc", "--output-dir", run, "--resume", code=2)


def test_evaluation_is_reproducible(run, tmp_path):
    files = [tmp_path / "first.json", tmp_path / "second.json"]
    for file in files:
        call("evaluate", run, "--examples", 8, "--output", file)
    assert files[0].read_bytes() == files[1].read_bytes()
    found = json.loads(files[0].read_text())["metrics"]
    assert found["greedy"]["examples"] == 8
    call("evaluate", run, "--examples", 8, "--seed", 1, "--output", tmp_path / "other.json")
    assert json.loads((tmp_path / "other.json").read_text())["metrics"]["sampled"] != found["sampled"]


def test_evaluate_repeats_the_evaluation_of_the_run(run, tmp_path):
    """The same policy and the same document frequencies give the same metrics."""
    call("evaluate", run, "--split", "validation", "--examples", 8, "--output", tmp_path / "it.json")
    ours = json.loads((tmp_path / "it.json").read_text())["metrics"]["greedy"]
    assert ours == json.loads((run / "evaluation.json").read_text())["after"]["metrics"]["greedy"]


def test_the_policy_of_a_run_loads_as_a_model(run, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(sorted((run / "checkpoints").iterdir())[-1] / "policy", model)
    call("evaluate", model, "--env", "tril/CommonGen-v0", "--examples", 4)
    call("train", "bc", "--policy", model, *SMALL, "--output-dir", tmp_path / "bc")


def test_a_single_file_holds_examples_out(tmp_path):
    data = tmp_path / "mine.jsonl"
    rows = [{"concepts": [f"dog{i}", "run", "park"], "references": [f"dog{i} runs in the park."]} for i in range(100)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = call("train", "ppo", "--dataset", data, *SMALL, "--output-dir", tmp_path / "run")
    assert re.search(r"held out: \d+ of the 100 examples", text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nope"], ["nope", "ppo-pp"]),
        (["train", "ppo", "--lr", "1"], ["--lr"]),
        (["train", "ppo", "--clip-range", "3"], ["--clip-range", "3", "0.2"]),
        (["train", "ppo", "--env", "tril/Nope-v0"], ["Nope", "tril/IMDB-v0"]),
        (["train", "ppo", "--dataset", "no/such"], ["no/such", "embedded"]),
        (["train", "ppo", "--eval-dataset", "no/such"], ["no/such"]),
        (["train", "ppo", "--reward", "nope"], ["nope", "rouge_l"]),
        (["train", "ppo", "--reward", "rouge_l:much"], ["much", "rouge_l:0.5"]),
        (["train", "ppo", "--policy", "no/such"], ["no/such", "tiny"]),
        (["train", "ppo", "--guide", "tiny"], ["without a guide"]),
        (["train", "ppo", "--preset", "nope"], ["nope", "embedded"]),
        (["train", "ppo", "--env-arg", "bogus=1"], ["bogus", "max_new_tokens"]),
        (["train", "ppo", "--env-arg", "bogus"], ["name=value"]),
        (["train", "ppo", "--reward", "sentiment"], ["sentiment", "label"]),
        (["train", "ppo", "--track", "nope"], ["nope"]),
        (["train", "ppo", "--device", "nope"], ["no device 'nope'", "cpu"]),
        (["train", "ppo", "--learning-rate", "nan"], ["--learning-rate must be finite"]),
        (["evaluate", "no/such", "--env", "tril/IMDB-v0", "--device", "nope"], ["no device 'nope'"]),
        (["train", "ppo", "--resume"], ["--output-dir"]),
        (["train", "ppo", "--iterations", "0"], ["--iterations must be at least 1"]),
        (["train", "ppo-pp", "--rollin-prob", "2"], ["--rollin-prob", "2"]),
        (["evaluate", "no/such"], ["no/such", "--env"]),
        (["evaluate", "no/such", "--env", "tril/IMDB-v0"], ["no/such"]),
    ],
)
def test_wrong_options_give_a_message_and_no_files(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "train":
        arguments = [*arguments, "--tiny-samples", "64"]
    text = call(*arguments, code=2)
    assert all(word in text for word in words), text
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


def test_a_bad_column_is_named(tmp_path):
    data = tmp_path / "mine.jsonl"
    data.write_text('{"words": ["dog"], "references": ["a dog."]}\n')
    text = call("train", "ppo", "--dataset", data, "--output-dir", tmp_path / "run", code=2)
    assert "concepts" in text
    assert "line 1" in text
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused(run):
    assert "--resume" in call("train", "ppo", *SMALL, "--output-dir", run, code=2)


def test_profile_is_printed_at_the_end(tmp_path):
    few = ["--iterations", "2", "--num-envs", "4", "--eval-examples", "2", "--tiny-samples", "0", "--epochs", "1"]
    done = CliRunner().invoke(main, ["train", "ppo", *few, "--profile", "--output-dir", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "time and memory of an iteration" in done.output
    assert "sampling: policy and guide write" in done.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all("memory/learn" in row for row in rows)


@pytest.mark.parametrize(("algorithm", "shown"), [("ppo", True), ("dpo", True), ("raft", True), ("bc", False)])
def test_the_help_has_the_bound_of_every_algorithm_that_warns_of_its_kl(algorithm, shown):
    assert ("--kl-warning" in CliRunner().invoke(main, ["train", algorithm, "--help"]).output) == shown


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """Return a folder that the commands take for a run."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a run"
    folder.mkdir()
    (folder / "config.yaml").write_text("version: 0.2.0\nalgorithm: ppo\nenv: tril/Toy-v0\n")
    (folder / "evaluation.json").write_text('{"before": {}, "after": null}')
    return folder


@pytest.mark.parametrize("name", ["evaluation.json", "config.yaml", "metrics.jsonl"])
@pytest.mark.parametrize("option", ["--output", "--per-example"])
def test_an_output_does_not_replace_a_file_of_a_run(unfinished, option, name):
    before = {path.name: path.read_bytes() for path in unfinished.iterdir()}
    output = call("evaluate", unfinished, option, unfinished / name, code=2)
    assert "would replace a file of the run" in " ".join(output.split())
    assert {path.name: path.read_bytes() for path in unfinished.iterdir()} == before


def test_two_outputs_are_two_files(unfinished):
    output = call("evaluate", unfinished, "--output", "x.json", "--per-example", "./x.json", code=2)
    assert "both name x.json; name two files" in output


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("evaluate nowhere --env tril/Toy-v0 --output", "x.json"),
        ("evaluate nowhere --env tril/Toy-v0 --per-example", "x.jsonl"),
        ("compare one two --output", "x.json"),
        ("plot one --output", "x.png"),
    ],
)
def test_an_output_in_a_forbidden_folder_is_found_at_once(command, file, forbidden):
    output = call(*command.split(), forbidden / file, code=2)
    assert "is no folder that you may write to" in " ".join(output.split())
