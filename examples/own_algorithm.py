"""An algorithm of your own: a config with one more option, and a class with a plan of who writes what.

Here a reference begins some of the texts, and only the first words of it are kept; the policy writes on from there and
learns by PPO's update, whose presets it also has, because it extends PPO. From the command line:

    tril-gym train examples/own_algorithm.py:ShortHeadStart --head-start-prob 0.3 --output-dir runs/own

The rewards that this file prints are those of held-out prompts, before and after training.
"""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np

import tril_gym  # noqa: F401  (registers the environments)
from tril_gym.agents import PPO, Plan, PPOConfig, References, config_field, tiny_policy
from tril_gym.experiment import configure, evaluate


@dataclass(frozen=True, kw_only=True)
class ShortHeadStartConfig(PPOConfig):
    """Hyperparameters: each field is an option of the command line."""

    head_start_prob: float = config_field(0.5, "Probability that a reference begins a text", minimum=0, maximum=1)
    head_start: int = config_field(3, "Tokens of the reference that are kept", minimum=1)


@dataclass(frozen=True)
class FirstTokens:
    """Keep the first tokens of each rollin, at most all but its last."""

    count: int

    def __call__(self, lengths: np.ndarray, uniforms: np.ndarray, iteration: int) -> np.ndarray:
        """Return how many tokens of each rollin are kept, (B,)."""
        return np.minimum(self.count, np.maximum(lengths - 1, 0))


class ShortHeadStart(PPO):
    """Short head start: PPO, where the first tokens of a reference begin some texts."""

    name = "short-head-start"
    config_type = ShortHeadStartConfig

    def plan(self, iteration: int) -> Plan:
        """Return who writes which part of the texts of an iteration."""
        config = self.config
        return Plan(
            rollin=References(),
            rollin_prob=config.head_start_prob,
            cut=FirstTokens(config.head_start),
            rollout=self.policy,
        )


def main(iterations: int = 15, num_envs: int = 64, samples: int = 3000, examples: int = 100) -> tuple[float, float]:
    settings = {"num_envs": num_envs, "autoreset_mode": "Disabled"}
    envs = gym.make_vec("tril/CommonGen-v0", **settings)
    held_out = gym.make_vec("tril/CommonGen-v0", split="validation", **settings)

    policy = tiny_policy(envs, samples=samples)  # pretrained on the references, and cached on disk
    numbers = configure("ppo", iterations=iterations, num_envs=num_envs).hyperparameters
    agent = ShortHeadStart(policy, envs, ShortHeadStartConfig(**numbers), seed=0)

    before = evaluate(agent.policy, held_out, seed=0, count=examples)
    agent.learn(iterations)
    after = evaluate(agent.policy, held_out, seed=0, count=examples)

    rewards = tuple(result.metrics["sampled"]["reward/mean"] for result in (before, after))
    print("held-out reward before and after: {:.3f} {:.3f}".format(*rewards))
    return rewards


if __name__ == "__main__":
    main()
