"""Runs of several processes in one folder: what they leave, and how they are continued by another number of them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from doubles import metrics_of
from run_commands import SIZES, clean, forked, resume, train
from safetensors.torch import load_file

from tril_gym.cli import main
from tril_gym.experiment.checkpoints import damage_of
from tril_gym.experiment.run_folder import RunFolder


def here(command: list[str]) -> None:
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def same(found: Path, expected: Path, *, tolerance: float = 1e-4) -> None:
    assert len(metrics_of(found)) == len(metrics_of(expected)) > 0
    for mine, theirs in zip(metrics_of(found), metrics_of(expected), strict=True):
        assert mine == pytest.approx(theirs, rel=tolerance, abs=tolerance, nan_ok=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one process, of two, of one, two and one in turn, and of two with sharded models and then one."""
    folder = tmp_path_factory.mktemp("runs")
    one, two, turns, sharded = (folder / name for name in ("one", "two", "turns", "sharded"))
    here(train(one, 3))
    here(train(turns, 1))
    here(default_run(folder / "embedded-one", 3, "float64", *SMALL))
    said = forked(
        (2, train(two, 3)),
        (2, resume(turns, 2)),
        (2, train(sharded, 2, "--shard-models")),
        (2, default_run(folder / "embedded-two", 3, "float64", *SMALL)),
        (2, train(folder / "refused", 1, "--num-envs", 7)),
        code=2,
    )
    (folder / "said.txt").write_text(said)
    here(resume(turns, 3))
    here(resume(sharded, 3))
    return one, two, turns, sharded


def reward_model(folder: Path, *more: object) -> list[str]:
    """A reward model on 24 pairs, 3 batches of 8 unless `more` says otherwise; the other two of 26 are held out."""
    pairs = folder.parent / "pairs.jsonl"
    rows = [
        {"prompt": f"say {n}", "chosen": "good " * (1 + n % 5), "rejected": "bad " * (1 + n % 3)} for n in range(26)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["train", "reward-model", "--dataset", pairs, "--epochs", 2, "--drop-tokens", 0, "--batch-size", 8]
    command += ["--learning-rate", 2e-3]
    return [str(part) for part in [*command, "--output-dir", folder, *more]]


class TestRunsOfTwo:
    def test_the_folder_is_that_of_one_process(self, runs):
        one, two, *_ = runs
        assert files(two) == files(one)
        same(two, one)
        assert (two / "samples.jsonl").read_text() == (one / "samples.jsonl").read_text()
        assert (two / "config.yaml").read_text() == (one / "config.yaml").read_text()
        for name in ("before", "after"):
            mine, theirs = (RunFolder(folder).read_json("evaluation.json")[name]["rewards"] for folder in (two, one))
            assert mine == theirs

    def test_another_number_of_processes_may_continue(self, runs):
        one, _, turns, _ = runs
        same(turns, one)

    def test_one_process_may_continue_what_two_shared(self, runs):
        one, *_, sharded = runs
        assert files(sharded) == files(one)
        same(sharded, one)


SMALL = ["--tiny-samples", 60, "--eval-every", 0, "--save-every", 1, *SIZES]


def default_run(folder: Path, iterations: int, dtype: str, *more: object) -> list[str]:
    """PPO++ on the embedded default."""
    command = ["train", "ppo-pp", "--iterations", iterations, "--dtype", dtype, "--output-dir", folder, *more]
    return [str(part) for part in command]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "policy" / "model.safetensors")


def same_run(found: Path, expected: Path, *, tolerance: float, dtype: torch.dtype) -> None:
    """Compare weights and metrics; in float32, metrics to 1e-4: Adam turns a rounded gradient near 0 into a step."""
    same(found, expected, tolerance=min(tolerance, 1e-4))
    assert files(found) == files(expected)
    for mine, theirs in zip(weights(found).values(), weights(expected).values(), strict=True):
        assert mine.dtype == theirs.dtype == dtype
        assert torch.allclose(mine, theirs, rtol=tolerance, atol=tolerance)


