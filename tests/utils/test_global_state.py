"""Generators, log levels and accelerate's state are the same after a block that changes them."""

import logging
import random

import numpy as np
import pytest
import torch
from preference_pairs import polite_pairs, write_pairs
from rich.console import Console

from tril_gym.utils.global_state import LOGGERS, preserve_global_state


def snapshot():
    from accelerate.state import AcceleratorState, GradientState, PartialState

    kind, numbers, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (kind, numbers.tolist(), *rest),
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "levels": {name: logging.getLogger(name).level for name in LOGGERS},
        "accelerate": [dict(kind._shared_state) for kind in (PartialState, AcceleratorState, GradientState)],
    }


@pytest.fixture
def custom_levels():
    """Log levels that no library sets itself."""
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO + 3)
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def change_everything():
    from accelerate import Accelerator
    from accelerate.state import PartialState

    Accelerator(cpu=True)
    PartialState._shared_state["mark"] = True  # a difference also where another test has left an Accelerator
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@pytest.mark.usefixtures("custom_levels")
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_the_block_restores_what_it_changed(error):
    before = snapshot()
    try:
        with preserve_global_state():
            change_everything()
            during = snapshot()
            if error is not None:
                raise error
    except KeyboardInterrupt:
        pass
    assert all(during[name] != before[name] for name in before if name != "cuda")
    assert snapshot() == before


@pytest.mark.usefixtures("custom_levels")
def test_training_a_reward_model_changes_no_global_state(tmp_path):
    from tril_gym.reward_model.config import RewardModelConfig
    from tril_gym.reward_model.training import prepare_reward_model
    from tril_gym.utils.console import RunConsole

    config = RewardModelConfig(dataset=write_pairs(tmp_path / "pairs.jsonl", polite_pairs(40)), epochs=1, max_length=32)
    before = snapshot()
    prepare_reward_model(config, tmp_path / "run", console=RunConsole(Console(quiet=True))).run()
    assert snapshot() == before
