"""Several rollouts of the guide from one state estimate Q^g, the value of the policy's last token under the guide."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from doubles import generator
from toy_guides import new_policy, noisy_guide, toy

from tril_gym.agents import AggreVaTeD, AggreVaTeDConfig, Plan, collect
from tril_gym.envs.arrays import Ids
from tril_gym.envs.toy import EOS, ToyRules, optimal_completions, toy_rewards

V, T, Q = 6, 4, 0.6  # words, tokens, and the probability with which the guide writes the right one
K, GROUPS = 64, 16
RULES = ToyRules("count", vocab_size=V, max_new_tokens=T)


def outcomes(prompt: Ids, tokens: list[int]) -> Iterator[tuple[float, float]]:
    """Yield the probability and the reward of every text that the guide may make of these tokens: prompt (1, P)."""
    if tokens[-1:] == [EOS] or len(tokens) == T:
        completion = np.full((1, T), -1)
        completion[0, : len(tokens)] = tokens
        yield 1.0, float(toy_rewards(RULES, prompt, completion, np.array([len(tokens)]), np.array([True]))[0])
        return
    right = optimal_completions(RULES, prompt)[0, len(tokens)]
    for word in range(V):
        chance = Q * (word == right) + (1 - Q) / V
        yield from ((chance * rest, reward) for rest, reward in outcomes(prompt, [*tokens, word]))


def standardised_errors(plan: Plan) -> torch.Tensor:
    """Return how many standard errors of the enumerated Q^g the mean reward of each group's K texts is off."""
    texts = collect(toy(vocab_size=V, max_new_tokens=T), plan, episodes=K * GROUPS, generator=generator(2))
    means, found = texts.rewards.sum(1).view(GROUPS, K).mean(1), []
    for row, mean in zip(range(0, len(texts), K), means.tolist(), strict=True):
        group = slice(row, row + K)
        rollin = texts.tokens[row][texts.is_rollin[row]]
        assert torch.equal(texts.tokens[group, : len(rollin)], rollin.expand(K, -1))
        assert bool((texts.switch[group] == len(rollin)).all())
        prompt = np.where(texts.is_prompt[row], texts.prompts[row], -1)[None]
        chances, rewards = np.array(list(outcomes(prompt, rollin.tolist()))).T
        value = chances @ rewards
        found.append((mean - value) / np.sqrt(chances @ (rewards - value) ** 2 / K))
    return torch.tensor(found)


def test_rollouts_from_one_switch_estimate_the_value_under_the_guide():
    envs = toy(vocab_size=V, max_new_tokens=T)
    config = AggreVaTeDConfig(rollin_prob=1.0, texts_per_prompt=K)
    agent = AggreVaTeD(new_policy(envs, 0), noisy_guide(RULES, Q), envs, config)
    errors = standardised_errors(agent.plan(0))
    assert 0.5 < float(errors.square().mean().sqrt()) < 1.5  # 1 with a standard error of 0.18
    assert float(errors.abs().max()) < 4
    # The control: where the policy finishes the texts, the mean differs.
    assert float(standardised_errors(replace(agent.plan(0), rollout=agent.policy)).abs().min()) > 4
