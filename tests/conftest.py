"""What all tests share. Nothing heavy is imported here: tests of environments and rewards need no torch."""

import pytest

FAMILIES = ("gpt2", "llama", "qwen2", "t5", "bart")


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory):
    """Keep the user's cache folder out of the tests; one folder for the whole run."""
    folder = tmp_path_factory.getbasetemp() / "tril_gym_cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIL_GYM_CACHE", str(folder))
        yield folder


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    """Each kind of language model in turn; `doubles.language_model` makes one."""
    return request.param


@pytest.fixture(params=["NextStep", "SameStep", "Disabled"])
def autoreset_mode(request) -> str:
    """Each of Gymnasium's autoreset modes in turn."""
    return request.param
