"""Requests to a server: what is tried again, what is not, many at once, and no key in messages."""

import logging
import threading
import time

import pytest
from fake_server import Reply, serving

from tril_gym.utils.http_client import JSONClient, RefusedError, ServerError

FINE = Reply({"fine": True})


def client(**settings):
    usual = {"retries": 3, "pause": 0.0, "timeout": 5.0, "concurrency": 4, "key_variable": "MY_KEY", "is_local": True}
    return JSONClient(**usual | settings)


def in_turn(*replies):
    """Answer with one reply after the other, the last one for good."""
    left = list(replies)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


TRANSIENT = {
    "429": Reply({}, 429),
    "500": Reply({}, 500),
    "503 that is no JSON": Reply(b"<html>", 503),
    "half an answer": Reply({"text": "x" * 100}, cut=True),
    "half of the JSON": Reply(b'{"choices": [{"te'),
    "broken UTF-8": Reply(b'{"text": "\xff\xfe"}'),
    "no answer": Reply({}, hang=1.0),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_failures_that_pass_are_tried_again(name):
    asking = client(timeout=0.3)
    with serving(in_turn(TRANSIENT[name], TRANSIENT[name], FINE)) as server:
        assert asking.post(server.url, {"a": 1}) == {"fine": True}
    assert asking.take_counts() == {"requests": 3, "failures": 2}
    assert asking.take_counts() == {"requests": 0, "failures": 0}


@pytest.mark.parametrize("name", TRANSIENT)
def test_attempts_come_to_an_end(name):
    asking = client(retries=1, timeout=0.2)
    with serving(in_turn(TRANSIENT[name])) as server, pytest.raises(ServerError, match="attempt 2 of 2"):
        asking.post(server.url, {})
    assert asking.take_counts() == {"requests": 2, "failures": 2}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 422])
def test_other_refusals_are_final(status):
    asking = client()
    error = {"error": {"message": "not like this"}}
    refused = pytest.raises(RefusedError, match=f"answers {status}: not like this")
    with serving(in_turn(Reply(error, status), FINE)) as server, refused as refusal:
        asking.post(server.url, {})
    assert refusal.value.status == status
    assert asking.take_counts() == {"requests": 1, "failures": 1}


def test_redirections_are_not_followed():
    refused = pytest.raises(RefusedError, match="a redirection to http://elsewhere/")
    with serving(in_turn(Reply({}, 307, {"location": "http://elsewhere/"}))) as server, refused:
        client().post(server.url, {})
    assert len(server.asked) == 1


def test_nobody_listens():
    with serving(in_turn(FINE)) as server:
        url = server.url
    with pytest.raises(ServerError, match=r"ConnectError.*attempt 2 of 2"):
        client(retries=1).post(url, {})


def test_pauses_grow_and_follow_retry_after():
    asking = client(pause=0.05)
    with serving(in_turn(Reply({}, 500), Reply({}, 429, {"retry-after": "0.3"}), FINE)) as server:
        begin = time.perf_counter()
        asking.post(server.url, {})
    assert 0.35 <= time.perf_counter() - begin < 3


def test_requests_at_once():
    with serving(lambda asked: Reply({"n": asked.body["n"]}, hang=0.05)) as server:
        asking = client(concurrency=3)
        found = asking.map(lambda n: asking.post(server.url, {"n": n})["n"], list(range(12)))
        assert found == list(range(12))
        assert server.most_active == 3  # no more than allowed, and not one by one


def test_first_error_ends_the_others():
    asking = client(retries=50, pause=5.0)
    with serving(lambda asked: Reply({}, 404 if asked.body["n"] == 3 else 500)) as server:
        begin = time.perf_counter()
        with pytest.raises(RefusedError, match="404"):
            asking.map(lambda n: asking.post(server.url, {"n": n}), list(range(40)))
        assert time.perf_counter() - begin < 4  # the others do not wait for their next attempt
        assert len(server.asked) < 10


def test_an_interrupt_does_not_wait():
    def interrupted(n):
        raise KeyboardInterrupt if n == 1 else TimeoutError

    with pytest.raises((KeyboardInterrupt, TimeoutError)):
        client().map(interrupted, [0, 1])
    assert threading.active_count() < 50


class TestKey:
    def test_key_of_the_environment_is_sent(self, monkeypatch):
        with serving(in_turn(FINE)) as server:
            client().post(server.url, {})
            monkeypatch.setenv("MY_KEY", " S3CRET\n")
            client().post(server.url, {})
        sent = [asked.headers.get("authorization") for asked in server.asked]
        assert sent == [None, "Bearer S3CRET"]

    @pytest.mark.parametrize("status", [401, 500])
    def test_key_is_in_no_message(self, monkeypatch, caplog, status):
        monkeypatch.setenv("MY_KEY", "S3CRET")
        caplog.set_level(logging.DEBUG)
        refusal = Reply({"error": {"message": "the key S3CRET is wrong"}}, status)
        with serving(in_turn(refusal)) as server, pytest.raises(ServerError) as error:
            client(retries=1).post(server.url, {})
        assert f"{status}: the key ******** is wrong" in str(error.value)
        assert "S3CRET" not in caplog.text + repr(error.value) + repr(vars(client()))

    def test_characters_of_no_key(self, monkeypatch):
        monkeypatch.setenv("MY_KEY", "S3CRÉT\r\nx")
        with serving(in_turn(FINE)) as server, pytest.raises(RefusedError, match="MY_KEY holds") as error:
            client().post(server.url, {})
        assert "S3CR" not in str(error.value)
