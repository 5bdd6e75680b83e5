"""The learning curve: what its panels show, and runs that lack some of it."""

import math

import pytest
from rich.console import Console

from tril_gym.experiment import RunConsole, configure, run, train
from tril_gym.experiment.plots import curve_figure, draw_curve, moving_average

ROWS = [{"iteration": number, "reward/mean": number / 10, "kl": number * 1.0} for number in (1, 2, 3)]


def evaluation(iteration, reward, interval=None):
    found = {} if interval is None else {"reward/mean": interval}
    metrics = {"greedy": {"reward/mean": reward}, "sampled": {"reward/mean": reward / 2}}
    return {"iteration": iteration, "metrics": metrics, "intervals": {"greedy": found, "sampled": {}}}


def figure(**changes):
    held_out = [evaluation(0, 0.1, (0.0, 0.3)), evaluation(2, 0.4), evaluation(3, 0.5, (0.4, 0.6))]
    return curve_figure(**{"title": "t", "reward": "rouge_l", "rows": ROWS, "held_out": held_out} | changes)


def labels(drawn):
    return {handle.get_text() for handle in drawn.legends[0].get_texts()}


def test_panels_of_reward_and_kl():
    reward, kl = figure(kl_target=6.0).axes
    assert (reward.get_ylabel(), kl.get_ylabel(), kl.get_xlabel()) == ("rouge_l", "KL, nats per text", "iteration")
    training, mean, greedy, *_ = reward.lines
    assert training.get_ydata().tolist() == [0.1, 0.2, 0.3]
    assert mean.get_ydata().tolist() == pytest.approx([0.1, 0.15, 0.2])
    assert (greedy.get_xdata().tolist(), greedy.get_ydata().tolist()) == ([0, 2, 3], [0.1, 0.4, 0.5])
    bars = reward.containers[0].lines[2][0].get_segments()  # of greedy decoding: bottom and top of each interval
    assert [[round(float(y), 9) for _, y in bar] for bar in bars] == [[0.0, 0.3], [0.4, 0.4], [0.4, 0.6]]
    assert [line.get_ydata()[0] for line in kl.lines] == [1.0, 6.0]
    assert "kl_target, 6 nats" in labels(figure(kl_target=6.0))
    assert len(labels(figure())) == 4


def test_a_run_without_kl_has_one_panel():
    assert len(figure(rows=[{"iteration": 1, "reward/mean": 0.1}], kl_target=6.0).axes) == 1


def test_texts_that_the_policy_did_not_write_are_left_out():
    """Of `bc` they are references, whose reward is far above the policy's."""
    greedy, *_ = figure(shows_training=False).axes[0].lines
    assert greedy.get_ydata().tolist() == [0.1, 0.4, 0.5]
    assert len(labels(figure(shows_training=False))) == 2


def test_values_that_are_not_finite_are_left_out(tmp_path):
    rows = [{"iteration": 1, "reward/mean": None, "kl": None}, *ROWS[1:]]
    assert math.isnan(figure(rows=rows).axes[0].lines[0].get_ydata()[0])
    draw_curve(tmp_path / "curve.png", title="t", reward="r", rows=rows, held_out=[evaluation(0, 0.1)])
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_draws_all_its_evaluations_in_order(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(run, "draw_curve", lambda path, **data: drawn.append((path, data)))
    numbers = {"kl_controller": "adaptive", "kl_target": 3.0, "learning_rate": 1e-2}
    sizes = {"env": "tril/Toy-v0", "num_envs": 4, "eval_examples": 4, "iterations": 3, "eval_every": 1}
    config = configure("ppo", tiny_samples=0, **sizes, **numbers)
    result = train(config, tmp_path / "run", console=RunConsole(Console(quiet=True)))
    ((path, data),) = drawn
    assert (path, data["kl_target"]) == (tmp_path / "run" / "curve.png", 3.0)
    assert [row["iteration"] for row in data["rows"]] == [1, 2, 3]
    assert [row["iteration"] for row in data["held_out"]] == [0, 1, 2, 3]
    ends = [data["held_out"][end]["metrics"] for end in (0, -1)]
    assert ends == [result.before["metrics"], result.after["metrics"]]
    assert ends[0] != ends[1]


def test_moving_average_by_hand():
    assert moving_average([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]
