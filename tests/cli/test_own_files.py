"""`FILE.py:function`: rewards, metrics and guides of one's own from a file; and what mistakes say."""

import json
import sys

import gymnasium as gym
import numpy as np
import pytest
from click.testing import CliRunner

from tril_gym import rewards
from tril_gym.cli import main
from tril_gym.experiment.trust import check_trusted
from tril_gym.utils.user_code import is_function_name, resolve_function

MINE = """
def length(completions):
    return [float(len(text)) for text in completions]

def repeat(prompts, completions):
    return ["a" for _ in prompts]

constant = 3
"""
SMALL = ("--tiny-samples", "0", "--num-envs", "4", "--eval-examples", "4", "--iterations", "1")


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file in a folder that is neither the current one nor on Python's path."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "elsewhere" / "my-scores.py"
    path.parent.mkdir()
    path.write_text(MINE)
    yield path
    sys.modules.pop("my-scores", None)


def call(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return " ".join(result.output.split())


def test_reward_guide_and_metric(file, tmp_path):
    run = tmp_path / "run"
    call("train", "ppo-pp", *SMALL, "--reward", f"{file}:length:0.5", "--guide", f"{file}:repeat", "--output-dir", run)
    row = json.loads((run / "metrics.jsonl").read_text())
    assert row["reward/mean"] == pytest.approx(0.5 * row["score/length"], rel=1e-6)
    text = call("evaluate", run, "--examples", 4, "--metrics", f"{file}:length", code=2)
    assert f"names code that would be run, --reward {file}:length" in text
    assert "metric/length" in call("evaluate", run, "--examples", 4, "--metrics", f"{file}:length", "--trust-code")


def test_scores_in_other_processes(file):
    name = f"{file}:length"
    envs = gym.make_vec("tril/Toy-v0", 2, reward=name, reward_settings={name: {"workers": 1}}, max_new_tokens=2)
    try:
        envs.reset(seed=0)
        steps = [envs.step(np.array([5, 6])) for _ in range(2)]
    finally:
        envs.close()
    assert (steps[1][1] > 0).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{folder}/my-score.py:length", "there is no file .*did you mean .*my-scores.py"),
        ("{folder}/my-scores.py:lenght", "no function of the name lenght .did you mean 'length'"),
        ("{folder}/my-scores.py:constant", "is not a function"),
        ("{folder}/broken.py:f", "broken.py cannot be imported: SyntaxError"),
        ("{folder}/json.py:f", "a module of this name is .*rename the file"),
    ],
)
def test_mistakes_are_explained(file, name, words):
    (file.parent / "broken.py").write_text("def f(:\n")
    (file.parent / "json.py").write_text("def f(): pass\n")
    with pytest.raises(ValueError, match=words):
        rewards.load(name.format(folder=file.parent))


def test_forms_of_names(file):
    assert is_function_name("my_scores:length")
    assert is_function_name("../folder with spaces/my-scores.py:length")
    assert not is_function_name("owner/model:branch")
    assert not is_function_name(str(file))
    assert resolve_function(f"{file}:length", option="reward")(["ab"]) == [2.0]


def test_a_file_in_a_run_folder_is_code():
    with pytest.raises(ValueError, match="names code that would be run"):
        check_trusted({"guide": "../x-y.py:f"}, {}, where="config.yaml", trust_code=False)
