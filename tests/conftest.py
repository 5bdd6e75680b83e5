"""What all tests share. Nothing heavy is imported here: tests of environments and rewards need no torch."""

import gc
import os
import signal
import sys

import pytest
from lighter_runs import lighten

os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs a hub, and without a network each request is repeated for 24 s
FAMILIES = ("gpt2", "llama", "qwen2", "t5", "bart")


def pytest_collection_finish(session):
    """Let the garbage collector pass over what imports and collection made, and run less often: a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_runtest_setup(item):
    """Leave out of runs what `lighter_runs.py` names, except in tests of those parts."""
    lighten(whole=item.get_closest_marker("whole_runs") is not None)


@pytest.fixture(scope="session", autouse=True)
def default_signals():
    """Handle signals as usual where the test run was started with some ignored, in the background or by nohup."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """Keep the user's cache folder out of the tests; one folder for the whole run."""
    folder = tmp_path_factory.getbasetemp() / "tril_gym_cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIL_GYM_CACHE", str(folder))
        patch.setenv("SB3_LOGDIR", str(folder.with_name("sb3_logs")))  # Stable-Baselines3 leaves folders in /tmp
        yield folder


@pytest.fixture(autouse=True)
def _forget_modules_of_a_test(tmp_path_factory):
    """Forget modules that a test wrote and imported: another test may write one of the same name."""
    path, known, folder = list(sys.path), set(sys.modules), str(tmp_path_factory.getbasetemp())
    yield
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
            del sys.modules[name]


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    """Each kind of language model in turn; `doubles.language_model` makes one."""
    return request.param


@pytest.fixture(params=["NextStep", "SameStep", "Disabled"])
def autoreset_mode(request) -> str:
    """Each of Gymnasium's autoreset modes in turn."""
    return request.param


@pytest.fixture
def forbidden(monkeypatch, tmp_path):
    """Return a folder that may not be written to, not even by root."""
    folder, access = tmp_path / "forbidden", os.access
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(folder) and access(path, mode))
    return folder
