"""Evaluations: which examples are chosen, and that no figure depends on the number of texts in parallel."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from doubles import rwkv_policy
from gymnasium.vector import SyncVectorEnv

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import PPO, PPOConfig, tiny_policy
from tril_gym.data import Example
from tril_gym.experiment import EvaluationCallback, evaluate
from tril_gym.experiment.evaluation import chosen_examples, fingerprint_of, intervals_of, means_of

TOY = {"max_new_tokens": 6, "num_examples": 23, "rule": "count", "dense": True}


def test_a_sample_is_spread_over_a_sorted_data_set():
    """The first 200 of IMDB as it is published are all negative."""
    chosen = chosen_examples(1000, 200)
    assert len(set(chosen)) == 200
    assert 60 < sum(index < 500 for index in chosen) < 140
    assert chosen_examples(1000, 200) == chosen
    assert chosen_examples(1000, 100) == chosen[:100], "an evaluation during training is on part of the same examples"


@pytest.mark.parametrize("count", [23, 30])
def test_a_sample_of_all_is_every_example(count):
    assert sorted(chosen_examples(23, count)) == list(range(23))
    assert chosen_examples(23, None) == list(range(23))


def test_both_classes_of_a_sorted_data_set_are_evaluated():
    data = [Example(f"a film that is number {i}", ("and good",), label=int(i >= 100)) for i in range(200)]
    envs = gym.make_vec("tril/IMDB-v0", num_envs=8, dataset=data, reward=None, autoreset_mode="Disabled")
    policy = tiny_policy(envs, samples=0, width=16, heads=2, layers=1)
    found = evaluate(policy, envs, seed=0, count=20, samples=20)
    labels = [data[sample["example"]].label for sample in found.samples]
    assert 4 <= sum(labels) <= 16


def toy(num_envs, *, sync=False):
    if sync:  # as an environment of the user, whose rows cannot restart
        return SyncVectorEnv([lambda: gym.make("tril/Toy-v0", **TOY)] * num_envs)
    return gym.make_vec("tril/Toy-v0", num_envs=num_envs, autoreset_mode="Disabled", **TOY)


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("count", [None, 10])
def test_figures_do_not_depend_on_the_number_of_envs(kind, sync, count):
    policy = tiny_policy(toy(2), kind=kind, samples=0, width=16, heads=2, layers=1)
    ref_policy = tiny_policy(toy(2), kind=kind, samples=0, width=16, heads=2, layers=1, seed=1)
    runs = [evaluate(policy, toy(n, sync=sync), seed=3, count=count, ref_policy=ref_policy) for n in (1, 4, 7, 64)]
    for run in runs[1:]:
        assert run.rewards == runs[0].rewards
        assert [row["completion"] for row in run.texts] == [row["completion"] for row in runs[0].texts]
        for decoding, metrics in runs[0].metrics.items():
            assert run.metrics[decoding] == pytest.approx(metrics, rel=1e-5), decoding
    other = evaluate(policy, toy(4, sync=sync), seed=4, count=count)
    assert other.rewards["sampled"] != runs[0].rewards["sampled"], "another seed gives other figures"
    assert np.isfinite(runs[0].metrics["sampled"]["kl"])
    sampled = runs[0].metrics["sampled"]
    assert sampled["kl_per_token"] == pytest.approx(sampled["kl"] / sampled["text/length"])


def test_rewards_are_in_the_order_of_the_examples_and_greedy_ones_need_no_seed():
    def number(prompts, completions):
        return [float(prompt.split()[1]) + len(text) / 100 for prompt, text in zip(prompts, completions, strict=True)]

    rows = [{"prompt": f"number {i}"} for i in (3, 1, 2, 0)]
    sizes = {"max_prompt_length": 8, "max_new_tokens": 3, "autoreset_mode": "Disabled"}
    envs = gym.make_vec("tril/Text-v0", num_envs=2, dataset=rows, reward=number, **sizes)
    policy = tiny_policy(envs, samples=0, width=16, heads=2, layers=1)
    found, other = evaluate(policy, envs, seed=0), evaluate(policy, envs, seed=1)
    for rewards in found.rewards.values():
        assert [int(reward) for reward in rewards] == [3, 1, 2, 0]
    assert found.rewards["greedy"] == other.rewards["greedy"]
    assert found.rewards["sampled"] != other.rewards["sampled"]


def test_a_sample_names_the_examples_of_its_rewards():
    def number(prompts, completions):
        return [float(prompt.split()[1]) for prompt in prompts]

    rows = [{"prompt": f"number {i}"} for i in range(9)]
    sizes = {"max_prompt_length": 8, "max_new_tokens": 3, "autoreset_mode": "Disabled"}
    envs = gym.make_vec("tril/Text-v0", num_envs=2, dataset=rows, reward=number, **sizes)
    policy = tiny_policy(envs, samples=0, width=16, heads=2, layers=1)
    for count in (5, 9, None):
        found = evaluate(policy, envs, seed=0, count=count).as_json()
        assert found["order"] == found["rewards"]["greedy"] == found["rewards"]["sampled"]
        assert (found["order"] == sorted(found["order"])) == (count is None)
        assert found["examples"] == fingerprint_of(envs, count)
    assert fingerprint_of(envs, 5) != fingerprint_of(envs, 9)


@pytest.mark.whole_runs
def test_models_are_read_as_they_must_be():
    """A policy has no KL divergence from its own copy."""
    for checked in (True, False):
        policy = rwkv_policy()
        found = evaluate(policy, toy(8), seed=0, ref_policy=policy.frozen_copy(), check_model=checked)
        assert (abs(found.metrics["sampled"]["kl"]) < 1e-3) == checked


def test_an_agent_that_checks_no_model_is_evaluated_without_a_check(monkeypatch):
    def refuse(*of, **more):
        raise ValueError("checked")

    monkeypatch.setattr("tril_gym.agents.actors.policy.check_model", refuse)
    agent = PPO(tiny_policy(toy(4), samples=0), toy(4), PPOConfig(check_model=False))
    evaluation = EvaluationCallback(toy(4), examples=4)
    evaluation.start(agent, 1)
    assert evaluation.best is not None
    with pytest.raises(ValueError, match="checked"):
        evaluate(agent.policy, toy(4), seed=0, count=4)


def test_texts_without_a_score_are_left_out_of_its_mean():
    columns = {"reward/mean": torch.tensor([1.0, 2.0]), "score/x": torch.tensor([3.0, math.nan])}
    expected = {"examples": 2, "reward/mean": 1.5, "reward/stderr": 0.5, "score/x": 3.0}
    assert means_of(columns) == pytest.approx(expected)
    assert intervals_of(columns, seed=0).keys() == {"reward/mean"}, "an interval needs a score of each text"
