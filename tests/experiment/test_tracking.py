"""Trackers: settings, metrics and texts arrive in wandb, tensorboard and trackio; a failure does not end a run."""

import json
import sqlite3
import time
from dataclasses import asdict

import gymnasium as gym
import pytest
import torch

from tril_gym.agents import Guide, Plan, collect, tiny_policy
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.experiment import RunConsole, TrackerCallback, configure, resume, train
from tril_gym.experiment.tracking import Tracker, TrackerOptions, named_settings, texts_apart
from tril_gym.experiment.trust import masked

TEXT = {"prompt": "a | b", "rollin": "it ", "rollout": "ends\nhere", "reward": 0.5}
CONFIG = {"algorithm": {"learning_rate": 1e-5, "top_k": None}, "env": {"num_envs": 4}}


def send(tracker):
    """Send what a run of one iteration sends."""
    tracker.log({"held_out/greedy/reward/mean": 0.25}, step=0)
    tracker.log({"reward/mean": 0.5}, step=1)
    tracker.log_texts([TEXT], step=1)
    tracker.close()


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    send(Tracker("wandb", project="stories", name="first", tags=["a-tag"], config=CONFIG, folder=tmp_path))
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    words = ("stories", "first", "a-tag", "algorithm.learning_rate", "env.num_envs", "held_out/greedy/reward/mean")
    deadline = time.monotonic() + 60  # another process writes the file
    while (
        missing := [word for word in words if word.encode() not in file.read_bytes()]
    ) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert missing == []
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/*.json")
    found = json.loads(table.read_text())
    assert found["columns"] == ["iteration", "prompt", "rollin", "rollout", "reward"]
    assert found["data"] == [[1, "a | b", "it ", "ends\nhere", 0.5]]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    send(Tracker("tensorboard", name="first", tags=["a-tag"], config=CONFIG, folder=tmp_path))
    found = EventAccumulator(str(tmp_path / "first"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("reward/mean")] == [(1, 0.5)]
    assert [event.step for event in found.Scalars("held_out/greedy/reward/mean")] == [0]
    (text,) = found.Tensors("texts/text_summary")
    assert text.tensor_proto.string_val[0].decode().splitlines()[-1] == r"| 1 | a \| b | it | ends here | 0.5 |"
    (settings,) = (tmp_path / "first").glob("*/hparams.yml")
    assert "algorithm.learning_rate: 1.0e-05" in settings.read_text()
    assert "tags: a-tag" in settings.read_text()


def test_trackio(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path)
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path)
    send(Tracker("trackio", project="stories", name="first", tags=["a-tag"], config=CONFIG))
    with sqlite3.connect(tmp_path / "stories.db") as database:
        rows = [json.loads(content) for (content,) in database.execute("select metrics from metrics")]
        (config,) = [json.loads(content) for (content,) in database.execute("select config from configs")]
    assert rows[1] == {"reward/mean": 0.5}
    assert rows[2]["texts"]["_value"][0]["rollout"] == "ends\nhere"
    assert (config["algorithm.learning_rate"], config["tags"]) == (1e-5, "a-tag")


class Notes:
    """Stand in for accelerate, and note what a run sends."""

    def __init__(self, **settings):
        self.settings, self.sent = settings, []
        Notes.last = self

    def init_trackers(self, project, config, init_kwargs):
        self.project, self.config = project, config
        self.keywords = init_kwargs

    def log(self, metrics, step):
        self.sent.append((step, metrics))

    def get_tracker(self, name):
        return self

    def log_table(self, name, columns, data, step):
        self.sent.append((step, {name: data}))

    def end_training(self):
        self.sent.append("end")


