"""Log-probabilities that the policy gives to the guide's tokens change no loss."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from algorithm_kinds import KINDS
from doubles import ForeignDense, G, OneToken, foreign_envs, generator
from torch import Tensor

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    Trajectories,
)
from tril_gym.agents.collection.collector import collect
from tril_gym.utils.profiler import Timer

GARBAGE = [-50.0, float("nan")]


class TestLogprobsOfTheGuidesTokens:
    @pytest.mark.parametrize("name", ["ppo-pp", "aggrevated"])
    def test_stored_ones(self, name):
        _, trajectories = self.setting(name)
        guides = trajectories.is_token & ~trajectories.wrote

        def learned(where: Tensor, garbage: float) -> tuple[Tensor, dict[str, float]]:
            """Return weights and metrics after an update on texts with garbage in some cells."""
            agent, _ = self.setting(name)
            texts = replace(trajectories, old_logprobs=torch.where(where, garbage, trajectories.old_logprobs))
            figures = agent.learner.update(texts, agent.plan(1), generator=generator(7), timer=Timer())
            return torch.cat([weight.detach().flatten() for weight in agent.policy.parameters()]), figures

        expected, figures = learned(torch.zeros_like(guides), 0.0)
        for garbage in GARBAGE:
            weights, found = learned(guides, garbage)
            assert torch.equal(weights, expected)
            assert found == figures
        assert not torch.equal(learned(trajectories.wrote, -5.0)[0], expected)  # control

    @pytest.mark.parametrize("name", ["ppo-pp", "aggrevated"])
    @pytest.mark.parametrize("garbage", GARBAGE)
    def test_present_ones(self, name, garbage, monkeypatch):
        agent, trajectories = self.setting(name)
        expected = self.gradients(agent, trajectories)
        assert max(float(gradient.abs().max()) for gradient in expected) > 1e-3
        guides = trajectories.is_token & ~trajectories.wrote
        for where in (guides, trajectories.wrote):
            with monkeypatch.context() as patch:
                for policy in (agent.policy, agent.learner.ref_policy):
                    wrong = with_garbage(policy.token_logprobs, where, garbage)
                    patch.setattr(policy, "token_logprobs", wrong)
                found = self.gradients(agent, trajectories)
            same = all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
            assert same == (where is guides)

    @staticmethod
    def setting(name: str) -> tuple[Any, Trajectories]:
        """Return an agent after an iteration, and texts that both have written."""
        envs = foreign_envs(8, env=ForeignDense)
        numbers = {"kl_coef": 0.5, "ent_coef": 0.1, "temperature": 3.0, "learning_rate": 1e-3, "minibatch_size": 8}
        agent = KINDS[name](envs, guide=OneToken(G, lengths=(7,)), **numbers)
        agent.learn(1)
        trajectories = collect(envs, agent.plan(1), episodes=8, generator=generator(6))
        assert trajectories.wrote.any()
        assert not trajectories.wrote.all()
        return agent, trajectories

    @staticmethod
    def gradients(agent: Any, trajectories: Trajectories) -> list[Tensor]:
        """Of policy and critic, on all texts at once."""
        critic, _ = agent.learner.critic(agent.plan(1).critic)
        experience = agent.learner.credit.experience(
            agent.learner.credit.add_reference_and_values(trajectories, critic),
            kl_coef=agent.learner.kl_controller.coef,
        )
        agent.learner.epochs.gradients(experience, critic)
        parameters = [*agent.policy.parameters(), *critic.parameters()]
        return [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


def with_garbage(score: Any, where: Tensor, garbage: float) -> Any:
    """Return a policy's scoring function with garbage in some cells."""

    def score_with_garbage(texts: Any, *rest: Any, **more: Any) -> Any:
        scores, here = score(texts, *rest, **more), where[:, : texts.tokens.shape[1]]
        entropy = None if scores.entropy is None else torch.where(here, garbage, scores.entropy)
        return replace(scores, logprobs=torch.where(here, garbage, scores.logprobs), entropy=entropy)

    return score_with_garbage