class TestEmbeddedDefault:
    def test_small_in_float64(self, runs):
        one, two = (runs[0].parent / name for name in ("embedded-one", "embedded-two"))
        same_run(two, one, tolerance=1e-9, dtype=torch.float64)
        assert (two / "samples.jsonl").read_text() == (one / "samples.jsonl").read_text()
        before = weights(two / "checkpoints" / "iteration-000002")  # the tolerance can fail: an iteration moves more
        assert all((before[name] - weight).abs().max() > 1e-9 for name, weight in weights(one).items())

    @pytest.mark.slow
    @pytest.mark.parametrize(("dtype", "iterations", "tolerance"), [("float32", 3, 1e-3), ("float64", 10, 1e-9)])
    def test_under_torchrun(self, dtype, iterations, tolerance, tmp_path):
        one, two = tmp_path / "one", tmp_path / "two"
        here(default_run(one, iterations, dtype))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += ["-m", "tril_gym", *default_run(two, iterations, dtype)]
        done = subprocess.run(command, capture_output=True, text=True, env=clean())
        assert done.returncode == 0, done.stderr[-3000:]
        same_run(two, one, tolerance=tolerance, dtype=dict(float32=torch.float32, float64=torch.float64)[dtype])


class TestRewardModel:
    @pytest.mark.slow
    @pytest.mark.parametrize("batch_size", [8, 10])  # 10: a batch of 4 pairs is somewhere among those of an epoch
    def test_two_processes_train_that_of_one(self, batch_size, tmp_path):
        start, one, two = (tmp_path / name for name in ("start", "one", "two"))
        here(reward_model(start, "--epochs", 1))
        settings = json.loads((start / "config.json").read_text())
        settings |= {name: 0.0 for name in settings if name.endswith("dropout_prob")}  # draws other numbers in parts
        (start / "config.json").write_text(json.dumps(settings))
        more = ["--model", start, "--batch-size", batch_size, "--seed", 1]  # the short batch is not the last
        here(reward_model(one, *more))
        forked((2, reward_model(two, *more)))
        assert files(two) == files(one)
        mine, theirs = (load_file(folder / "model.safetensors") for folder in (two, one))
        # The loss depends on neither of these biases, and AdamW moves a weight by the rounding of its gradient, too.
        learned = [name for name in theirs if not name.endswith(("key.bias", "classifier.bias"))]
        assert all(torch.allclose(mine[name], theirs[name], atol=1e-4) for name in learned)
        steps = [RunFolder(folder, unit="step").rows("metrics.jsonl") for folder in (two, one)]
        assert len(steps[0]) == len(steps[1]) == 2
        for found, expected in zip(*steps, strict=True):
            assert found == pytest.approx(expected, rel=1e-4)
        report = RunFolder(two).read_json("evaluation.json")
        assert report["train_pairs"] == 24  # no pair is repeated to fill a batch
        before = load_file(start / "model.safetensors")
        assert all((before[name] - theirs[name]).abs().max() > 1e-3 for name in learned)  # the tolerance can fail


class TestDoor:
    def test_rows_that_cannot_be_shared(self, runs):
        folder = runs[0].parent
        assert (folder / "said.txt").read_text().count("2 processes cannot share it evenly; use 8") == 1
        assert not (folder / "refused").exists()


class TestAProcessThatDies:
    def test_the_launcher_ends_the_run_and_it_can_be_resumed(self, tmp_path):
        """Rank 1 is killed in iteration 3; resumed by two processes, the run is that without a death, bit for bit."""
        reward = tmp_path / "reward.py"
        reward.write_text(
            "import os\nfrom pathlib import Path\n\n\ndef score(prompts, completions, references, extras):\n"
            "    folder = Path(os.environ.get('DIES_IN', '-'))\n"
            "    if os.environ.get('RANK') == '1' and (folder / 'checkpoints' / 'iteration-000002').is_dir():\n"
            "        os._exit(9)\n"
            "    return [len(text) / 20 for text in completions]\n"
        )
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        more = ["--reward", f"{reward}:score", "--eval-every", 0]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += ["-m", "tril_gym", *train(killed, 3, *more)]
        done = subprocess.run(command, capture_output=True, text=True, env=clean() | {"DIES_IN": str(killed)})
        assert done.returncode != 0
        assert "exitcode  : 9" in done.stderr
        checkpoints = RunFolder(killed).checkpoints()
        assert [path.name for path in checkpoints] == [f"iteration-00000{number}" for number in range(3)]
        assert [damage_of(path) for path in checkpoints] == [None] * 3
        died = (killed / "checkpoints" / "iteration-000002").stat().st_mtime
        assert time.time() - died < 60
        forked((2, train(whole, 3, *more)), (2, [*resume(killed, 3), "--trust-code"]))
        same(killed, whole, tolerance=0)
