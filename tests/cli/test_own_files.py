"""`FILE.py:function` and `FILE.py:Class`: what is one's own from a file, and what mistakes say."""

import json
import sys

import gymnasium as gym
import numpy as np
import pytest
from click.testing import CliRunner

from tril_gym import rewards
from tril_gym.agents import PPOConfig
from tril_gym.cli import main
from tril_gym.experiment import configure, resume
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


ALGORITHM = """
from dataclasses import dataclass
from tril_gym.agents import PPO, PPOConfig, Agent, Plan, References, config_field

@dataclass(frozen=True, kw_only=True)
class HeadStartConfig(PPOConfig):
    head_start_prob: float = config_field(0.5, "Probability of a head start", minimum=0, maximum=1)

class HeadStart(PPO):
    '''Head start: references begin some texts.'''
    name, config_type = "head-start", HeadStartConfig

    def plan(self, iteration):
        return Plan(rollin=References(), rollin_prob=self.config.head_start_prob, rollout=self.policy)

class Alone(Agent):
    name, config_type = "alone", PPOConfig

    def plan(self, iteration):
        return Plan(rollout=self.policy)

class NoPlan(Agent):
    name = "no-plan"
"""


class TestAlgorithm:
    @pytest.fixture
    def named(self, file):
        """The file of an algorithm, and its name."""
        path = file.with_name("my-algorithms.py")
        path.write_text(ALGORITHM)
        yield f"{path}:HeadStart"
        sys.modules.pop("my-algorithms", None)

    @pytest.fixture
    def run(self, named, tmp_path):
        """The folder of a run of one iteration."""
        call("train", named, *SMALL, "--lr-schedule", "constant", "--output-dir", tmp_path / "run")
        return tmp_path / "run"

    def test_its_fields_are_options(self, named, tmp_path):
        text = call("train", named, "--help")
        assert "Head start: references begin some texts." in text
        assert "--head-start-prob FLOAT Probability of a head start [in [0, 1]; default: 0.5]" in text
        assert "--head-start-prob must be in [0, 1], got 2.0" in call("train", named, "--head-start-prob", 2, code=2)
        call("train", named, *SMALL, "--head-start-prob", 1, "--output-dir", tmp_path / "all")
        call("train", named, *SMALL, "--head-start-prob", 0, "--output-dir", tmp_path / "none")
        shares = [rows_of(tmp_path / name)[0].get("rollin/share", 0) for name in ("all", "none")]
        assert shares == [1, 0]

    def test_it_has_the_presets_of_the_algorithm_that_it_extends(self, named):
        own, ppo = configure(named).hyperparameters, configure("ppo").hyperparameters
        assert own == ppo | {"head_start_prob": 0.5}
        alone = configure(named.replace("HeadStart", "Alone")).hyperparameters
        assert alone["learning_rate"] == PPOConfig().learning_rate != ppo["learning_rate"]

    def test_a_resumed_run_is_the_same(self, named, run, tmp_path):
        two = (*SMALL[:-1], 2, "--lr-schedule", "constant")
        call("train", named, *two, "--output-dir", tmp_path / "whole")
        call("train", named, "--iterations", 2, "--resume", "--output-dir", run)
        whole, resumed = rows_of(tmp_path / "whole"), rows_of(run)
        assert [row["policy/loss"] for row in resumed] == [row["policy/loss"] for row in whole]
        assert len(whole) == 2
        assert f"is a run of {named}, not of ppo" in call("train", "ppo", "--resume", "--output-dir", run, code=2)

    def test_code_that_only_a_file_names_is_not_run(self, named, run, tmp_path, monkeypatch):
        monkeypatch.setattr("tril_gym.experiment.algorithms.resolve_function", None)
        refused = f"names code that would be run, algorithm {named}"
        text = call("evaluate", run, "--examples", 4, code=2)
        assert refused in text
        assert "add --trust-code, or give it as the first argument of train" in text
        config = run / "config.yaml"
        assert refused in call("train", "--config", config, "--output-dir", tmp_path / "new", code=2)
        with pytest.raises(ValueError, match="names code that would be run"):
            resume(run)
        # These read settings only.
        call("sample", run, "a prompt")
        call("export", run, tmp_path / "exported")
        call("compare", run, run)

    def test_trusted_code_is_run(self, run, tmp_path):
        assert "reward/mean" in call("evaluate", run, "--examples", 4, "--trust-code")
        call("train", "--config", run / "config.yaml", "--trust-code", "--output-dir", tmp_path / "new")
        losses = [rows_of(folder)[0]["policy/loss"] for folder in (run, tmp_path / "new")]
        assert losses[0] == losses[1]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ((":HeadStart", ""), "my-algorithms.py is a file without a class; write"),
            (("HeadStart", "HeadStar"), "has no class of the name HeadStar (did you mean 'HeadStart'?)"),
            (("HeadStart", "NoPlan"), "must be a class that extends tril_gym.agents.Agent"),
            (("HeadStart", "dataclass"), "must be a class that extends tril_gym.agents.Agent"),
            (("my-algorithms", "my-algorithm"), "there is no file"),
        ],
    )
    def test_mistakes_are_explained(self, named, change, words):
        assert words in call("train", named.replace(*change), code=2)


def rows_of(run):
    """Return the metrics of each iteration."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


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
