"""How the time per token grows with the number of texts and with their length.

    python benchmarks/growth.py [--repeat N] [--output FILE.json]

Collection (PPO, no reward) and learning (one epoch, minibatches of 16, a critic of its own) on a small GPT-2, texts of
equal length, wall time.

- texts: 16, 64 and 256 side by side, 64 + 48 tokens. A text should not cost more in larger company: seconds per token
  grow by no more than a fifth from one number to any larger one.
- length: 24 to 192 new tokens, 64 texts. With the cache, collection is linear in the length but for attention: the
  exponent is that of the length in the seconds of a batch, 1 for linear and 2 for quadratic. Beside it stands that of
  a loop by hand.
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
from side_by_side import Comparison, Sample, timed

from tril_gym.agents import PPO, LMPolicy, PPOConfig
from tril_gym.agents.collection.collector import collect
from tril_gym.utils.profiler import Timer

TEXTS, LENGTHS = (16, 64, 256), (24, 48, 96, 192)
MOST = 1.2  # growth of the seconds per token with the texts, at most


class Job:
    """Collection, learning and the loop by hand at one size."""

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
        self.written = self._collect()

    def _collect(self) -> Any:
        agent = self.agent
        return collect(agent.envs, agent.plan(0), episodes=self.texts, generator=agent.generator)

    def collect(self) -> float:
        """A turn of collection; returns its tokens."""
        self.written = self._collect()
        return float(self.written.lengths.sum())

    def learn(self) -> float:
        """A turn of learning."""
        agent = self.agent
        agent.learner.update(self.written, agent.plan(0), generator=agent.generator, timer=Timer())
        return float(self.written.lengths.sum())

    def loop(self) -> float:
        """A turn by hand."""
        mask = torch.ones_like(self.prompts, dtype=torch.bool)
        return float(write(self.model, self.prompts, mask, self.new_tokens, eos=EOS, stops=False)[0].numel())


def per_token(found: Mapping[str, Any]) -> list[float]:
    """Seconds per token of the contestants, in their order."""
    return [1 / contestant["speed"]["median"] for contestant in found["contestants"].values()]


def growth(values: Sequence[float]) -> float:
    """The largest factor from one value to a later one."""
    return max(later / value for i, value in enumerate(values) for later in values[i:])


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of a line through the logarithms, by least squares."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    settings = side_by_side.parsed(side_by_side.parser(__doc__), arguments)
    texts, lengths, prompt_length, usual, layers, minibatch = TEXTS, LENGTHS, 64, (64, 48), 4, 16
    if settings.smoke:
        texts, lengths, prompt_length, usual, layers, minibatch = (2, 4), (2, 4), 4, (2, 2), 1, 2
    model = gpt2(layers=layers)
    found, figures = [], {}

    def race(title: str, jobs: Mapping[str, Job], work: Callable[[Job], float]) -> dict[str, Any]:
        contestants: dict[str, Callable[[], Sample]] = {
            name: timed(lambda job=job: work(job)) for name, job in jobs.items()
        }
        found.append(side_by_side.run(Comparison(title, "tokens", contestants), repeat=settings.repeat))
        side_by_side.show(found[-1])
        return found[-1]

    by_texts = {f"{n} texts": Job(model, n, prompt_length, usual[1], minibatch) for n in texts}
    for name, work in (("collection", Job.collect), ("learning", Job.learn)):
        factor = growth(per_token(race(f"{name}, {prompt_length} + {usual[1]} tokens", by_texts, work)))
        figures[f"{name}, by texts"] = {"seconds per token grow by": factor, "at most": MOST, "met": factor <= MOST}
    by_length = {f"{n} new tokens": Job(model, usual[0], prompt_length, n, minibatch) for n in lengths}
    for name, work in (("collection", Job.collect), ("learning", Job.learn), ("loop by hand", Job.loop)):
        measured = race(f"{name}, {usual[0]} texts of {prompt_length} + … tokens", by_length, work)
        slope = exponent(lengths, [one["seconds"]["median"] for one in measured["contestants"].values()])
        figures[f"{name}, by length"] = {"exponent of the length": slope}
    for name, known in figures.items():
        print(f"{name}: " + ", ".join(f"{key} {side_by_side.plain(value)}" for key, value in known.items()))
    return side_by_side.finish(settings, found, growth=figures)


if __name__ == "__main__":
    main()
