"""Measure iterations of PPO whose reward waits, one part after the other and with the next batch written meanwhile.

    python benchmarks/overlap.py --threads 1 [--repeat N] [--output FILE.json]

32 texts of 32 prompt tokens and 16 new ones, which end together, so that the reward is called once for a batch. It
sleeps for 0, 1 and 2 seconds in place of a server's answer. One epoch in minibatches of 16. Without overlap an
iteration takes the sum of writing, waiting and learning, with it the longer of writing and waiting, and learning.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import side_by_side
from benchmark_models import gpt2, prompts_of_words, text_envs, tokenizer_of_words
from side_by_side import Comparison, Sample, Target

from tril_gym.agents import PPO, LMPolicy, PPOConfig

OVERLAP, ONE_BY_ONE = "overlap", "one after the other"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    settings = side_by_side.parse(side_by_side.parser(__doc__), arguments)
    rows, words, new_tokens = (4, 8, 4) if settings.smoke else (32, 32, 16)
    waits = (0.0, 0.01) if settings.smoke else (0.0, 1.0, 2.0)
    results = [compare(wait, rows, words, new_tokens, repeat=settings.repeat) for wait in waits]
    return side_by_side.finish(settings, results)


def compare(wait: float, rows: int, words: int, new_tokens: int, *, repeat: int) -> dict[str, Any]:
    """Measure iterations whose reward waits for so many seconds."""
    agents = {name: agent_of(wait, rows, words, new_tokens, overlap=name == OVERLAP) for name in (OVERLAP, ONE_BY_ONE)}
    variants = {name: partial(measure, agent) for name, agent in agents.items()}
    title = f"PPO, {rows} texts of {words} + {new_tokens} tokens, a reward that waits for {wait:g} s"
    comparison = Comparison(title, "tokens", variants, [Target(OVERLAP, ONE_BY_ONE)], fixed_work=True)
    result = side_by_side.run(comparison, repeat=repeat)
    side_by_side.show(result)
    return result


def agent_of(wait: float, rows: int, words: int, new_tokens: int, *, overlap: bool) -> PPO:
    """Return an agent whose reward waits once for each batch."""

    def reward(prompts: Any, completions: Sequence[str], references: Any, extras: Any) -> list[float]:
        time.sleep(wait)
        return [text.count("0") / len(text) for text in completions]

    envs = text_envs(
        prompts_of_words(4 * rows, words),
        tokenizer_of_words(),
        rows,
        prompt_length=words,
        new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        reward=reward,
    )
    config = PPOConfig(epochs=1, minibatch_size=min(16, rows), overlap=overlap, check_model=False)
    return PPO(LMPolicy(gpt2(), tokenizer_of_words()), envs, config)


def measure(agent: PPO) -> Sample:
    """Return the time of an iteration; that of its writing and scoring beside it, where there is one."""
    begin = time.perf_counter()
    (row,) = agent.learn(1, progress=False)
    seconds = time.perf_counter() - begin
    parts = {name: row.get(f"time/{name}", 0.0) for name in ("collect", "score", "learn")}
    return Sample(seconds, row["tokens"], {f"s {name}": value for name, value in parts.items()})


if __name__ == "__main__":
    main()