@pytest.fixture
def notes(monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator", Notes)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["wandb"])


def test_a_run_sends_settings_evaluations_metrics_and_texts(tmp_path, notes):
    small = {"env": "tril/Toy-v0", "num_envs": 4, "eval_examples": 4, "tiny_samples": 8, "eval_every": 1}
    config = configure("ppo-pp", iterations=2, lr_schedule="constant", **small)
    train(config, tmp_path / "run", track=TrackerOptions("wandb", project="stories", tags=("a",)), console=RunConsole())
    keywords = Notes.last.keywords["wandb"]
    assert (Notes.last.project, keywords["name"], keywords["tags"]) == ("stories", "run", ["a"])
    lengths = {"env.max_prompt_length": 4, "env.max_new_tokens": 8, "env.min_new_tokens": 0}  # of the environment
    assert keywords["config"] == named_settings(masked(asdict(config))) | lengths
    kinds = [(step, next(iter(sent))) for step, sent in Notes.last.sent[:-1]]
    held_out = "held_out/greedy/examples"
    assert kinds == [(0, held_out), (1, "iteration"), (1, "texts"), (1, held_out), (2, "iteration"), (2, held_out)]
    assert Notes.last.sent[-1] == "end"
    resume(tmp_path / "run", iterations=3, track="wandb")
    kinds = [(step, next(iter(sent))) for step, sent in Notes.last.sent[:-1]]
    assert kinds == [(2, held_out), (3, "iteration"), (3, held_out)]


def test_a_callback_sends_metrics_and_texts(notes):
    from tril_gym.agents import PPO

    envs = gym.make_vec("tril/Toy-v0", 4, autoreset_mode="Disabled")
    tracker = Tracker("wandb", project="stories", config=CONFIG)
    PPO(tiny_policy(envs, samples=0), envs).learn(2, callbacks=[TrackerCallback(tracker)], progress=False)
    tracker.close()
    kinds = [(step, next(iter(sent))) for step, sent in Notes.last.sent[:-1]]
    assert kinds == [(1, "texts"), (1, "iteration"), (2, "iteration")]
    assert Notes.last.keywords["wandb"]["config"] == {
        "algorithm.learning_rate": 1e-5, "algorithm.top_k": "null", "env.num_envs": 4,
    }  # fmt: skip


def test_settings_are_complete_flat_and_plain():
    config = asdict(configure("ppo-pp", env_args={"max_new_tokens": 9, "reward_settings": {"cider_d": {"n": 3}}}))
    found = named_settings(config)
    assert found["algorithm.name"] == "ppo-pp"
    assert found["algorithm.learning_rate"] == config["hyperparameters"]["learning_rate"]
    assert (found["env.id"], found["env.num_envs"]) == ("tril/CommonGen-v0", config["num_envs"])
    assert (found["env.max_new_tokens"], found["env.reward_settings.cider_d.n"]) == (9, 3)
    assert (found["policy.name"], found["guide.top_p"], found["guide.temperature"]) == ("tiny", 0.92, 0.3)
    assert (found["reward.cider_d"], found["run.seed"]) == (0.1, 0)
    assert (found["algorithm.top_k"], found["algorithm.adam_betas"]) == ("null", "[0.9, 0.999]")
    assert all(isinstance(value, int | float | str | bool) for value in found.values())
    count = len(config) - 3 + len(config["hyperparameters"]) + 2 + len(config["reward"])  # three fields are tables
    assert len(found) == count


def test_rollin_and_rollout_are_apart():
    envs = gym.make_vec("tril/CommonGen-v0", 4, autoreset_mode="Disabled")
    policy = tiny_policy(envs, samples=0)
    plan = Plan(rollout=policy, rollin=Guide.references(), rollin_prob=1.0)
    texts = collect(envs, plan, episodes=4, generator=torch.Generator().manual_seed(0))
    rows = texts_apart(texts, TextLayout.of(envs), 3)
    assert len(rows) == 3
    assert [row["reward"] for row in rows] == texts.rewards[:3].sum(1).tolist() != [0.0] * 3
    for row, info, switch in zip(rows, texts.infos, texts.switch, strict=False):
        assert row["prompt"] == info["prompt"]
        assert row["rollin"] + row["rollout"] == info["completion"]
        assert bool(row["rollin"].strip()) == (switch > 0)
        assert any(reference.strip().startswith(row["rollin"].strip()) for reference in info["references"])
    assert any(row["rollin"] for row in rows)


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ValueError, match=r"nope.*installed"):
        Tracker("nope")
    with pytest.raises(ValueError, match=r"tracker 'wand' .did you mean 'wandb'.. is not installed"):
        Tracker("wand")


def test_no_tracker_does_nothing():
    tracker = Tracker(None)
    tracker.begin()
    send(tracker)


@pytest.mark.parametrize("method", ["init_trackers", "log", "end_training"])
def test_a_failure_is_said_once_and_nothing_more_is_sent(monkeypatch, caplog, method):
    calls = []

    class Accelerator:
        def __init__(self, **settings):
            pass

        def __getattr__(self, name):
            def call(*args, **settings):
                calls.append(name)
                if name == method:
                    raise ConnectionError("no route to host")

            return call

    monkeypatch.setattr("accelerate.Accelerator", Accelerator)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["wandb"])
    tracker = Tracker("wandb")
    tracker.log({"kl": 0.5}, step=1)
    tracker.log({"kl": 0.5}, step=2)
    tracker.close()
    tracker.close()
    assert caplog.text.count("the tracker wandb failed (ConnectionError: no route to host)") == 1
    assert calls.count(method) == 1


def test_options_of_a_tracker_need_one():
    from tril_gym.cli.run_options import RunOptions

    assert RunOptions().tracker == TrackerOptions()
    for name, value in {"project": "x", "run_name": "x", "tag": ("x",)}.items():
        with pytest.raises(ValueError, match=rf"--{name.replace('_', '-')} is for a tracker; add --track"):
            _ = RunOptions(**{name: value}).tracker
