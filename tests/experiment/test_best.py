"""`best/`: the policy of a run with the highest held-out reward."""

import json
import math

import pytest
from click.testing import CliRunner
from rich.console import Console

from tril_gym.agents import LMPolicy
from tril_gym.cli import main
from tril_gym.experiment import RunConsole, configure, evaluate, held_out, resume, train
from tril_gym.experiment.best import is_better
from tril_gym.experiment.build import build_evaluation

SETTINGS = {
    "env": "tril/Toy-v0",
    "num_envs": 8,
    "eval_examples": 6,
    "learning_rate": 3e-2,
    "lr_schedule": "constant",
    "tiny_samples": 0,
    "iterations": 5,
    "eval_every": 1,
    "save_every": 1,
}


def quiet() -> RunConsole:
    return RunConsole(Console(quiet=True))


def toy_run(folder, **settings):
    train(configure("ppo", **SETTINGS | settings), folder, console=quiet())
    return folder


def best_of(folder) -> dict:
    return json.loads((folder / "best" / "best.json").read_text())


def rewards(folder) -> dict[int, float]:
    """Return the mean greedy held-out reward of each policy by iteration."""
    ends = json.loads((folder / "evaluation.json").read_text())
    rows = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    during = {row["iteration"]: row["metrics"]["greedy"]["reward/mean"] for row in rows}
    before, after = (ends[when]["metrics"]["greedy"]["reward/mean"] for when in ("before", "after"))
    return {0: before} | during | {5: after}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("runs") / "run")


def test_the_highest_reward_is_kept(run):
    found = rewards(run)
    best = best_of(run)
    assert len(set(found.values())) > 1
    assert best["iteration"] == max(found, key=found.get)  # the first of equals
    assert best["reward"] == found[best["iteration"]]
    assert best["examples"] == 6


def test_it_can_be_loaded_and_evaluated(run):
    options = {"env": None, "dataset": None, "split": None, "env_args": {}, "reward": None, "num_envs": 8}
    parts = build_evaluation(str(run), device="cpu", checkpoint="best", **options)
    found = evaluate(parts.policy, parts.envs, seed=0, count=6, ref_policy=parts.ref_policy)
    assert found.metrics["greedy"]["reward/mean"] == pytest.approx(best_of(run)["reward"])
    assert "kl" in found.metrics["sampled"]
    assert LMPolicy.from_pretrained(run / "best").vocab_size == parts.policy.vocab_size


def test_checkpoints_are_compared(run, tmp_path):
    files = {which: tmp_path / f"{which}.json" for which in ("4", "best", "last")}
    for which, file in files.items():
        arguments = ["evaluate", str(run), "--checkpoint", which, "--examples", "6", "--output", str(file)]
        assert f"checkpoint {which}" in " ".join(CliRunner().invoke(main, arguments).output.split())
        assert json.loads(file.read_text())["checkpoint"] == which
    result = CliRunner().invoke(
        main, ["compare", *map(str, files.values()), "--output", str(tmp_path / "compared.json")]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "compared.json").read_text())
    assert [row["greedy"]["mean"] for row in rows] == [rewards(run)[n] for n in (4, best_of(run)["iteration"], 5)]


def test_without_evaluations_there_is_none(tmp_path):
    folder = toy_run(tmp_path / "run", eval_every=0, iterations=1)
    assert not (folder / "best").exists()
    result = CliRunner().invoke(main, ["evaluate", str(folder), "--checkpoint", "best"])
    assert result.exit_code == 2
    assert "has no best policy; runs with --eval-every keep one" in result.output


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("first", "use last, best, or the number of an iteration, got 'first'"),
        ("77", "no checkpoint 77; there are 4, 5"),
    ],
)
def test_unknown_checkpoints(run, value, message):
    result = CliRunner().invoke(main, ["evaluate", str(run), "--checkpoint", value])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_checkpoint_of_a_model(tmp_path):
    result = CliRunner().invoke(main, ["evaluate", "gpt2", "--env", "tril/Toy-v0", "--checkpoint", "best"])
    assert result.exit_code == 2
    assert "--checkpoint best is for a run, and gpt2 is no run folder" in result.output


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_run_that_fails_while_it_is_saved(run, tmp_path, monkeypatch, fails_at):
    """Whichever of its savings fails, the resumed run has the best policy of one that never failed."""
    calls, save = [], held_out.save_best

    def failing(*parts):
        calls.append(parts)
        if len(calls) == fails_at:
            raise OSError("no space left")
        save(*parts)

    monkeypatch.setattr(held_out, "save_best", failing)
    try:
        toy_run(tmp_path / "run")
    except OSError:
        resume(tmp_path / "run", console=quiet())
    assert best_of(tmp_path / "run") == best_of(run)
    assert len(calls) > 1


def test_a_run_that_goes_back_to_an_older_checkpoint(run, tmp_path):
    folder = toy_run(tmp_path / "run", iterations=3)
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    next(newest.glob("learner.pt")).write_bytes(b"damaged")
    resume(folder, iterations=5, console=quiet())
    assert best_of(folder) == best_of(run)


@pytest.mark.parametrize(
    ("reward", "best", "better"),
    [
        (0.5, None, True),
        (0.5, {"reward": 0.4}, True),
        (0.5, {"reward": 0.5}, False),
        (math.nan, {"reward": -1.0}, False),
        (-1.0, {"reward": None}, True),  # a file has null for NaN
    ],
)
def test_better(reward, best, better):
    assert is_better(reward, best) == better
