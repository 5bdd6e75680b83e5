"""Other advantages and another policy loss as arguments of the same loop.

Here REINFORCE with a leave-one-out baseline over the batch: Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740
"""

import pytest
import torch
from doubles import MANY_EOS, alone, foreign_envs, generator, policy_of
from torch import Tensor

from tril_gym.agents import Plan, PPOConfig, TextLayout, Trajectories, adamw, collect
from tril_gym.agents.learners.credit import CreditAssignment
from tril_gym.agents.learners.critic import make_critic
from tril_gym.agents.learners.epochs import Epochs
from tril_gym.agents.learners.experience import Counts, Experience
from tril_gym.agents.learners.objectives import ClippedRatio
from tril_gym.functional import masked_mean

CONFIG = PPOConfig(learning_rate=1e-3, minibatch_size=4, epochs=1, gamma=0.9, gae_lambda=0.5, group_by_length=False)


def leave_one_out(trajectories: Trajectories, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """A text's reward less the mean of the other texts' rewards, at each of its tokens."""
    totals = rewards.sum(1, keepdim=True)  # (B, 1)
    others = (totals.sum() - totals) / (len(totals) - 1)
    return torch.where(trajectories.is_token, totals - others, 0.0), torch.zeros_like(rewards)


def reinforce(logprobs: Tensor, part: Experience, counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
    """−mean A log π"""
    return -masked_mean(logprobs * part.advantages, part.learn, counts.learn), {}


GAE = CONFIG.advantages()
CLIPPED = ClippedRatio(clip_range=CONFIG.clip_range)


class Setting:
    """Twelve texts of a policy, and a learner's parts with the given formulas."""

    def __init__(self, advantages, loss):
        envs = foreign_envs(12, eos_token_ids=MANY_EOS)
        self.layout = TextLayout.of(envs)
        self.policy = policy_of("gpt2", dtype=torch.float64)
        self.texts = collect(envs, Plan(rollout=self.policy), episodes=12, generator=generator(1))
        self.critic = make_critic(self.policy)
        self.optimizer = adamw(self.policy.parameters(), CONFIG)
        frozen = self.policy.frozen_copy()
        self.credit = CreditAssignment(self.policy, frozen, self.layout, CONFIG, advantages=advantages)
        self.epochs = Epochs(self.policy, self.optimizer, self.layout, CONFIG, objective=loss)
        scored = self.credit.add_reference_and_values(self.texts, self.critic)
        self.experience = self.credit.experience(scored, kl_coef=0.0)

    def gradient(self) -> Tensor:
        self.epochs.gradients(self.experience, self.critic)
        return torch.cat([parameter.grad.flatten() for parameter in self.policy.parameters()])


def slow_gradient(s: Setting) -> Tensor:
    """One text at a time."""
    totals, losses = s.texts.rewards.sum(1).tolist(), []
    for row, total in enumerate(totals):
        advantage = total - (sum(totals) - total) / 11
        logprobs = s.policy.token_logprobs(alone(s.texts.texts, row), s.layout).logprobs
        losses.append(-advantage * logprobs.sum())
    loss = torch.stack(losses).sum() / int(s.texts.is_token.sum())
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, s.policy.parameters())])


def test_other_advantages_and_another_loss_give_their_own_gradient():
    s = Setting(leave_one_out, reinforce)
    fast, slow = s.gradient(), slow_gradient(s)
    assert float(slow.norm()) > 1e-4
    assert float((fast - slow).norm() / slow.norm()) < 1e-6


@pytest.mark.parametrize(("advantages", "loss"), [(GAE, reinforce), (GAE, CLIPPED)])
def test_other_formulas_give_another_gradient(advantages, loss):
    s = Setting(advantages, loss)
    slow = slow_gradient(s)
    assert float((s.gradient() - slow).norm() / slow.norm()) > 1e-2


def test_the_loop_steps_once_per_minibatch():
    s = Setting(leave_one_out, reinforce)
    before = [parameter.detach().clone() for parameter in s.policy.parameters()]
    metrics = s.epochs.run(s.experience, s.critic, adamw(s.critic.parameters(), CONFIG), generator(2))
    assert {int(state["step"]) for state in s.optimizer.state.values()} == {3}
    assert {"policy/loss", "policy/entropy", "critic/loss", "grad_norm/policy"} <= metrics.keys()
    assert any(not torch.equal(a, b) for a, b in zip(before, s.policy.parameters(), strict=True))
