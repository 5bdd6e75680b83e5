"""Values of a shared critic, recorded during collection, equal those of a separate forward pass."""

from typing import Any

import pytest
import torch
from doubles import MANY_EOS, foreign_envs, generator, learned, policy_of
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from torch import nn

from tril_gym.agents import PPO, Guide, Plan, PPOConfig, TextLayout, Trajectories
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.learners.actor_critic import ActorCritic
from tril_gym.agents.learners.critic import ValueRecordingActor


def envs_of(limit: int | None = None, rows: int = 8) -> SyncVectorEnv:
    """Return foreign environments, with a time limit if given."""
    if limit is None:
        return foreign_envs(rows, eos_token_ids=MANY_EOS)
    return SyncVectorEnv([lambda: TimeLimit(foreign_envs(1, eos_token_ids=MANY_EOS).envs[0], limit)] * rows)


def learner_of(family: str, **numbers: Any) -> ActorCritic:
    """Return a learner in float64 whose critic has a random last layer."""
    policy = policy_of(family, dtype=torch.float64)
    learner = ActorCritic(policy, PPOConfig(critic="shared", **numbers), TextLayout.of(envs_of()))
    nn.init.normal_(learner.critic("policy")[0].head.weight, generator=generator(3))
    return learner


def guided(learner: ActorCritic) -> Plan:
    return Plan(rollout=learner.policy, rollin=Guide(policy_of("gpt2", seed=1)), rollin_prob=0.6)


def written(learner: ActorCritic, plan: Plan, limit: int | None = None) -> Trajectories:
    return collect(envs_of(limit), plan, episodes=20, generator=generator(1))


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("family", ["gpt2", "qwen2", "t5", "bart"])
def test_values_equal_those_of_a_forward_pass(family, limit):
    learner = learner_of(family)
    plan = guided(learner)
    kept = written(learner, learner.collection_plan(plan), limit)
    plain = written(learner, plan, limit)
    assert plain.values is None
    assert torch.equal(kept.tokens, plain.tokens)
    assert torch.equal(kept.old_logprobs, plain.old_logprobs)
    critic, _ = learner.critic("policy")
    annotated, expected = (
        learner.credit.add_reference_and_values(kept, critic),
        learner.credit.add_reference_and_values(plain, critic),
    )
    mask = expected.is_rollout
    assert mask.any()
    assert expected.values[:, :-1][mask].std() > 0.1
    assert torch.allclose(annotated.values[:, :-1][mask], expected.values[:, :-1][mask], atol=1e-9)
    # advantages and returns are the same, also of truncated texts
    one, other = (
        learner.credit.experience(annotated, kl_coef=learner.kl_controller.coef),
        learner.credit.experience(expected, kl_coef=learner.kl_controller.coef),
    )
    assert torch.allclose(one.advantages[one.learn], other.advantages[one.learn], atol=1e-9)
    assert torch.allclose(one.returns[one.learn_critic], other.returns[one.learn_critic], atol=1e-9)
    assert bool(expected.is_cut_off.any()) is (limit is not None)


@pytest.mark.parametrize("limit", [None, 3])
def test_only_truncated_texts_are_read_again(limit, monkeypatch):
    learner = learner_of("gpt2")
    kept = written(learner, learner.collection_plan(Plan(rollout=learner.policy)), limit)
    critic, _ = learner.critic("policy")
    read = []
    whole = type(critic).__call__
    monkeypatch.setattr(type(critic), "__call__", lambda self, texts: read.append(len(texts)) or whole(self, texts))
    learner.credit.add_reference_and_values(kept, critic)
    assert sum(read) == int(kept.is_cut_off.sum())


@pytest.mark.parametrize(
    ("family", "numbers", "plan_of"),
    [
        ("gpt2", {"critic": "separate"}, lambda learner: Plan(rollout=learner.policy)),
        ("gpt2", {"mixed_precision": "bf16"}, lambda learner: Plan(rollout=learner.policy)),  # rounding differs
        ("gpt2", {}, lambda learner: Plan(rollout=Guide(learner.policy.frozen_copy()), critic="guide")),
        (
            "gpt2",
            {},
            lambda learner: Plan(
                rollout=Guide(learner.policy.frozen_copy()), rollin=learner.policy, rollin_prob=0.5, learn_on="rollin"
            ),
        ),
    ],
)
def test_values_that_would_differ_are_not_recorded(family, numbers, plan_of):
    config = PPOConfig(**{"critic": "shared"} | numbers)
    learner = ActorCritic(policy_of(family), config, TextLayout.of(envs_of()))
    plan = plan_of(learner)
    assert learner.collection_plan(plan) is plan


def test_models_without_known_head_record_nothing():
    policy = policy_of("bart")
    policy.model.final_logits_bias += 1.0
    learner = ActorCritic(policy, PPOConfig(critic="shared"), TextLayout.of(envs_of()))
    plan = Plan(rollout=policy)
    assert learner.collection_plan(plan) is plan


def test_learning_records_values(monkeypatch):
    """`learn` collects with a `ValueRecordingActor`; the weights are the same without it."""

    def weights(keeps: bool) -> torch.Tensor:
        if not keeps:
            monkeypatch.setattr(ActorCritic, "collection_plan", lambda self, plan: plan)
        numbers = {"critic": "shared", "learning_rate": 1e-3, "minibatch_size": 4}
        agent = learned(PPO(policy_of("gpt2", dtype=torch.float64), envs_of(), PPOConfig(**numbers), seed=3), 3)
        return agent.policy.model.lm_head.weight.detach().clone()

    started = []
    monkeypatch.setattr(ValueRecordingActor, "start", spied(ValueRecordingActor.start, started))
    kept = weights(True)
    assert len(started) == 3
    assert torch.allclose(kept, weights(False), atol=1e-9)
    assert len(started) == 3


def spied(function, calls):
    def spy(self, *given):
        calls.append(given)
        return function(self, *given)

    return spy
