"""What a guide is worth on the toy world, good or useless: texts that agents need, several seeds.

    python benchmarks/toy_guides.py [--seeds N] [--output FILE.json]

Good guide: a sparse rule, "prefix", of three words among sixteen; it needs neither EOS nor the last token, and EOS is
excluded by min_new_tokens. The guide writes the right token with probability 0.95. Counted are the texts until the
policy's own are paid 0.5 on average.

Useless guide: it writes any token; rule "count". PPO learns for 12 iterations; D2LOLS, which hands over after 3, for
24; LOLS for 12.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
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
    LMPolicy,
    LOLSConfig,
    Plan,
    PPOConfig,
    PPOPlusPlus,
    PPOPlusPlusConfig,
    tiny_policy,
)
from tril_gym.agents.actors.token_guide import TokenGuide
from tril_gym.agents.collection.collector import collect
from tril_gym.envs.toy import ToyRules, guide_tokens
from tril_gym.models.texts import Texts

ROWS = 64
SPARSE = {"rule": "prefix", "vocab_size": 16, "max_prompt_length": 3, "max_new_tokens": 4, "min_new_tokens": 4}
SPARSE_NUMBERS = {"learning_rate": 1e-3, "critic_learning_rate": 1e-2, "minibatch_size": 32, "ent_coef": 0.01}
COUNT_NUMBERS = {"learning_rate": 1e-2, "minibatch_size": 64}
SHARED = {"normalize_advantages": True, "kl_coef": 0.0}


def toy(**settings: Any) -> VectorEnv:
    return gym.make_vec("tril/Toy-v0", num_envs=ROWS, autoreset_mode="Disabled", **settings)


def noisy_guide(rules: ToyRules, q: float) -> TokenGuide:
    """Writes the right token with probability q, else any."""

    def next_tokens(texts: Texts, draws: torch.Tensor) -> torch.Tensor:
        prompts = torch.where(texts.is_prompt, texts.prompts, -1)
        completions = torch.where(texts.is_token, texts.tokens, -1)
        return torch.from_numpy(guide_tokens(rules, prompts.numpy(), completions.numpy(), draws.numpy(), q=q))

    return TokenGuide(next_tokens)


def newborn(envs: VectorEnv, seed: int) -> LMPolicy:
    return tiny_policy(envs, samples=0, width=32, heads=2, seed=seed)


def value(policy: LMPolicy, envs: VectorEnv, episodes: int = 256) -> float:
    """What the policy's own texts are paid on average."""
    generator = torch.Generator().manual_seed(99)
    return float(collect(envs, Plan(rollout=policy), episodes=episodes, generator=generator).rewards.sum(1).mean())


def sparse_agent(name: str, seed: int) -> Agent:
    """An agent before the sparse rule, with a good guide where it takes one."""
    envs = toy(**SPARSE, num_examples=1)
    policy, guide = newborn(envs, seed), noisy_guide(ToyRules("prefix", vocab_size=16, max_new_tokens=4), 0.95)
    numbers = SHARED | SPARSE_NUMBERS
    if name == "ppo":
        return PPO(policy, envs, PPOConfig(**numbers), seed=seed)
    if name == "ppo-pp":
        return PPOPlusPlus(policy, guide, envs, PPOPlusPlusConfig(**numbers, rollin_prob=0.5), seed=seed)
    return AggreVaTeD(policy, guide, envs, AggreVaTeDConfig(**numbers), seed=seed)


def texts_to_reach(agent: Agent, target: float, most: int) -> int | None:
    """Texts until the policy's own are paid `target`, counted every 128; None if that takes more than `most`."""
    while agent.iteration * ROWS < most:
        agent.learn(2)
        if value(agent.policy, agent.envs) >= target:
            return agent.iteration * ROWS
    return None


def with_a_useless_guide(seed: int) -> dict[str, float]:
    """Rewards: of the newborn policy, and of each algorithm's."""
    envs, guide = toy(), noisy_guide(ToyRules(), 0.0)
    numbers = SHARED | COUNT_NUMBERS
    ppo = PPO(newborn(envs, seed), envs, PPOConfig(**numbers), seed=seed)
    late = D2LOLSConfig(**numbers, aggrevated_iterations=3, rollin_prob=0.5)
    d2lols = D2LOLS(newborn(envs, seed), guide, envs, late, seed=seed)
    lols = LOLS(newborn(envs, seed), guide, envs, LOLSConfig(**numbers, ppo_pp_prob=0.5), seed=seed)
    found = {"start": value(ppo.policy, envs)}
    for agent, iterations in ((ppo, 12), (d2lols, 24), (lols, 12)):
        found[agent.name] = value(agent.learn(iterations).policy, envs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What a guide is worth on the toy world.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, default=12_000, help="texts after which an agent is given up")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    good: dict[str, list[int | None]] = {
        name: [texts_to_reach(sparse_agent(name, seed), 0.5, arguments.most) for seed in range(arguments.seeds)]
        for name in ("ppo-pp", "aggrevated", "ppo")
    }
    for name, counts in good.items():
        median = statistics.median(arguments.most if count is None else count for count in counts)
        print(f"good guide     {name:11s} median {median:g} texts of {counts}", flush=True)
    useless = [with_a_useless_guide(seed) for seed in range(arguments.seeds)]
    for name in useless[0]:
        rewards = [round(found[name], 3) for found in useless]
        print(f"useless guide  {name:11s} median {statistics.median(rewards):g} reward of {rewards}", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps({"good": good, "useless": useless}, indent=2) + "\n")


if __name__ == "__main__":
    main()
