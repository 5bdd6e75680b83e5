"""Every example runs with small sizes in an empty folder, and returns and prints what it describes."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paths
import pytest
import torch

EXAMPLES = paths.ROOT / "examples"


@pytest.fixture
def example(tmp_path, monkeypatch) -> Callable[..., Any]:
    """Return a function that runs the `main` of an example, given the name of its file."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, **sizes: Any) -> Any:
        return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**sizes)

    return run


def test_every_example_is_tested():
    tests = Path(__file__).read_text()
    names = [path.relative_to(EXAMPLES).with_suffix("").as_posix() for path in sorted(EXAMPLES.rglob("*.py"))]
    assert [name for name in names if f'"{name}"' not in tests] == []


def test_step_by_hand(example, capsys):
    assert example("step_by_hand") > 0  # the whole reference has a higher reward than half of it
    assert "[stop]" in capsys.readouterr().out


def test_ppo_custom_reward(example):
    before, after = example("ppo_custom_reward", iterations=1, num_envs=8, samples=64, examples=8)
    assert 0 <= before <= 1
    assert 0 <= after <= 1
    assert before != after


def test_ppo_pp_with_guide(example, capsys):
    assert (
        example("ppo_pp_with_guide", iterations=1, num_envs=8, samples=64) > 0
    )  # share of texts that the guide started
    assert " |" in capsys.readouterr().out


def test_guide_from_callable(example, capsys):
    before, after = example("guide_from_callable", iterations=1, num_envs=8, samples=64, examples=8)
    assert 0 <= before <= 1
    assert before != after
    assert re.search(r"^ +there.* \|", capsys.readouterr().out, re.MULTILINE)  # the part of the guide, and a bar


def test_bc_then_ppo(example, tmp_path):
    reward = example("bc_then_ppo", folder=str(tmp_path / "home"), bc_iterations=1, ppo_iterations=1, num_envs=8)
    assert 0 <= reward <= 1
    assert (tmp_path / "home/agent/policy/config.json").is_file()


def test_tldr_three_stages(example, tmp_path):
    sizes = {"bc_iterations": 1, "posts": 60, "ppo_iterations": 1, "num_envs": 8}
    before, after = example("tldr_three_stages", folder=str(tmp_path / "home"), **sizes)
    assert before != after
    assert (tmp_path / "home/reward_model/model.safetensors").is_file()


class TestLibraries:
    """Other libraries learn in the environments; the sizes are smaller than the examples' own."""

    @pytest.fixture(autouse=True)
    def _beside_each_other(self, monkeypatch):
        monkeypatch.syspath_prepend(str(EXAMPLES / "libraries"))
        with torch.random.fork_rng():
            yield

    @pytest.mark.parametrize(
        ("name", "sizes"),
        [
            ("libraries/stable_baselines3_ppo", {"steps": 12_000}),
            ("libraries/maskable_ppo", {"steps": 12_000}),
            ("libraries/cleanrl_style_ppo", {"updates": 12}),
        ],
    )
    def test_they_learn(self, example, name, sizes):
        before, after = example(name, **sizes)
        assert after > before + 0.2

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torchrl, about itself
    def test_torchrl(self, example):
        first, last = example("libraries/torchrl_ppo", steps=3 * 1024)
        assert 0 <= first <= 1
        assert 0 <= last <= 1

    def test_trl(self, example, tmp_path):
        pytest.importorskip("trl", reason="trl is not installed; it runs in an environment of its own")
        first, last = example("libraries/trl_grpo", steps=1, samples=64, folder=str(tmp_path / "grpo"))
        assert 0 <= first <= 2
        assert 0 <= last <= 2
