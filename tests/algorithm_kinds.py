"""Every algorithm in each of its modes, and what its plan must be."""

from dataclasses import dataclass, replace
from typing import Any

from doubles import G, OneToken, foreign_envs, policy_of
from gymnasium.vector import VectorEnv

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import (
    D2LOLS,
    LOLS,
    PPO,
    Agent,
    AggreVaTeD,
    AggreVaTeDConfig,
    D2LOLSConfig,
    LOLSConfig,
    Plan,
    PPOConfig,
    PPOPlusPlus,
    PPOPlusPlusConfig,
)


@dataclass(frozen=True)
class Kind:
    """An algorithm in one of its iterations, and the expected plan."""

    agent: type[Agent]
    config: type
    rollin: str  # letter of the actor
    rollout: str
    learn: str  # the part that the policy learns on; the critic always learns on the rollout
    critic: str
    iteration: int = 0
    numbers: tuple[tuple[str, Any], ...] = ()

    def __call__(self, envs: VectorEnv | None = None, *, guide: Any = None, seed: int = 0, **numbers: Any) -> Agent:
        envs = foreign_envs(8) if envs is None else envs
        config = self.config(**dict(self.numbers) | numbers)
        policy = policy_of(vocab_size=envs.metadata["text"]["vocab_size"])
        if self.agent is PPO:
            return PPO(policy, envs, config, seed=seed)
        return self.agent(policy, OneToken(G) if guide is None else guide, envs, config, seed=seed)

    def plan(self, agent: Agent, policy: OneToken) -> Plan:
        """Return the agent's plan with a stub in place of the policy."""
        plan = agent.plan(self.iteration)
        actors = {"rollin": plan.rollin, "rollout": plan.rollout}
        return replace(plan, **{part: policy for part, actor in actors.items() if actor is agent.policy})


PPO_PP = ("g", "p", "rollout", "policy")
AGGREVATED = ("p", "g", "rollin", "guide")
BETA = (("rollin_prob", 0.6),)
KINDS = {
    "ppo": Kind(PPO, PPOConfig, "", "p", "rollout", "policy"),
    "ppo-pp": Kind(PPOPlusPlus, PPOPlusPlusConfig, *PPO_PP, numbers=BETA),
    "aggrevated": Kind(AggreVaTeD, AggreVaTeDConfig, *AGGREVATED, numbers=BETA),
    "lols, ppo-pp": Kind(LOLS, LOLSConfig, *PPO_PP, numbers=(*BETA, ("ppo_pp_prob", 1.0))),
    "lols, aggrevated": Kind(LOLS, LOLSConfig, *AGGREVATED, numbers=(*BETA, ("ppo_pp_prob", 0.0))),
    "d2lols, first": Kind(D2LOLS, D2LOLSConfig, *AGGREVATED, numbers=(*BETA, ("aggrevated_iterations", 3))),
    "d2lols, before": Kind(D2LOLS, D2LOLSConfig, *AGGREVATED, 2, (*BETA, ("aggrevated_iterations", 3))),
    "d2lols, after": Kind(D2LOLS, D2LOLSConfig, *PPO_PP, 3, (*BETA, ("aggrevated_iterations", 3))),
    "d2lols, at once": Kind(D2LOLS, D2LOLSConfig, *PPO_PP, 0, (*BETA, ("aggrevated_iterations", 0))),
}
GUIDED = [name for name in KINDS if name != "ppo"]
POLICY_BEGINS = [name for name in KINDS if KINDS[name].rollin == "p"]
