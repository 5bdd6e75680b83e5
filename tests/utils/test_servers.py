"""Addresses of inference servers."""

import pytest

from tril_gym.utils.servers import ServerAddress, ServerConfig, is_server_address


@pytest.mark.parametrize(
    ("address", "url", "model", "is_chat"),
    [
        ("http://localhost:8000/v1#gpt2", "http://localhost:8000/v1", "gpt2", False),
        ("http://localhost:8000/v1/#org/name", "http://localhost:8000/v1", "org/name", False),
        ("https://a.example/openai/v1/completions#m", "https://a.example/openai/v1", "m", False),
        ("http://[::1]:80/v1/chat/completions#m", "http://[::1]:80/v1", "m", True),
    ],
)
def test_address_is_read(address, url, model, is_chat):
    found = ServerAddress.parse(address)
    assert (found.url, found.model, found.is_chat) == (url, model, is_chat)
    assert ServerAddress.parse(str(found)) == found
    assert is_server_address(address)


def test_model_beside_the_url():
    assert ServerAddress.parse("http://h/v1", "m") == ServerAddress.parse("http://h/v1#m")
    assert (
        ServerAddress.parse("http://localhost/v1", "m").is_local,
        ServerAddress.parse("http://h/v1", "m").is_local,
    ) == (
        True,
        False,
    )
    assert ServerAddress.parse("http://h:1/api/v1", "m").root == "http://h:1/api"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://localhost:8000#m", "write http://localhost:8000/v1#m"),
        ("http://localhost:8000/v1", "must name the model"),
        ("http://localhost:70000/v1#m", "no address of a server"),
        ("http:///v1#m", "no address of a server"),
        ("http://user:S3CRET@h/v1#m", "environment variable TRIL_GYM_SERVER_KEY"),
        ("http://S3CRET@h/v1#m", "environment variable"),
        ("http://h/v1?api_key=S3CRET#m", "environment variable"),
        ("http://user:S3CRET@h:x/v1#m", "no address of a server"),
    ],
)
def test_wrong_addresses_are_explained(address, words):
    with pytest.raises(ValueError, match=r"server|model|path") as error:
        ServerAddress.parse(address)
    assert words in str(error.value)
    assert "S3CRET" not in str(error.value)


def test_other_names_are_no_addresses():
    names = ["gpt2", "references", "module:function", "a/b", "ftp://h/v1", "httpx"]
    assert [name for name in names if is_server_address(name)] == []


def test_two_models_are_refused():
    with pytest.raises(ValueError, match="name one"):
        ServerAddress.parse("http://h/v1#a", "b")


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"retries": -1}, {"timeout": 0}, {"pause": float("nan")}])
def test_settings_have_bounds(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ServerConfig(**wrong)
