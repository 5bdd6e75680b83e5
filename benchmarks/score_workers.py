"""Measure writing and scoring with the score in the main process and in worker processes.

    python benchmarks/score_workers.py --threads 1 [--repeat N] [--output FILE.json]

64 texts that stop at random after 16 of 48 tokens on average, each scored by CIDEr-D against four references of 400
words that were not scored before. Workers score a text as soon as it has ended, while others are still written.
"Without a reward" measures writing alone, the bound for any number of workers. One torch thread leaves cores to the
workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import side_by_side
import torch
from benchmark_models import gpt2, prompts_of_words, stopping, text_envs, tokenizer_of_words
from gymnasium.vector import VectorEnv
from side_by_side import Comparison, Sample, Target

from tril_gym.agents import LMPolicy, Plan, collect
from tril_gym.data import Example
from tril_gym.utils.profiler import Timer

REFERENCES = 4
NO_REWARD, MAIN_PROCESS = "without a reward", "in the main process"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    settings = side_by_side.parse(side_by_side.parser(__doc__), arguments)
    number, words, rows, new_tokens = (8, 10, 4, 4) if settings.smoke else (1_500, 400, 64, 48)
    texts = prompts_of_words(number * REFERENCES, words)
    prompts = prompts_of_words(number, 64, seed=1)
    examples = [Example(prompt, tuple(texts[index::number])) for index, prompt in enumerate(prompts)]
    tokenizer, sizes = tokenizer_of_words(), {"prompt_length": 64, "new_tokens": new_tokens}
    policy = LMPolicy(stopping(gpt2(), new_tokens / 3, new_tokens), tokenizer)

    def measure(envs: VectorEnv, generator: torch.Generator, rounds: Iterator[list[int]]) -> Sample:
        timer, new = Timer(), next(rounds)
        with timer.time("all"):
            trajectories = collect(
                envs, Plan(rollout=policy), episodes=rows, examples=new, generator=generator, timer=timer
            )
        share = timer.seconds["score"] / timer.seconds["all"]
        return Sample(timer.seconds["all"], float(trajectories.lengths.sum()), {"environment's share": share})

    rewards: dict[str, dict[str, Any]] = {NO_REWARD: {}, MAIN_PROCESS: {"reward": "cider_d"}}
    for workers, name in ((1, "1 worker"), (2, "2 workers")):
        rewards[name] = {"reward": "cider_d", "reward_settings": {"cider_d": {"workers": workers}}}
    envs = {name: text_envs(examples, tokenizer, rows, **sizes, **reward) for name, reward in rewards.items()}
    parts = [list(range(first, first + rows)) for first in range(0, number - rows + 1, rows)]
    variants = {name: partial(measure, envs[name], torch.Generator().manual_seed(0), cycle(parts)) for name in rewards}
    targets = [Target(name, MAIN_PROCESS) for name in rewards if name != MAIN_PROCESS]
    title = f"{rows} texts, {REFERENCES} references of {words} words each"
    comparison = Comparison(title, "tokens", variants, targets, fixed_work=True)
    result = side_by_side.run(comparison, repeat=settings.repeat)
    side_by_side.show(result)
    for env in envs.values():
        env.close()
    return side_by_side.finish(settings, [result])


if __name__ == "__main__":
    main()
