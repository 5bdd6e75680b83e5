"""Runs of the command line whose guide is behind a server: trained, resumed, and with the server gone in between."""

import json

import pytest
from click.testing import CliRunner
from fake_server import Reply, said, serving

from tril_gym.cli import main

SMALL = ("--tiny-samples", "0", "--num-envs", "8", "--eval-examples", "8", "--lr-schedule", "constant")


def call(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def train(*arguments, code=0):
    return " ".join(call("train", "ppo-pp", *arguments, code=code).split())


def figures(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ours = ("time/", "tokens_per", "guide/")
    return [{key: value for key, value in row.items() if not key.startswith(ours)} for row in rows]


class Server:
    """Answers with a text that follows from the seed, and fails from a given request on."""

    def __init__(self, fails_after=10**9, *, noise=0):
        self.fails_after, self.noise, self.count = fails_after, noise, 0

    def __call__(self, asked):
        if asked.path != "/v1/completions" or not isinstance(asked.body["prompt"], str):
            return Reply({"error": {"message": "not found"}}, 404)
        self.count += 1
        if self.count > self.fails_after:
            return Reply({"error": {"message": "out of memory"}}, 503)
        words = ["a", "dog", "runs", "in", "the", "park"] * 3
        return said(" " + " ".join(words[: 2 + (asked.body["seed"] + self.noise) % 9]) + ".")


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def guide(server):
    return ("--guide", f"{server.url}#m", "--guide-retries", "0")


def test_a_run_and_its_metrics(tmp_path):
    with serving(Server()) as server:
        train(*guide(server), *SMALL, "--iterations", 2, "--output-dir", "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["guide/failures"] for row in rows] == [0, 0]
    assert all(row["guide/requests"] > 0 and row["guide/tokens"] > 0 and row["guide/seconds"] > 0 for row in rows)
    config = (tmp_path / "run/config.yaml").read_text()
    assert f"guide: {server.url}#m" in config
    assert "guide_top_p: 0.92" in config
    assert "guide_concurrency: 16" in config


def test_a_server_that_ends_in_a_run(tmp_path):
    with serving(Server()) as server:
        train(*guide(server), *SMALL, "--iterations", 3, "--output-dir", "whole")
    with serving(Server(fails_after=8)) as server:
        text = train(*guide(server), *SMALL, "--iterations", 3, "--output-dir", "parts", code=1)
    assert "503: out of memory" in text
    assert "--output-dir parts --resume" in text
    assert "Traceback" not in text
    done = len(figures(tmp_path / "parts"))
    assert done < 3
    with serving(Server()) as server:
        moved = ("--output-dir", "parts", "--resume")
        refused = train(*moved, code=2)
        assert "--trust-code" in refused
        other = train(*moved, "--guide", f"{server.url}#other", code=2)
        assert "a resumed run keeps its settings" in other
        train(*moved, "--guide", f"{server.url}#m")
    assert figures(tmp_path / "parts") == figures(tmp_path / "whole")


def test_answers_of_a_noisy_server_are_kept(tmp_path):
    with serving(Server()) as server:
        train(*guide(server), *SMALL, "--guide-cache", "answers", "--iterations", 2, "--output-dir", "first")
    with serving(Server(noise=1)) as server:
        train(*guide(server), *SMALL, "--guide-cache", "answers", "--iterations", 2, "--output-dir", "second")
        train(*guide(server), *SMALL, "--iterations", 2, "--output-dir", "third")
    assert figures(tmp_path / "second") == figures(tmp_path / "first")
    assert figures(tmp_path / "third") != figures(tmp_path / "first")


def test_nobody_answers_before_the_run(tmp_path):
    with serving(Server()) as server:
        gone = guide(server)
    text = train(*gone, *SMALL, "--output-dir", "run", code=2)
    assert "does not answer" in text
    assert "is the server running there?" in text
    assert not (tmp_path / "run").exists()


def test_key_is_in_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIL_GYM_SERVER_KEY", "S3CRET")
    with serving(Server()) as server:
        output = train(*guide(server), *SMALL, "--iterations", 1, "--guide-cache", "answers", "--output-dir", "run")
        assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer S3CRET"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if b"S3CRET" in path.read_bytes()] == []
    assert "S3CRET" not in output
