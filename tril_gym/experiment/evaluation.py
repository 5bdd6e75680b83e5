"""Evaluation: a policy writes every example once, greedily and by sampling; reward terms and metrics score it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from gymnasium.vector import VectorEnv

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.experiment.metrics import Interval, Measured, Metric, mean_interval, measure
from tril_gym.functional.kl import nats_per_text
from tril_gym.functional.sampling import Decoding
from tril_gym.models.texts import Texts


@dataclass(frozen=True)
class Evaluation:
    """What a policy wrote on a split."""

    figures: dict[str, dict[str, float]]  # "greedy" and "sampled", each: reward/mean, score/…, metric/…, …
    intervals: dict[str, dict[str, Interval]]  # the same names: the 95 % bootstrap interval, where there is one
    samples: list[dict[str, Any]]  # the first sampled texts: example, prompt, completion, references, reward
    texts: list[dict[str, Any]] = field(repr=False)  # all texts, each with all its scores

    def as_json(self) -> dict[str, Any]:
        """Plain data, without the texts."""
        return {"figures": self.figures, "intervals": self.intervals, "samples": self.samples}


def evaluate(
    policy: LMPolicy,
    envs: VectorEnv,
    *,
    seed: int,
    ref_policy: LMPolicy | None = None,
    count: int | None = None,
    samples: int = 3,
    metrics: Sequence[Metric] = (),
) -> Evaluation:
    """Write each example once, greedily and then by sampling.

    Args:
        policy: writes; as it samples in training for the second pass.
        envs: a vector environment. One that cannot be restarted row by row draws the examples itself, by the seed.
        seed: of the sampled texts. The same seed gives the same figures.
        ref_policy: also report how far the sampled texts have drifted from this policy, "kl" in nats per text.
        count: only the first so many examples; by default all.
        samples: how many texts to show.
        metrics: further scores, and figures of a corpus, to measure the texts by; see `metrics.metrics_by_name`.

    Raises:
        ValueError: neither a count nor an environment with a fixed number of examples.
    """
    layout = TextLayout.of(envs)
    policy.check(layout)
    total = layout.num_examples if count is None else min(count, layout.num_examples or count)
    if total is None:
        raise ValueError("the environment has no fixed number of examples; say how many texts to write: count=200")
    examples = range(total) if layout.restart == "rows" else None
    figures, intervals, kept, written = {}, {}, [], []
    for name, actor in (("greedy", policy.with_decoding(Decoding(greedy=True))), ("sampled", policy)):
        generator = torch.Generator().manual_seed(seed)
        texts = collect(envs, Plan(rollout=actor), episodes=total, generator=generator, examples=examples)
        measured = measure(metrics, texts.infos, seed=seed) if metrics else Measured()
        figures[name] = summary(texts) | _named("metric", measured.figures)
        intervals[name] = intervals_of(texts, seed) | _named("metric", measured.intervals)
        kept = sample_texts(texts, range(min(samples, len(texts))))  # the sampled ones, which come last, stay
        written += [{"written": name} | row for row in _scored_texts(texts, measured)]
        if name == "sampled" and ref_policy is not None:
            figures[name]["kl"] = _kl(texts, ref_policy, layout)
    return Evaluation(figures, intervals, kept, written)


def summary(trajectories: Trajectories) -> dict[str, float]:
    """Means over texts; the standard error is that of the mean reward, which a single text does not have."""
    paid = trajectories.rewards.sum(1)
    figures = {"examples": len(trajectories), "reward/mean": float(paid.mean())}
    if len(paid) > 1:
        figures["reward/stderr"] = float(paid.std(correction=1)) / math.sqrt(len(paid))
    figures["text/length"] = float(trajectories.lengths.double().mean())
    return figures | {f"score/{name}": float(scores.nanmean()) for name, scores in trajectories.scores.items()}


def intervals_of(trajectories: Trajectories, seed: int) -> dict[str, Interval]:
    """The bootstrap intervals of those means."""
    if len(trajectories) < 2:
        return {}
    columns = {"reward/mean": trajectories.rewards.sum(1).double(), "text/length": trajectories.lengths.double()}
    columns |= _named(
        "score", {name: scores for name, scores in trajectories.scores.items() if not scores.isnan().any()}
    )
    return {name: mean_interval(scores.cpu().numpy(), seed=seed) for name, scores in columns.items()}


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


def _scored_texts(trajectories: Trajectories, measured: Measured) -> list[dict[str, Any]]:
    """All texts as plain data, each with its scores and metrics."""
    rows = sample_texts(trajectories, range(len(trajectories)))
    for number, row in enumerate(rows):
        del row["rollin"]  # nobody but the policy writes
        row["scores"] = {name: float(scores[number]) for name, scores in trajectories.scores.items()}
        row["metrics"] = {name: scores[number] for name, scores in measured.per_text.items()}
    return rows


def _named(group: str, figures: dict[str, Any]) -> dict[str, Any]:
    return {f"{group}/{name}": figure for name, figure in figures.items()}


@torch.no_grad()
def _kl(trajectories: Trajectories, ref_policy: LMPolicy, layout: TextLayout) -> float:
    def score(texts: Texts) -> torch.Tensor:
        return ref_policy.score(texts, layout).logprobs.double().cpu()

    parts = torch.arange(len(trajectories)).split(64)
    ref_logprobs = torch.cat([score(trajectories.texts[rows]) for rows in parts])
    return float(nats_per_text(trajectories.old_logprobs, ref_logprobs, trajectories.wrote))
