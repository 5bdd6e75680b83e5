"""Texts that a limit from outside cuts off: they have a future, which the critic knows."""

import gymnasium as gym
import pytest
import torch
from doubles import G, OneToken, P, foreign_envs, generator, policy_of, shown
from gymnasium.vector import SyncVectorEnv
from torch import Tensor

from tril_gym.agents import Plan, PPOConfig, TextLayout
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.models.texts import Texts


def limited_envs(num_envs: int, limit: int, mode: str = "NextStep", **settings) -> SyncVectorEnv:
    """Texts of at most `limit` tokens, by a wrapper that knows nothing of texts."""

    def make() -> gym.Env:
        return gym.wrappers.TimeLimit(foreign_envs(1, **settings).envs[0], limit)

    return SyncVectorEnv([make] * num_envs, autoreset_mode=mode)


def test_a_text_that_is_cut_off(autoreset_mode):
    policy = OneToken(P, lengths=(2, 3, 4, 99), logprob=-1.0)
    trajectories = collect(limited_envs(4, 3, autoreset_mode), Plan(rollout=policy), episodes=8, generator=generator())
    assert shown(trajectories) == ["p.", "pp.", "ppp", "ppp"] * 2
    assert trajectories.terminated.tolist() == [True, True, False, False] * 2
    # The wrapper says "truncated" at its third token, whether or not the text has just come to its end.
    assert trajectories.truncated.tolist() == [False, True, True, True] * 2
    assert trajectories.is_cut_off.tolist() == [False, False, True, True] * 2
    assert torch.equal(trajectories.is_token.sum(1), torch.tensor([2, 3, 3, 3] * 2))
    assert trajectories.old_logprobs[~trajectories.is_token].eq(0).all()


@pytest.mark.parametrize("limit", [2, 5])
def test_a_rollin_that_is_cut_off(limit):
    guide, policy = OneToken(G, lengths=(8,)), OneToken(P, lengths=(8,), logprob=-1.0)
    plan = Plan(rollout=policy, rollin=guide, rollin_prob=1.0)
    trajectories = collect(limited_envs(8, limit), plan, episodes=16, generator=generator(2))
    assert set(trajectories.lengths.tolist()) == {limit}
    switches = trajectories.switch.tolist()
    assert shown(trajectories) == ["g" * h + "p" * (limit - h) for h in switches]
    assert limit in switches  # a rollin longer than the limit; nothing is left to learn from
    assert torch.equal(trajectories.learn.sum(1), limit - trajectories.switch)
    assert trajectories.tokens[~trajectories.is_token].eq(0).all()
    assert trajectories.old_logprobs[~trajectories.wrote].eq(0).all()


class Counting:
    """A critic that says 10 before the first token, 11 before the second, …"""

    def __call__(self, texts: Texts) -> Tensor:
        return 10.0 + torch.arange(texts.tokens.shape[1] + 1).expand(len(texts), -1)


def test_only_a_text_that_is_cut_off_is_bootstrapped():
    envs = limited_envs(3, 3)
    policy = policy_of("gpt2")
    learner = ActorCritic(policy, PPOConfig(gamma=0.5, gae_lambda=0.0, kl_coef=0.0), TextLayout.of(envs))
    plan = Plan(rollout=OneToken(3, lengths=(2, 3, 99), logprob=-1.0))
    trajectories = learner.credit.add_reference_and_values(
        collect(envs, plan, episodes=3, generator=generator()), Counting()
    )
    advantages = learner.credit.experience(trajectories, kl_coef=learner.kl_controller.coef).advantages
    # Token 3 is paid 1, EOS 0; δ_t = r_t + ½ V(s_{t+1}) − V(s_t), V = 10, 11, 12, 13.
    first, second = 1 + 5.5 - 10, 1 + 6 - 11
    expected = torch.zeros(3, 8)
    expected[0, :2] = torch.tensor([first, -11.0])  # EOS
    expected[1, :3] = torch.tensor([first, second, -12.0])  # EOS, and the limit at the same token: nothing follows
    expected[2, :3] = torch.tensor([first, second, 1 + 6.5 - 12])  # cut off: V of what stands there
    torch.testing.assert_close(advantages, expected)
