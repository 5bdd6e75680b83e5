"""Evaluation: a policy writes every example once, greedily and by sampling, and all reward terms score it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.vector import VectorEnv

from tril_gym.agents.collect import collect
from tril_gym.agents.decoding import Decoding
from tril_gym.agents.kl import nats_per_text
from tril_gym.agents.layout import TextLayout
from tril_gym.agents.plan import Plan
from tril_gym.agents.policy import LMPolicy
from tril_gym.agents.trajectories import Texts, Trajectories


@dataclass(frozen=True)
class Evaluation:
    """What a policy wrote on a split."""

    figures: dict[str, dict[str, float]]  # "greedy" and "sampled", each: reward/mean, reward/stderr, score/…, …
    samples: list[dict[str, Any]]  # the first sampled texts: example, prompt, completion, references, reward

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"figures": self.figures, "samples": self.samples}


def evaluate(
    policy: LMPolicy,
    envs: VectorEnv,
    *,
    seed: int,
    ref_policy: LMPolicy | None = None,
    count: int | None = None,
    samples: int = 3,
) -> Evaluation:
    """Write each example once, greedily and then by sampling.

    Args:
        policy: writes; as it samples in training for the second pass.
        envs: a vector environment. One that cannot be restarted row by row draws the examples itself, by the seed.
        seed: of the sampled texts. The same seed gives the same figures.
        ref_policy: also report how far the sampled texts have drifted from this policy, "kl" in nats per text.
        count: only the first so many examples; by default all.
        samples: how many texts to keep in full.

    Raises:
        ValueError: neither a count nor an environment with a fixed number of examples.
    """
    layout = TextLayout.of(envs)
    policy.check(layout)
    total = layout.num_examples if count is None else min(count, layout.num_examples or count)
    if total is None:
        raise ValueError("the environment has no fixed number of examples; say how many texts to write: count=200")
    examples = range(total) if layout.restart == "rows" else None
    figures, kept = {}, []
    for name, actor in (("greedy", policy.with_decoding(Decoding(greedy=True))), ("sampled", policy)):
        generator = torch.Generator().manual_seed(seed)
        texts = collect(envs, Plan(rollout=actor), episodes=total, generator=generator, examples=examples)
        figures[name] = summary(texts)
        kept = sample_texts(texts, range(min(samples, len(texts))))  # the sampled ones, which come last, stay
        if name == "sampled" and ref_policy is not None:
            figures[name]["kl"] = _kl(texts, ref_policy, layout)
    return Evaluation(figures, kept)


def summary(trajectories: Trajectories) -> dict[str, float]:
    """Means over texts; the standard error is that of the mean reward, which a single text does not have."""
    paid = trajectories.rewards.sum(1)
    figures = {"examples": len(trajectories), "reward/mean": float(paid.mean())}
    if len(paid) > 1:
        figures["reward/stderr"] = float(paid.std(correction=1)) / math.sqrt(len(paid))
    figures["text/length"] = float(trajectories.lengths.double().mean())
    return figures | {f"score/{name}": float(scores.nanmean()) for name, scores in trajectories.scores.items()}


def sample_texts(trajectories: Trajectories, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Some texts in full, as plain data. What an environment does not tell is None."""
    return [
        {
            "example": int(trajectories.examples[row]),
            "prompt": trajectories.infos[row].get("prompt"),
            "completion": trajectories.infos[row].get("completion"),
            "references": trajectories.infos[row].get("references"),
            "reward": float(trajectories.rewards[row].sum()),
            "rollin": int(trajectories.switch[row]),
        }
        for row in rows
    ]


@torch.no_grad()
def _kl(trajectories: Trajectories, ref_policy: LMPolicy, layout: TextLayout) -> float:
    def score(texts: Texts) -> torch.Tensor:
        return ref_policy.score(texts, layout).logprobs.double().cpu()

    parts = torch.arange(len(trajectories)).split(64)
    ref_logprobs = torch.cat([score(trajectories.texts[rows]) for rows in parts])
    return float(nats_per_text(trajectories.old_logprobs, ref_logprobs, trajectories.wrote))
