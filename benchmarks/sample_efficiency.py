"""Measure how much PPO learns from each text, and whether it keeps what it has learned.

    python benchmarks/sample_efficiency.py [--seeds N] [--iterations N] [--minibatch-size N] [--output FILE.json]

The toy environment: the reward of a text of up to 48 words is the share of good words, an eighth of 2,000. The small
GPT-2 of the other benchmarks, from random weights; 64 texts an iteration, learning rate 1e-3, KL coefficient 0.001,
whitened advantages, minibatches of 16 as in iteration.py, PPO's defaults otherwise. Shown are the mean reward of
iterations 21 to 25, and the mean of the last five iterations beside the best mean of five in a row.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import gymnasium as gym
import side_by_side
import torch
from benchmark_models import gpt2
from side_by_side import is_met, show_table

from tril_gym.agents import PPO, LMPolicy, PPOConfig

CONFIG = {"learning_rate": 1e-3, "kl_coef": 0.001, "normalize_advantages": True}
WINDOW = 5  # number of iterations of a mean
EARLY = 25  # last iteration of the early mean
LEARNED, KEPT = 0.25, 0.8  # targets: early mean, median of the seeds; last mean as a share of the best


def rewards_of(
    seed: int, iterations: int, minibatch_size: int, vocab_size: int = 2_000, texts: int = 64, layers: int = 4
) -> list[float]:
    """Train one run; return the mean reward of each iteration."""
    envs = gym.make_vec(
        "tril/Toy-v0",
        num_envs=texts,
        rule="count",
        vocab_size=vocab_size,
        good_every=8,
        max_prompt_length=64,
        max_new_tokens=48,
        num_examples=1_000,
        autoreset_mode="Disabled",
    )
    policy = LMPolicy(gpt2(vocab_size=vocab_size, layers=layers, seed=seed), envs.unwrapped.tokenizer)
    agent = PPO(policy, envs, PPOConfig(**CONFIG, minibatch_size=minibatch_size), seed=seed)
    return agent.learn(iterations, progress=False)["reward/mean"]


def summary(rewards: Sequence[float]) -> dict[str, float]:
    """Return the first reward and the early, best and last mean of a run, and the share of the best that is kept."""
    means = [statistics.mean(rewards[end - WINDOW : end]) for end in range(WINDOW, len(rewards) + 1)]
    early = means[min(EARLY, len(rewards)) - WINDOW]
    return {"first": rewards[0], "early": early, "best": max(means), "last": means[-1], "kept": means[-1] / max(means)}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = side_by_side.parser(__doc__, count="--seeds", help="number of seeds", threads=1)
    options.add_argument("--iterations", type=int, default=60, help="iterations of a run")
    options.add_argument("--minibatch-size", type=int, default=16, help="texts in a minibatch")
    options.add_argument("--workers", type=int, default=2, help="number of runs in parallel, each in its own process")
    settings = side_by_side.parse(options, arguments)
    sizes = (40, 8, 1) if settings.smoke else ()
    iterations, seeds = 6 if settings.smoke else settings.iterations, settings.repeat
    with ProcessPoolExecutor(
        settings.workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(settings.threads,)
    ) as pool:
        jobs = [pool.submit(rewards_of, seed, iterations, settings.minibatch_size, *sizes) for seed in range(seeds)]
        runs = [job.result() for job in jobs]
    summaries = [summary(rewards) for rewards in runs]
    show_table("mean rewards by seed", {str(seed): means for seed, means in enumerate(summaries)})
    early = statistics.median(means["early"] for means in summaries)
    kept = min(means["kept"] for means in summaries)
    print(f"early, median of {seeds} seeds: {early:.3f}; target {LEARNED} or more: {is_met(early >= LEARNED)}")
    print(f"last of best, least of {seeds} seeds: {kept:.3f}; target {KEPT} or more: {is_met(kept >= KEPT)}")
    return side_by_side.finish(settings, rewards=runs, summaries=summaries, early=early, kept=kept)


if __name__ == "__main__":
    main()
