"""How long texts take to be written and scored, with the score in this process and in worker processes.

    python benchmarks/score_workers.py --threads 1 [--repeat N] [--output FILE.json]

64 texts that stop at random after 16 of 48 tokens on average, each paid CIDEr-D against four references of 400 words
that were not scored before. Workers score a text from when it has ended, while others are still written. "Without a
reward" is what the writing takes alone: no number of workers can do better. With one thread of torch, the model leaves
cores to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import side_by_side
import torch
from benchmark_models import gpt2, prompts_of_words, stopping, text_envs, tokenizer_of_words
from gymnasium.vector import VectorEnv
from side_by_side import Comparison, Sample, Target

from tril_gym.agents import LMPolicy, Plan
from tril_gym.agents.collection.collector import collect
from tril_gym.data import Example
from tril_gym.utils.profiler import Timer

REFERENCES = 4
ALONE, HERE = "without a reward", "in this process"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    settings = side_by_side.parsed(side_by_side.parser(__doc__), arguments)
    number, words, rows, new_tokens = (8, 10, 4, 4) if settings.smoke else (1_500, 400, 64, 48)
    texts = prompts_of_words(number * REFERENCES, words)
    prompts = prompts_of_words(number, 64, seed=1)
    examples = [Example(prompt, tuple(texts[at::number])) for at, prompt in enumerate(prompts)]
    tokenizer, sizes = tokenizer_of_words(), {"prompt_length": 64, "new_tokens": new_tokens}
    policy = LMPolicy(stopping(gpt2(), new_tokens / 3, new_tokens), tokenizer)

    def turn(envs: VectorEnv, generator: torch.Generator) -> Sample:
        timer = Timer()
        with timer.time("all"):
            written = collect(envs, Plan(rollout=policy), episodes=rows, generator=generator, timer=timer)
        share = timer.seconds["score"] / timer.seconds["all"]
        return Sample(timer.seconds["all"], float(written.lengths.sum()), {"environment's share": share})

    kinds: dict[str, dict[str, Any]] = {ALONE: {}, HERE: {"reward": "cider_d"}}
    for workers, name in ((1, "1 worker"), (2, "2 workers")):
        kinds[name] = {"reward": "cider_d", "reward_settings": {"cider_d": {"workers": workers}}}
    envs = {name: text_envs(examples, tokenizer, rows, **sizes, **kind) for name, kind in kinds.items()}
    contestants = {name: partial(turn, envs[name], torch.Generator().manual_seed(0)) for name in kinds}
    targets = [Target(name, HERE) for name in kinds if name != HERE]
    title = f"{rows} texts, {REFERENCES} references of {words} words each"
    found = side_by_side.run(Comparison(title, "tokens", contestants, targets, same_turns=True), repeat=settings.repeat)
    side_by_side.show(found)
    for its_own in envs.values():
        its_own.close()
    return side_by_side.finish(settings, [found])


if __name__ == "__main__":
    main()
