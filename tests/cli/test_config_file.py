"""`--config` and `--show-config`: what a file may hold, what wins, and that a run's own config.yaml repeats the run."""

import json
from dataclasses import fields

import gymnasium as gym
import pytest
import yaml
from click.testing import CliRunner

from tril_gym.cli import main
from tril_gym.cli.run_options import RunOptions
from tril_gym.experiment import RunConfig, agent_type, configure
from tril_gym.experiment.config_file import NO_SETTINGS, config_yaml, configured, read_settings
from tril_gym.registration import LENGTHS

SMALL = {"env": "tril/Toy-v0", "tiny_samples": 0, "num_envs": 4, "eval_examples": 4, "iterations": 2, "threads": 1}


def call(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout if code == 0 else " ".join(result.output.split())


def write(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def figures(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: it for key, it in row.items() if not key.startswith(("time/", "tokens_per"))} for row in rows]


def test_a_runs_own_config_repeats_it(tmp_path):
    file = write(tmp_path / "my.yaml", SMALL | {"learning-rate": 2e-3, "seed": 3})
    call("train", "ppo-pp", "--config", file, "--output-dir", tmp_path / "a")
    call("train", "--config", tmp_path / "a" / "config.yaml", "--output-dir", tmp_path / "b")
    call("train", "ppo-pp", "--config", file, "--output-dir", tmp_path / "c", "--seed", 4)
    assert (tmp_path / "a" / "config.yaml").read_text() == (tmp_path / "b" / "config.yaml").read_text()
    assert figures(tmp_path / "a") == figures(tmp_path / "b")
    assert figures(tmp_path / "a") != figures(tmp_path / "c")
    # It has the lengths of its environment, which are not those of another one.
    saved = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["env_args"]
    lengths = gym.make(SMALL["env"]).metadata["text"]
    assert {name: saved[name] for name in LENGTHS} == {name: lengths[name] for name in LENGTHS}
    assert configured("ppo-pp", tmp_path / "a" / "config.yaml", {"env": "tril/IMDB-v0"}).env_args == {}
    # The same command, when it is started again, continues the run; with another setting it is refused.
    same = ("train", "ppo-pp", "--config", file, "--output-dir", tmp_path / "a", "--resume")
    call(*same)
    assert "--seed is 3" in call(*same, "--seed", 4, code=2)


@pytest.mark.parametrize("algorithm", ["bc", "ppo", "lols"])
def test_shown_settings_are_complete_and_read_back(algorithm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = call(
        "train", algorithm, "--learning-rate", 1e-5, "--lora-rank", 4, "--env-arg", "max_new_tokens=9", "--show-config"
    )
    assert list(tmp_path.iterdir()) == []
    shown = yaml.safe_load(text)
    assert shown["hyperparameters"].keys() == {entry.name for entry in fields(agent_type(algorithm).config_type)}
    assert shown.keys() == {entry.name for entry in fields(RunConfig)} | {"version"}
    assert (shown["lora_alpha"], shown["dataset"]) == (8.0, "embedded")
    assert call("train", algorithm, "--config", write(tmp_path / "x.yaml", text), "--show-config") == text


def test_options_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = write(tmp_path / "x.yaml", {"iterations": 7, "kl_coef": 0.5})
    config = configured("ppo", file, {"iterations": 9})
    assert (config.iterations, config.hyperparameters["kl_coef"]) == (9, 0.5)
    assert config.num_envs == configure("ppo").num_envs
    assert config.hyperparameters["lr_iterations"] == 9  # follows


def test_settings_that_follow_others_do_so_again(tmp_path):
    file = write(tmp_path / "x.yaml", config_yaml(configure("ppo-pp", num_envs=32)))
    config = configured("ppo-pp", file, {"iterations": 99, "num_envs": 16, "env": "tril/IMDB-v0"})
    found = config.hyperparameters
    assert (found["lr_iterations"], found["episodes_per_iteration"]) == (99, 16)
    assert config.reward == {"sentiment": 1.0, "repetition_penalty": 5.0}
    # One that was chosen is kept.
    file = write(tmp_path / "y.yaml", {"iterations": 40, "lr_schedule": "linear", "lr_iterations": 50})
    assert configured("ppo-pp", file, {"iterations": 45}).hyperparameters["lr_iterations"] == 50


def test_schedules_of_cuts_and_lengths_follow_too(tmp_path):
    written = configure("ppo-pp", cut="backward", iterations=40, env_args={"max_new_tokens": 3})
    file = write(tmp_path / "x.yaml", config_yaml(written))
    assert configured("ppo-pp", file, {"iterations": 200}).hyperparameters["cut_iterations"] == 200
    assert configured("ppo-pp", file, {"iterations": 200}).env_args["max_new_tokens"] == 3
    for other in ({"dataset": "other.jsonl"}, {"env_args": {"prompt_template": "{concepts}:"}}):
        assert "max_new_tokens" not in configured("ppo-pp", file, other).env_args  # measured on other texts
    kept = configured("ppo-pp", file, {"dataset": "embedded", "env_args": {"min_new_tokens": 2}}).env_args
    assert kept == {"max_new_tokens": 3, "min_new_tokens": 2}


def test_null_unsets_what_the_preset_sets(tmp_path):
    preset = {"env": "tril/IMDB-v0", "preset": "tril"}
    assert configured("ppo", write(tmp_path / "x.yaml", preset), {}).hyperparameters["top_k"] == 50
    unset = configured("ppo", write(tmp_path / "y.yaml", preset | {"top_k": None}), {})
    assert unset.hyperparameters["top_k"] is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("learning_rat: 1e-3", "x.yaml has the setting 'learning_rat' (did you mean 'learning_rate'?), which ppo"),
        ("rollin_prob: 0.5", "x.yaml has the setting 'rollin_prob', which ppo does not have"),
        ("hyperparameters:\n  gama: 1", "(did you mean 'gamma'?)"),
        ("output_dir: runs/x", "output_dir is no setting of a run; give --output-dir on the command line"),
        ("seed: 1\nseed: 2", "cannot be read as YAML: line 2: seed occurs twice"),
        ("kl-coef: 1\nhyperparameters: {kl_coef: 2}", "has the setting kl_coef twice"),
        ("seed: [", "cannot be read as YAML: line 1"),
        ("just words", "must be lines such as `num_envs: 64`, got a str"),
        ("algorithm: bc", "is for bc, not for ppo"),
        ("version: 0.1.0", "tril-gym 0.1.0 wrote"),
        ("learning_rate: 5", "x.yaml: learning_rate must be in (0, 1], got 5"),
        ("num_envs: null", "x.yaml: num_envs must be a whole number, got None"),
        ("env_args: 3", "env_args must be lines such as"),
        ("adam_betas: 0.9", "x.yaml: adam_betas must be two numbers, got 0.9"),
        ("env_args: {1: 2}", "env_args must be lines such as"),
        ("policy: [tiny]", "x.yaml: policy must be a text that is not empty, got ['tiny']"),
        ("preset: 3", "x.yaml: preset must be a text that is not empty, got 3"),
        ("reward: rougeL", "unknown reward 'rougeL' (did you mean 'rouge_l'?)"),
        ("policy: my_polcy", "no language model could be loaded as 'my_polcy' (did you mean 'my_policy'?)"),
    ],
)
def test_mistakes_are_named(content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_policy").mkdir()
    write(tmp_path / "x.yaml", content)
    assert words in call("train", "ppo", "--config", "x.yaml", "--tiny-samples", 0, code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_policy", "x.yaml"]


def test_a_missing_file_or_algorithm_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run.yaml", "seed: 1")
    assert "there is no file 'rum.yaml' (did you mean 'run.yaml'?)" in call(
        "train", "ppo", "--config", "rum.yaml", code=2
    )
    assert "run.yaml names no algorithm" in call("train", "--config", "run.yaml", code=2)


def test_values_are_those_that_people_write(tmp_path):
    file = write(
        tmp_path / "x.yaml",
        "learning-rate: 1e-5\nmixed_precision: no\ncompile: yes\nreward: [rouge_l, bleu]\nadam_betas: [0.9, 0.95]\n",
    )
    config = configured("ppo", file, {})
    found = config.hyperparameters
    assert (found["learning_rate"], found["mixed_precision"], found["compile"]) == (1e-5, "no", True)
    assert config.reward == {"rouge_l": 1.0, "bleu": 1.0}
    assert read_settings(write(tmp_path / "y.yaml", "")) == {}


def test_code_that_only_the_config_of_a_run_names_is_not_run(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    file = write(run / "config.yaml", {"reward": {"evil.py:f": 1.0}})
    with pytest.raises(ValueError, match=r"names code that would be run.*evil\.py:f"):
        configured("ppo", file, {})
    assert configured("ppo", file, {}, trust_code=True).reward == {"evil.py:f": 1.0}
    assert configured("ppo", write(tmp_path / "mine.yaml", {"reward": "mine.py:f"}), {}).reward == {"mine.py:f": 1.0}


def test_a_secret_is_given_again(tmp_path):
    secret = {"reward": {"mine.py:f": 1.0}, "env_args": {"reward_settings": {"mine.py:f": {"api_key": "abc"}}}}
    file = write(tmp_path / "x.yaml", config_yaml(configure("ppo", **secret)))
    assert "abc" not in file.read_text()
    with pytest.raises(ValueError, match=r"api_key is a secret"):
        configured("ppo", file, {})
    assert configured("ppo", file, secret) == configure("ppo", **secret)


def test_options_without_settings_are_known():
    assert set(NO_SETTINGS) == {entry.name for entry in fields(RunOptions)}
