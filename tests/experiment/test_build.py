"""What a new run checks before it takes time: device, tracker, reward, guide, adapters, references."""

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tril_gym.agents import tiny
from tril_gym.cli import main
from tril_gym.experiment import configure, train, training_words
from tril_gym.experiment.build import build_evaluation, build_run
from tril_gym.experiment.config import RunConfig
from tril_gym.experiment.environments import make_envs
from tril_gym.experiment.run_data import training_data
from tril_gym.utils.console_modes import QuietConsole
from tril_gym.utils.devices import check_device
from tril_gym.wrappers.vector import base_attribute

FUNCTIONS = """
def one_short(prompts, completions, references, extras):
    return [0.5] * (len(completions) - 1) if len(completions) > 1 else [0.5]

def broken(prompts, completions, references, extras):
    raise KeyError("stars")

def numbers(prompts, completions):
    return [1.0] * len(prompts)

def words(texts):
    return [float(len(text.split())) for text in texts]
"""


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.py").write_text(FUNCTIONS)
    (tmp_path / "unfinished.py").write_text("def f(:\n")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "train.jsonl").write_text('{"concepts": ["dog"], "references": ["a dog."]}\n')
    before = {path.name for path in tmp_path.iterdir()}
    yield tmp_path
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "cuda"], "no device 'cuda'"),
        (["--device", "mps"], "no device 'mps'"),
        (["--device", "meta"], "no device 'meta'"),
        (["--device", ""], "--device must be a text that is not empty"),
        (["--track", "foo"], "tracker 'foo' is not installed"),
        (["--reward", "own:one_short"], "for 3 texts"),
        (["--reward", "own:broken"], "stars"),
        (["--guide", "no/such"], "no/such"),
        (["--guide", "own:missing"], "no function of the name missing"),
        (["--guide", "own:words"], "--guide own:words fails on first texts: the guide own.words raised TypeError"),
        (["--guide", "own:numbers"], "must return strings, got 1.0 as text 0"),
        (["--reward", "unfinished:f"], "unfinished cannot be imported: SyntaxError"),
        (["--env", "unfinished:Own-v0"], "--env unfinished:Own-v0 is module:id, but unfinished cannot be imported"),
        (["--env", "CartPole-v1"], "CartPole-v1 cannot be created with autoreset_mode"),
        (
            ["--env-arg", "max_new_tokens=10000000000"],
            "max_new_tokens must be a whole number of at least 1 and at most",
        ),
        (["--preset", ""], "unknown preset"),
        (["--dataset", ""], "--dataset must be a text that is not empty"),
        (["--dataset", "half"], "half has no validation split to evaluate on; add a file validation.jsonl"),
        (["--lora-rank", "4", "--lora-targets", "nope"], "nope"),
        (["--env-arg", "split=test"], "--env-arg split=test would override what the run chooses"),
        (["--critic", "adapter"], "LoRA"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a device that is refused here")
def test_mistakes_are_found_before_pretraining(arguments, words, in_folder, monkeypatch):
    def pretrain(*args, **settings):
        raise AssertionError("pretraining has begun")

    monkeypatch.setattr(tiny, "_pretrained", pretrain)
    result = CliRunner().invoke(main, ["train", "ppo-pp", "--num-envs", "4", *arguments])
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_without_a_mistake_pretraining_begins(in_folder, monkeypatch):
    """The check above can fail: valid settings reach the pretraining."""
    monkeypatch.setattr(tiny, "_pretrained", lambda *args: 1 / 0)
    result = CliRunner().invoke(main, ["train", "ppo-pp", "--num-envs", "4"])
    assert result.exit_code == 1
    assert "ZeroDivisionError" in result.output


def test_a_device_without_float64_is_refused(monkeypatch):
    """Such as mps: token probabilities are summed in float64."""

    def ones(*shape, dtype, device):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(ValueError, match="'mps' has no float64, in which token probabilities are summed"):
        check_device("mps")


def test_rewards_are_tried_out_on_the_examples_to_learn_from(tmp_path):
    """The 4 examples that 40 rows hold out are too few to fit a reward to."""
    rows = [{"concepts": [f"dog{i}", "run"], "references": [f"dog{i} runs in the park."]} for i in range(40)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = ["--num-envs", "4", "--eval-examples", "4", "--iterations", "1", "--tiny-samples", "0", "--epochs", "1"]
    arguments = ["train", "ppo", "--dataset", str(tmp_path / "mine.jsonl"), *few, "--output-dir", str(tmp_path / "run")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "of the 40 examples" in result.output
    assert np.isfinite(json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["reward/mean"])


REVIEWS = [{"text": f"film {i} was good and long", "label": i % 2} for i in range(40)]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(("shared", "words"), [(0, "10 prompts, none of them"), (4, "10 prompts, 4 of them")])
def test_shared_prompts_of_the_held_out_part_are_counted(shared, words, tmp_path, caplog):
    train = write_rows(tmp_path / "train.jsonl", REVIEWS[:20])
    other = write_rows(tmp_path / "other.jsonl", REVIEWS[20 - shared : 30 - shared])
    config = RunConfig(algorithm="ppo", env="tril/IMDB-v0", dataset=train, eval_dataset=other)
    description = training_data(config)[2]
    assert description.endswith(f"{words} in the training part")
    assert ("4 of the 10 held-out prompts are also in the training part" in caplog.text) == bool(shared)


def test_a_held_out_part_by_hash_shares_no_prompt(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", REVIEWS + REVIEWS)
    data, held_out, description = training_data(RunConfig(algorithm="ppo", env="tril/IMDB-v0", dataset=train))
    assert "none of them in the training part" in description
    assert len(data["dataset"]) + len(held_out["dataset"]) == 80
    assert held_out["dataset"].held_out
    assert not data["dataset"].held_out


def test_a_run_is_evaluated_on_the_data_set_that_is_named(tmp_path):
    own, held_out, other = (
        write_rows(tmp_path / f"{name}.jsonl", [{"prompt": f"{name} {n}", "completion": "yes"} for n in range(count)])
        for name, count in (("own", 40), ("held_out", 2), ("other", 20))
    )
    settings = {"env": "tril/Text-v0", "reward": {"chrf": 1.0}, "num_envs": 2, "tiny_samples": 0, "iterations": 1}
    config = configure("ppo", dataset=own, eval_dataset=held_out, env_args={"max_new_tokens": 2}, **settings)
    train(config, tmp_path / "run", console=QuietConsole())
    options = {"env": None, "split": None, "env_args": {}, "reward": None, "num_envs": 2, "device": "cpu"}
    assert build_evaluation(str(tmp_path / "run"), dataset=None, **options).description == f"all of {held_out}"
    parts = build_evaluation(str(tmp_path / "run"), dataset=other, **options)
    assert parts.description == f"all of {other}"
    assert all(prompt.startswith("other") for prompt in base_attribute(parts.envs, "examples").prompts())
    assert base_attribute(parts.envs, "examples_to_fit")()[0].prompt == "own 0"  # rewards are fitted to the run's data
    same = str(tmp_path / "run" / ".." / "own.jsonl")
    with pytest.raises(ValueError, match=r"the run learned from all of .*own\.jsonl, so none of it is held out"):
        build_evaluation(str(tmp_path / "run"), dataset=same, **options)
    train(replace(config, eval_dataset=None), tmp_path / "other", console=QuietConsole())
    parts = build_evaluation(str(tmp_path / "other"), dataset=same, **options)
    assert "of the 40 examples of" in parts.description  # those that training held out


@pytest.mark.parametrize("has_other", [False, True], ids=["held out", "eval_dataset"])
def test_what_is_evaluated_on_is_not_what_rewards_are_fitted_to(tmp_path, has_other):
    rows = [{"prompt": f"own {n}", "completion": "yes"} for n in range(40)]
    own, other = (
        write_rows(tmp_path / name, rows[part]) for name, part in (("a.jsonl", slice(40)), ("b.jsonl", slice(3)))
    )
    config = configure(
        "ppo", env="tril/Text-v0", reward={"chrf": 1.0}, dataset=own, eval_dataset=other if has_other else None
    )
    learned, held_out, _ = training_data(config)
    envs = make_envs(replace(config, num_envs=2), held_out, None)
    fitted = [example.prompt for example in base_attribute(envs, "examples_to_fit")()]
    evaluated = [example.prompt for example in base_attribute(envs, "examples")]
    assert len(fitted) == (40 if has_other else len(learned["dataset"]))
    assert len(evaluated) == (3 if has_other else 40 - len(fitted))
    assert has_other or not set(fitted) & set(evaluated)


class TestPretrainShare:
    """Tiny models are pretrained on a share of the prompts, and training has the others."""

    ROWS: ClassVar = [
        {"concepts": [f"dog{i}", "run"], "references": [f"dog{i} runs in the park.", f"the dog{i} runs."]}
        for i in range(60)
    ]
    FEW: ClassVar = {"num_envs": 4, "tiny_samples": 8, "iterations": 1, "eval_examples": 4}

    def components(self, tmp_path, **settings):
        rows = settings.pop("rows", self.ROWS)
        data = write_rows(tmp_path / "mine.jsonl", rows)
        return build_run(configure("ppo", dataset=data, **self.FEW | settings))

    def test_training_has_the_other_prompts(self, tmp_path, monkeypatch):
        imitated = []
        gather = tiny.gather_references

        def spy(envs, *arguments, **keywords):
            imitated.append(set(base_attribute(envs, "examples").prompts()))
            return gather(envs, *arguments, **keywords)

        monkeypatch.setattr(tiny, "gather_references", spy)
        found = self.components(tmp_path, pretrain_share=0.5)
        learned = set(base_attribute(found.envs, "examples").prompts())
        held_out = set(found.eval_env_kwargs["dataset"].prompts())
        assert learned
        assert imitated
        for prompts in imitated:
            assert prompts
            assert prompts.isdisjoint(learned | held_out)
            assert len(prompts | learned | held_out) == 60
        # Tokenizer, rewards and known words are of all that may be learned from.
        assert len(base_attribute(found.envs, "train_examples")()) == 60 - len(held_out)
        assert any(word in training_words(found.envs) for word in ("dog0", "dog1", "dog2", "dog3"))
        assert len(training_words(found.envs)) >= 60 - len(held_out)

    def test_its_seconds_end_it(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRIL_GYM_CACHE", str(tmp_path / "cache"))
        seconds = []
        monkeypatch.setattr(tiny, "_pretrain", lambda policy, texts, settings, title: seconds.append(settings.seconds))
        self.components(tmp_path, pretrain_seconds=7.0)
        self.components(tmp_path)
        assert seconds == [7.0, None]

    def test_all_prompts_by_default(self, tmp_path):
        found = self.components(tmp_path)
        assert found.config.pretrain_share == 1
        assert len(base_attribute(found.envs, "examples")) == len(base_attribute(found.envs, "train_examples")())

    def test_without_references_training_has_all_prompts(self, tmp_path, caplog):
        rows = [row | {"references": []} for row in self.ROWS]
        found = self.components(tmp_path, pretrain_share=0.5, rows=rows, reward={"concept_coverage": 1.0})
        assert (found.config.pretrain_share, found.config.tiny_samples) == (1, 0)
        assert len(base_attribute(found.envs, "examples")) == len(base_attribute(found.envs, "train_examples")())
        assert caplog.text.count("has no references, so tiny models begin with random weights") == 1

    def test_a_policy_that_is_not_pretrained_has_no_share(self):
        with pytest.raises(ValueError, match=r"--pretrain-share 0\.5 is for tiny policies that are pretrained"):
            configure("ppo", policy="some-model", pretrain_share=0.5)
        with pytest.raises(ValueError, match=r"--pretrain-share 0\.5 is for tiny policies"):
            configure("ppo", tiny_samples=0, pretrain_share=0.5)
        with pytest.raises(ValueError, match=r"creates its own examples, so --pretrain-share 0\.5 has no data"):
            training_data(configure("ppo", env="tril/Toy-v0", tiny_samples=8, pretrain_share=0.5))


def test_bad_rows_of_a_single_file_may_be_skipped(tmp_path):
    train = write_rows(tmp_path / "train.jsonl", [*REVIEWS, {"text": "no label here"}])
    config = RunConfig(algorithm="ppo", env="tril/IMDB-v0", dataset=train)
    with pytest.raises(ValueError, match="line 41"):
        training_data(config)
    assert "40 examples" in training_data(replace(config, env_args={"on_bad_row": "skip"}))[2]
