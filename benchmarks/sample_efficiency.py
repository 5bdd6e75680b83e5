"""How much PPO learns from each text, and whether it keeps what it has learned.

    python benchmarks/sample_efficiency.py [--seeds N] [--iterations N] [--minibatch-size N] [--output FILE.json]

The toy world: a text of up to 48 words is paid the share of its words that are good, an eighth of 2,000. The small
GPT-2 of the other benchmarks, from random weights; 64 texts an iteration, learning rate 1e-3, KL coefficient 0.001,
whitened advantages, minibatches of 16 as in iteration.py, all else as PPO has it. Shown are the mean reward of
iterations 21 to 25, and that of the last five beside the best five in a row.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from benchmark_models import gpt2
from side_by_side import machine, show_table

from tril_gym.agents import PPO, LMPolicy, PPOConfig

NUMBERS = {"learning_rate": 1e-3, "kl_coef": 0.001, "normalize_advantages": True}
WINDOW = 5  # iterations that a mean is taken over
EARLY = 25  # its last iteration
LEARNED, KEPT = 0.25, 0.8  # targets: early mean in the median seed; last mean as a share of the best


def rewards_of(
    seed: int, iterations: int, minibatch_size: int, vocab_size: int = 2_000, texts: int = 64, layers: int = 4
) -> list[float]:
    """Mean reward of each iteration of one run."""
    torch.set_num_threads(1)
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
    rewards: list[float] = []
    agent = PPO(policy, envs, PPOConfig(**NUMBERS, minibatch_size=minibatch_size), seed=seed)
    agent.learn(iterations, after=lambda report: rewards.append(report.metrics["reward/mean"]))
    return rewards


def judge(rewards: Sequence[float]) -> dict[str, float]:
    """What one run learned early, the best it ever was, and what it had at its end."""
    means = [statistics.mean(rewards[end - WINDOW : end]) for end in range(WINDOW, len(rewards) + 1)]
    early = means[min(EARLY, len(rewards)) - WINDOW]
    return {"first": rewards[0], "early": early, "best": max(means), "last": means[-1], "kept": means[-1] / max(means)}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--iterations", type=int, default=60)
    options.add_argument("--minibatch-size", type=int, default=16)
    options.add_argument("--workers", type=int, default=2, help="seeds that run at once, on one core each")
    options.add_argument("--output", type=Path, help="also write every reward there, as JSON")
    options.add_argument("--smoke", action="store_true", help="tiny sizes: to see that it runs")
    settings = options.parse_args(arguments)
    sizes = (40, 8, 1) if settings.smoke else ()
    iterations, seeds = (6, 2) if settings.smoke else (settings.iterations, settings.seeds)
    with ProcessPoolExecutor(settings.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(rewards_of, seed, iterations, settings.minibatch_size, *sizes) for seed in range(seeds)]
        runs = [job.result() for job in jobs]
    verdicts = [judge(rewards) for rewards in runs]
    show_table("mean rewards by seed", {str(seed): logits_of for seed, logits_of in enumerate(verdicts)})
    median = statistics.median(logits_of["early"] for logits_of in verdicts)
    least = min(logits_of["kept"] for logits_of in verdicts)
    print(f"early, median of {seeds} seeds: {median:.3f}; target {LEARNED} or more: {_met(median >= LEARNED)}")
    print(f"last of best, least of {seeds} seeds: {least:.3f}; target {KEPT} or more: {_met(least >= KEPT)}")
    found = {"machine": machine(), "rewards": runs, "verdicts": verdicts, "early": median, "kept": least}
    if settings.output:
        settings.output.write_text(json.dumps(found, indent=2) + "\n")
    return found


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


if __name__ == "__main__":
    main()
