"""Epochs over minibatches of like length: every token weighs the same, and the KL limit is per token."""

from dataclasses import replace

import pytest
import torch
from doubles import MANY_EOS, foreign_envs, generator, policy_of

from tril_gym.agents import PPO, PPOConfig
from tril_gym.utils.profiler import Timer

STILL = 1e-12  # a learning rate at which nothing moves


def agent_with_texts(**numbers):
    envs = foreign_envs(16, eos_token_ids=MANY_EOS)
    settings = {"epochs": 1, "minibatch_size": 4, "learning_rate": STILL, "group_by_length": True}
    agent = PPO(policy_of(dtype=torch.float64), envs, PPOConfig(**settings | numbers))
    reports = []
    agent.learn(1, callbacks=[reports.append])
    assert len(set(reports[0].trajectories.lengths.tolist())) > 3
    return agent, reports[0]


@torch.no_grad()
def entropies(agent, trajectories) -> list[torch.Tensor]:
    """Return the entropies of each text's tokens by a plain pass of the model."""
    found = []
    for row in range(len(trajectories)):
        prompt = trajectories.prompts[row][trajectories.is_prompt[row]].tolist()
        tokens = trajectories.tokens[row][trajectories.is_token[row]].tolist()
        logits = agent.policy.model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        found.append(torch.distributions.Categorical(logits=logits).entropy())
    return found


def test_metrics_of_an_epoch_are_means_over_all_tokens():
    agent, report = agent_with_texts(ent_coef=0.01)
    of_texts = entropies(agent, report.trajectories)
    over_tokens = torch.cat(of_texts).mean()
    assert report.metrics["policy/entropy"] == pytest.approx(float(over_tokens), rel=1e-6)
    # The control: the mean of the minibatches' own means is another number.
    order = report.trajectories.lengths.argsort(stable=True).split(4)
    of_means = torch.stack([torch.cat([of_texts[row] for row in rows]).mean() for rows in order]).mean()
    assert abs(float(of_means - over_tokens)) > 1e-4


def steps_made(target_kl: float, seed: int) -> int:
    """Return the optimizer steps of an epoch in which every token's log-ratio is 1/2, so its KL is 0.1487 nats."""
    agent, report = agent_with_texts(target_kl=target_kl)
    off = replace(report.trajectories, old_logprobs=report.trajectories.old_logprobs - 0.5)
    before = max((int(state["step"]) for state in agent.learner.optimizer.state.values()), default=0)
    agent.learner.update(off, agent.plan(1), generator=generator(seed), timer=Timer())
    return max((int(state["step"]) for state in agent.learner.optimizer.state.values()), default=0) - before


@pytest.mark.parametrize("seed", range(4))
def test_kl_limit_is_per_token_whatever_the_lengths(seed):
    # Limits are 1.5 · 0.098 = 0.147 and 1.5 · 0.101 = 0.1515, on either side of 0.1487.
    assert steps_made(0.098, seed) == 0
    assert steps_made(0.101, seed) == 4
