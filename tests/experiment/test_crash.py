"""A part of `make crash`: runs that are killed at random file operations end as one that was never killed."""

import json
import random
import re

import pytest
import soak
import torch
from crash import FileOperations, crash, difference, in_child

import tril_gym.agents
import tril_gym.experiment.training  # noqa: F401  with the agents, so that no child imports them


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [pytest.param("ppo-pp", "tiny", marks=pytest.mark.slow), ("gail", "tiny-seq2seq")],
)
def test_killed_runs_end_as_whole_ones(algorithm, policy, tmp_path):
    seed = random.SystemRandom().randrange(10_000)  # other kills each time; the output has the number
    print("seed", seed)
    assert crash(algorithm, policy, tmp_path, kills=2, rng=random.Random(seed)) >= 1


def test_the_soak_measures_iterations_and_resumes_after_faults(tmp_path, monkeypatch):
    monkeypatch.setenv(soak.FAULTS, "0.02")
    meter, report = soak.Meter(5, 15), tmp_path / "report"
    monkeypatch.setattr(soak, "GROWTH", 1.0)  # of so few iterations
    assert in_child(lambda: soak.live(20, tmp_path / "run", meter), report) == 0
    assert re.match(r"\d+ failures; \d+ → \d+ MiB, \d+ → \d+ files", json.loads(report.read_text()))


@pytest.fixture
def runs(tmp_path):
    """Two finished runs that are the same."""
    for name in ("one", "other"):
        folder = tmp_path / name
        (folder / "checkpoints" / "iteration-000001").mkdir(parents=True)
        (folder / "metrics.jsonl").write_text('{"iteration": 1, "reward/mean": 0.5, "time/learn": 1}\n')
        (folder / "evaluation.json").write_text('{"before": 1, "after": 2}')
        (folder / "checkpoints" / "iteration-000001" / "model.safetensors").write_bytes(b"weights")
        torch.save({"step": [torch.ones(2)]}, folder / "checkpoints" / "iteration-000001" / "learner.pt")
    return tmp_path / "one", tmp_path / "other"


def change(folder, name, content):
    path = folder / name
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)


CHECKPOINT = "checkpoints/iteration-000001"
CHANGES = {
    "metrics.jsonl": b'{"iteration": 1, "reward/mean": 0.6}\n',
    "evaluation.json": b'{"before": 1, "after": 3}',
    f"{CHECKPOINT}/model.safetensors": b"weightz",
    f"{CHECKPOINT}/learner.pt": {"step": [torch.ones(2) + 1e-7]},
    ".config.yaml.x.draft": b"left over",
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_comparison_notices_a_difference(runs, name):
    one, other = runs
    (other / "metrics.jsonl").write_text('{"iteration": 1, "reward/mean": 0.5, "time/learn": 7}\n')  # no difference
    assert difference(one, other) is None
    change(other, name, CHANGES[name])
    assert name in difference(one, other)


def test_the_kill_comes_at_the_operation_and_tears_a_line(tmp_path):
    def work(kill_at):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        operations = FileOperations(folder, kill_at, tear=True)
        (folder / "a").write_text("1")
        (folder / "a").rename(folder / "b")
        with (folder / "b").open("a") as file:
            file.write("2\n")
        (tmp_path / "elsewhere").write_text("not counted")
        return operations.count

    assert in_child(lambda: work(0), tmp_path / "count") == 0
    assert json.loads((tmp_path / "count").read_text()) == 3
    assert in_child(lambda: work(2)) == -9
    assert [path.name for path in (tmp_path / "2").iterdir()] == ["a"]
    assert in_child(lambda: work(3)) == -9
    assert (tmp_path / "3" / "b").read_text().startswith('1{"iteration"')
