"""Measure the effect of a good and of a useless guide on the toy environment, over several seeds.

    python benchmarks/toy_guides.py [--seeds N] [--words N …] [--most N] [--agents NAME …] [--output FILE.json]

Good guide: the sparse rule "prefix", three words among 8, 16 and 32; it needs neither EOS nor the last token, and EOS
is excluded by min_new_tokens. The guide writes the right token with probability 0.95. Measured is the number of texts
until the policy's own texts have a mean reward of 0.5. With `--agents successes random-texts ppo` the guide of PPO++ is
the best of its own past texts or, as a control, random words.

Useless guide: it writes random tokens; rule "count". PPO learns for 12 iterations; D2LOLS, which switches to PPO++
after 3, for 24; LOLS for 12.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import side_by_side
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
    collect,
    tiny_policy,
)
from tril_gym.agents.actors.past_successes import PastSuccesses
from tril_gym.agents.actors.token_guide import TokenGuide
from tril_gym.envs.toy import EOS, ToyRules, guide_tokens
from tril_gym.models.texts import Texts

ROWS = 64
SPARSE = {"rule": "prefix", "max_prompt_length": 3, "max_new_tokens": 4, "min_new_tokens": 4}
WORDS = (8, 16, 32)
AGENTS = ("ppo-pp", "aggrevated", "ppo")
SPARSE_CONFIG = {"learning_rate": 1e-3, "critic_learning_rate": 1e-2, "minibatch_size": 32, "ent_coef": 0.01}
COUNT_CONFIG = {"learning_rate": 1e-2, "minibatch_size": 64}
COMMON = {"normalize_advantages": True, "kl_coef": 0.0}


def toy(**settings: Any) -> VectorEnv:
    return gym.make_vec("tril/Toy-v0", num_envs=ROWS, autoreset_mode="Disabled", **settings)


def noisy_guide(rules: ToyRules, q: float) -> TokenGuide:
    """Return a guide that writes the right token with probability q, else a random one."""

    def next_tokens(texts: Texts, draws: torch.Tensor) -> torch.Tensor:
        prompts = torch.where(texts.is_prompt, texts.prompts, -1)
        completions = torch.where(texts.is_token, texts.tokens, -1)
        return torch.from_numpy(guide_tokens(rules, prompts.numpy(), completions.numpy(), draws.numpy(), q=q))

    return TokenGuide(next_tokens)


def new_policy(envs: VectorEnv, seed: int) -> LMPolicy:
    return tiny_policy(envs, samples=0, width=32, heads=2, seed=seed)


def mean_reward(policy: LMPolicy, envs: VectorEnv, episodes: int = 256) -> float:
    """Return the mean reward of texts that the policy writes alone."""
    generator = torch.Generator().manual_seed(99)
    return float(collect(envs, Plan(rollout=policy), episodes=episodes, generator=generator).rewards.sum(1).mean())


def sparse_agent(name: str, seed: int, words: int) -> Agent:
    """Build an agent for the sparse rule, with a good guide if it takes one, or with a table as guide."""
    envs = toy(**SPARSE, vocab_size=words, num_examples=1)
    policy, guide = new_policy(envs, seed), noisy_guide(ToyRules("prefix", vocab_size=words, max_new_tokens=4), 0.95)
    settings = COMMON | SPARSE_CONFIG
    if name == "ppo":
        return PPO(policy, envs, PPOConfig(**settings), seed=seed)
    guides = {"ppo-pp": guide, "successes": PastSuccesses(1.0), "random-texts": random_texts(seed, words)}
    if name in guides:
        return PPOPlusPlus(policy, guides[name], envs, PPOPlusPlusConfig(**settings, rollin_prob=0.5), seed=seed)
    return AggreVaTeD(policy, guide, envs, AggreVaTeDConfig(**settings), seed=seed)


def random_texts(seed: int, words: int) -> PastSuccesses:
    """Return a guide that always writes the same four random words."""
    guide = PastSuccesses()
    words_of = torch.randint(EOS + 1, words, (4,), generator=torch.Generator().manual_seed(seed))
    guide.table[0] = (words_of.tolist(), math.inf)  # no text is better
    return guide


def texts_to_reach(agent: Agent, target: float, most: int) -> int | None:
    """Return the texts until the mean reward is `target`, checked every 128 texts; None after `most` texts."""
    while agent.iteration * ROWS < most:
        agent.learn(2, progress=False)
        if mean_reward(agent.policy, agent.envs) >= target:
            return agent.iteration * ROWS
    return None


def with_useless_guide(seed: int, iterations: int = 12) -> dict[str, float]:
    """Return the mean rewards of the untrained policy and of each algorithm's policy; D2LOLS trains twice as long."""
    envs, guide = toy(), noisy_guide(ToyRules(), 0.0)
    settings = COMMON | COUNT_CONFIG
    ppo = PPO(new_policy(envs, seed), envs, PPOConfig(**settings), seed=seed)
    late = D2LOLSConfig(**settings, aggrevated_iterations=3, rollin_prob=0.5)
    d2lols = D2LOLS(new_policy(envs, seed), guide, envs, late, seed=seed)
    lols = LOLS(new_policy(envs, seed), guide, envs, LOLSConfig(**settings, ppo_pp_prob=0.5), seed=seed)
    rewards = {"start": mean_reward(ppo.policy, envs)}
    for agent, number in ((ppo, iterations), (d2lols, 2 * iterations), (lols, iterations)):
        agent.learn(number, progress=False)
        rewards[agent.name] = mean_reward(agent.policy, envs)
    return rewards


def with_good_guide(seeds: range, words: int, most: int, names: Sequence[str] = AGENTS) -> dict[str, list[int | None]]:
    """Return the texts that each seed of each algorithm needs, and print their medians."""
    counts: dict[str, list[int | None]] = {}
    for name in names:
        counts[name] = [texts_to_reach(sparse_agent(name, seed, words), 0.5, most) for seed in seeds]
        median = statistics.median(most if count is None else count for count in counts[name])
        reached = f"{sum(count is not None for count in counts[name])} of {len(seeds)} reach the goal"
        print(
            f"good guide, {words:2d} words  {name:12s} median {median:g} texts, {reached}: {counts[name]}", flush=True
        )
    return counts


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = side_by_side.parser(__doc__, count="--seeds", help="number of seeds", threads=1)
    options.add_argument("--most", type=int, default=12_000, help="number of texts after which an agent is given up")
    options.add_argument("--words", type=int, nargs="+", default=WORDS, help="vocabularies of the sparse rule")
    options.add_argument(
        "--agents", nargs="+", default=AGENTS, choices=(*AGENTS, "successes", "random-texts"), help="of the sparse rule"
    )
    settings = side_by_side.parse(options, arguments)
    if settings.smoke:
        settings.most = 128
    iterations = 1 if settings.smoke else 12
    seeds = range(settings.repeat)
    good = {words: with_good_guide(seeds, words, settings.most, settings.agents) for words in settings.words}
    useless = [with_useless_guide(seed, iterations) for seed in seeds]
    for name in useless[0]:
        rewards = [own[name] for own in useless]
        shown = [round(reward, 3) for reward in rewards]
        print(f"useless guide  {name:11s} median {statistics.median(rewards):.3f} reward of {shown}", flush=True)
    return side_by_side.finish(settings, good=good, useless=useless)


if __name__ == "__main__":
    main()
