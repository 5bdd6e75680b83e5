"""Measure how the time per token grows with the number of texts and with their length.

    python benchmarks/growth.py [--repeat N] [--output FILE.json]

Collection (PPO, no reward) and learning (one epoch, minibatches of 16, separate critic) with a small GPT-2, texts of
equal length, wall time.

- texts: 16, 64 and 256 in parallel, 64 + 48 tokens. The seconds per token should grow by at most a fifth from one
  number of texts to any larger one.
- length: 24 to 192 new tokens, 64 texts. With the cache, collection is linear in the length except for attention: the
  exponent is that of the length in the seconds of a batch, 1 for linear and 2 for quadratic. The exponent of a loop in
  plain PyTorch is shown as well.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import side_by_side
import torch
from benchmark_models import EOS, gpt2, prompts_of_words, text_envs, tokenizer_of_words, word_ids
from hand_written import write
from side_by_side import Comparison, timed

from tril_gym.agents import PPO, LMPolicy, PPOConfig, collect
from tril_gym.utils.profiler import Timer

TEXTS, LENGTHS = (16, 64, 256), (24, 48, 96, 192)
MAX_GROWTH = 1.2  # bound of the growth of the seconds per token with the number of texts


class Job:
    """Collection, learning and the loop in plain PyTorch at one size."""

    def __init__(self, model: Any, texts: int, prompt_length: int, new_tokens: int, minibatch_size: int) -> None:
        self.texts, self.new_tokens, self.model = texts, new_tokens, model
        prompts = prompts_of_words(texts, prompt_length)
        envs = text_envs(
            prompts,
            tokenizer_of_words(),
            texts,
            prompt_length=prompt_length,
            new_tokens=new_tokens,
            min_new_tokens=new_tokens,
        )
        config = PPOConfig(epochs=1, minibatch_size=minibatch_size)
        self.agent = PPO(LMPolicy(copy.deepcopy(model), None), envs, config)
        self.prompts = word_ids(prompts)
        self.trajectories = self._collect()

    def _collect(self) -> Any:
        agent = self.agent
        return collect(agent.envs, agent.plan(0), episodes=self.texts, generator=agent.generator)

    def collect(self) -> float:
        """Collect texts; return the number of tokens."""
        self.trajectories = self._collect()
        return float(self.trajectories.lengths.sum())

    def learn(self) -> float:
        """Learn from the last texts; return the number of tokens."""
        agent = self.agent
        agent.learner.update(self.trajectories, agent.plan(0), generator=agent.generator, timer=Timer())
        return float(self.trajectories.lengths.sum())

    def loop(self) -> float:
        """Write in plain PyTorch; return the number of tokens."""
        mask = torch.ones_like(self.prompts, dtype=torch.bool)
        return float(write(self.model, self.prompts, mask, self.new_tokens, eos=EOS, stops=False)[0].numel())


def per_token(result: Mapping[str, Any]) -> list[float]:
    """Return the seconds per token of the variants, in order."""
    return [1 / variant["speed"]["median"] for variant in result["variants"].values()]


def growth(values: Sequence[float]) -> float:
    """Return the largest factor from one value to a later one."""
    return max(later / value for i, value in enumerate(values) for later in values[i:])


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the slope of a line through the logarithms, by least squares."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    settings = side_by_side.parse(side_by_side.parser(__doc__), arguments)
    texts, lengths, prompt_length, usual, layers, minibatch = TEXTS, LENGTHS, 64, (64, 48), 4, 16
    if settings.smoke:
        texts, lengths, prompt_length, usual, layers, minibatch = (2, 4), (2, 4), 4, (2, 2), 1, 2
    model = gpt2(layers=layers)
    results, growths = [], {}

    def measure(title: str, jobs: Mapping[str, Job], work: Callable[[Job], float]) -> dict[str, Any]:
        variants = {name: timed(lambda job=job: work(job)) for name, job in jobs.items()}
        results.append(side_by_side.run(Comparison(title, "tokens", variants), repeat=settings.repeat))
        side_by_side.show(results[-1])
        return results[-1]

    by_texts = {f"{n} texts": Job(model, n, prompt_length, usual[1], minibatch) for n in texts}
    for name, work in (("collection", Job.collect), ("learning", Job.learn)):
        result = measure(f"{name}, {prompt_length} + {usual[1]} tokens", by_texts, work)
        factor = growth(per_token(result))
        growths[f"{name}, by texts"] = {
            "growth of seconds per token": factor,
            "at most": MAX_GROWTH,
            "met": factor <= MAX_GROWTH,
        }
    by_length = {f"{n} new tokens": Job(model, usual[0], prompt_length, n, minibatch) for n in lengths}
    for name, work in (("collection", Job.collect), ("learning", Job.learn), ("plain PyTorch", Job.loop)):
        result = measure(f"{name}, {usual[0]} texts of {prompt_length} + … tokens", by_length, work)
        slope = exponent(lengths, [variant["seconds"]["median"] for variant in result["variants"].values()])
        growths[f"{name}, by length"] = {"exponent of the length": slope}
    for name, own in growths.items():
        print(f"{name}: " + ", ".join(f"{key} {side_by_side.format_number(value)}" for key, value in own.items()))
    return side_by_side.finish(settings, results, growth=growths)


if __name__ == "__main__":
    main()
