"""BC: behaviour cloning, the supervised start. The references write, the policy learns to write like them.

Token-mean negative log-likelihood of a reference given its prompt; prompt and padding are not learned, EOS is. Under
the model's own softmax: no temperature, no minimum length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from tril_gym.agents.agent import Agent
from tril_gym.agents.clock import Clock
from tril_gym.agents.knobs import check_positive, knob
from tril_gym.agents.losses import nll_loss
from tril_gym.agents.plan import Plan
from tril_gym.agents.policy import LMPolicy
from tril_gym.agents.references import References
from tril_gym.agents.trajectories import Texts, Trajectories, minibatches
from tril_gym.agents.update import Metrics, adamw


@dataclass(frozen=True, kw_only=True)
class BCConfig:
    """Every number BC reads."""

    episodes_per_iteration: int | None = knob(None, "texts collected between updates; default: one per environment row")
    learning_rate: float = knob(1e-5, "AdamW step size")
    epochs: int = knob(1, "passes over the texts of an iteration")
    minibatch_size: int = knob(32, "texts per optimizer step")
    max_grad_norm: float = knob(1.0, "gradient norm is clipped to this")

    def __post_init__(self) -> None:
        check_positive(self, "episodes_per_iteration", "learning_rate", "epochs", "minibatch_size", "max_grad_norm")


class BC(Agent):
    """Behaviour cloning of the references."""

    name = "bc"
    config_type = BCConfig

    def __init__(self, policy: LMPolicy, envs: VectorEnv, config: BCConfig | None = None, *, seed: int = 0) -> None:
        config = config or BCConfig()
        super().__init__(policy, None, envs, config, seed)
        self.references = References()
        self.learner = Imitation(policy, config)

    def plan(self, iteration: int) -> Plan:
        """The references write everything; the reward that is logged is theirs."""
        return Plan(rollout=self.references)


class Imitation:
    """Makes a policy more likely to write given texts."""

    ref_policy = None

    def __init__(self, policy: LMPolicy, config: BCConfig) -> None:
        self.policy, self.config = policy, config
        self.optimizer = adamw(policy.model.parameters(), config.learning_rate)

    def update(self, trajectories: Trajectories, plan: Plan, *, generator: torch.Generator, clock: Clock) -> Metrics:
        """Learn an iteration's texts."""
        texts = trajectories.texts
        with clock.time("learn"):
            parts = minibatches(
                len(texts), epochs=self.config.epochs, size=self.config.minibatch_size, generator=generator
            )
            steps = [self.step(texts[rows]) for rows in parts]
        return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}

    def step(self, texts: Texts) -> Metrics:
        """One optimizer step on a minibatch."""
        loss = self.loss(texts.trimmed().to(self.policy.device))
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.policy.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        return {"policy/loss": float(loss.detach()), "grad_norm/policy": float(norm)}

    def loss(self, texts: Texts) -> Tensor:
        """Nats per token, a scalar."""
        return nll_loss(self.policy.plain_logprobs(texts), texts.is_token)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
