"""Critic warm-up: in the first updates of a critic it learns alone."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from doubles import MANY_EOS, foreign_envs, generator, policy_of
from torch import Tensor

from tril_gym.agents import Guide, LMPolicy, Plan, PPOConfig, TextLayout
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.utils.profiler import Timer

NUMBERS = {"learning_rate": 1e-3, "minibatch_size": 8, "epochs": 2}


class Run:
    """A policy with its learner, and both plans of LOLS."""

    def __init__(self, **numbers: Any) -> None:
        self.envs = foreign_envs(16, eos_token_ids=MANY_EOS)
        self.policy: LMPolicy = policy_of("gpt2")
        guide = Guide(policy_of("gpt2", seed=1))
        self.learner = ActorCritic(self.policy, PPOConfig(**NUMBERS | numbers), TextLayout.of(self.envs))
        self.plans = {
            "policy": Plan.guide_starts(self.policy, guide, rollin_prob=0.6),
            "guide": Plan.guide_finishes(self.policy, guide, rollin_prob=0.6),
        }

    def update(self, owner: str = "policy", **options: Any) -> dict[str, float]:
        plan = self.plans[owner]
        texts = collect(self.envs, plan, episodes=16, generator=generator(1))
        return self.learner.update(texts, plan, generator=generator(2), timer=Timer(), **options)

    def policy_weights(self) -> list[Tensor]:
        return [weight.clone() for weight in self.policy.model.state_dict().values()]

    def critic_weights(self, owner: str = "policy") -> list[Tensor]:
        return [weight.clone() for weight in self.learner.critic(owner)[0].state_dict().values()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_the_policy_learns_after_the_warmup_only(critic):
    run = Run(critic=critic, critic_warmup=2)
    start = run.policy_weights()
    for _ in range(2):
        before = run.critic_weights()
        run.update()
        assert equal(run.policy_weights(), start)
        assert not equal(run.critic_weights(), before)
    assert not run.learner.optimizer.state  # no momentum either
    run.update()
    assert not equal(run.policy_weights(), start)


def test_without_warmup_the_policy_learns_at_once():
    run = Run()
    start = run.policy_weights()
    run.update()
    assert not equal(run.policy_weights(), start)


@pytest.mark.parametrize("joint_grad_norm", [False, True])
def test_the_policys_gradients_do_not_reach_the_critic(joint_grad_norm):
    # An entropy bonus of weight 1e6 makes the policy's gradient huge: one norm of both would scale the critic's down.
    plain, large = (Run(critic_warmup=1, joint_grad_norm=joint_grad_norm, ent_coef=weight) for weight in (0.0, 1e6))
    norms = [run.update()["grad_norm/policy"] for run in (plain, large)]
    assert norms[1] > 1000 * norms[0]
    assert equal(plain.critic_weights(), large.critic_weights())


def test_the_critic_learns_as_it_does_beside_a_policy():
    alone, beside = Run(critic_warmup=1), Run()
    metrics, expected = alone.update(), beside.update()
    assert equal(alone.critic_weights(), beside.critic_weights())
    assert list(metrics) == list(expected)
    assert metrics["critic/loss"] == expected["critic/loss"]


def test_each_critic_has_its_own_warmup():
    run = Run(critic_warmup=1)
    start = run.policy_weights()
    run.update("guide")
    assert equal(run.policy_weights(), start)
    run.update("guide")
    learned = run.policy_weights()
    assert not equal(learned, start)
    run.update("policy")
    assert equal(run.policy_weights(), learned)
    run.update("policy")
    assert not equal(run.policy_weights(), learned)


def test_the_kl_coefficient_stands_still():
    numbers = {"kl_coef": 0.1, "kl_controller": "proportional", "kl_target": 1.0, "kl_gain": 0.01}
    run = Run(critic_warmup=1, **numbers)
    run.update()
    assert run.learner.kl_controller.coef == 0.1
    run.update()
    assert run.learner.kl_controller.coef != 0.1


def test_a_caller_may_keep_the_policy_still():
    run = Run()
    start = run.policy_weights()
    run.update(learns_policy=False)
    assert equal(run.policy_weights(), start)


def test_the_warmup_goes_on_where_it_was_saved():
    run, loaded, forgetful = (Run(critic_warmup=2) for _ in range(3))
    run.update()
    state = deepcopy(run.learner.state_dict())  # tensors of an optimizer's state would be shared
    for other in (loaded, forgetful):
        other.learner.load_state_dict(deepcopy(state))
    forgetful.learner.critic_updates.clear()
    for one in (run, loaded, forgetful):
        one.update()
        one.update()
    assert equal(loaded.policy_weights(), run.policy_weights())
    assert not equal(forgetful.policy_weights(), run.policy_weights())
