"""Every example runs with small sizes in an empty folder, and returns and prints what it describes."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import interop
import numpy as np
import paths
import pytest
import torch

from tril_gym.envs import ToyRules, guide_value

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


def test_own_algorithm(example):
    before, after = example("own_algorithm", iterations=3, num_envs=16, samples=64, examples=32)
    assert before != after


def test_ppo_custom_reward(example):
    before, after = example("ppo_custom_reward", iterations=3, num_envs=16, samples=64, examples=32)
    assert 0 <= before <= 1
    assert 0 <= after <= 1
    assert before != after


def test_own_questions(example, capsys):
    before, after = example("own_questions", iterations=1, num_envs=8, samples=64, examples=8)
    assert 0 <= before <= 1
    assert 0 <= after <= 1
    assert "right answers" in capsys.readouterr().out


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


def test_guide_behind_a_server(example, capsys):
    assert example("guide_behind_a_server", iterations=2, num_envs=8, samples=64) > 0
    assert re.search(r"requests, .* tokens, .* s: .* \|", capsys.readouterr().out)


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
        ("name", "package", "sizes"),
        [
            ("libraries/stable_baselines3_ppo", "stable_baselines3", {"steps": 12_000}),
            pytest.param("libraries/maskable_ppo", "sb3_contrib", {"steps": 12_000}, marks=pytest.mark.slow),
            pytest.param("libraries/cleanrl_style_ppo", "gymnasium", {"updates": 12}, marks=pytest.mark.slow),
            ("libraries/torchrl_ppo", "torchrl", {"steps": 6 * 1024}),
            ("libraries/rllib_ppo", "ray", {"iterations": 6}),
            ("libraries/tianshou_ppo", "tianshou", {"steps": 6 * 1024}),
            ("libraries/skrl_ppo", "skrl", {"steps": 400}),
        ],
    )
    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of libraries, about themselves
    def test_they_learn(self, example, name, package, sizes, capsys):
        pytest.importorskip(package, reason=f"{package} is not installed; `make interop` runs it")
        before, after = example(name, **sizes)
        assert after > before + 0.1
        assert capsys.readouterr().out.endswith(f"reward {before:.2f} -> {after:.2f}\n")

    def test_trl(self, example, tmp_path):
        pytest.importorskip("trl", reason="trl is not installed; `make interop` runs it")
        before, after = example("libraries/trl_grpo", folder=str(tmp_path / "grpo"), steps=20)
        assert after > before + 0.1

    def test_the_mean_reward_of_any_policy(self):
        common = runpy.run_path(str(EXAMPLES / "libraries/common.py"))  # shared by "libraries/common"
        rng = np.random.default_rng(0)
        uniform = guide_value(ToyRules(), np.zeros((1, 4), np.int64), 0.0)[0]  # expected reward of random tokens
        assert common["mean_reward"](lambda rows: rng.integers(16, size=len(rows))) == pytest.approx(uniform, abs=0.03)
        rewards = [common["mean_reward"](lambda rows, token=token: np.full(len(rows), token)) for token in (2, 3)]
        assert rewards == [1.0, 0.0]

    def test_examples_are_short(self):
        lengths = {path.name: len(path.read_text().splitlines()) for path in (EXAMPLES / "libraries").glob("*.py")}
        assert {name for name, length in lengths.items() if length > 60} == set()

    def test_every_library_is_in_the_table(self):
        examples = {path.stem for path in (EXAMPLES / "libraries").glob("*.py")} - {"common"}
        assert {library.name for library in interop.LIBRARIES} == examples
        results = [interop.Result(**row) for row in json.loads(interop.RESULTS.read_text())]
        assert [it.package for it in results] == [library.package for library in interop.LIBRARIES]
        assert interop.table(results) in interop.PAGE.read_text(), "run `make interop`"
        assert all(it.after >= 0.95 for it in results if it.env_id == "tril/Toy-v0")
