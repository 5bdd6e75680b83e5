"""Evaluation: a policy writes each example once greedily and once by sampling; reward terms and metrics score it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from tril_gym.agents.actors.beam_search import BeamSearch
from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories, plain_texts
from tril_gym.experiment.metrics import Interval, Measured, Metric, mean_interval, measure
from tril_gym.experiment.text_quality import has_unknown_word, repetition
from tril_gym.functional.kl import nats_per_text
from tril_gym.functional.sampling import Decoding
from tril_gym.utils.ranks import ALONE, Ranks
from tril_gym.wrappers.vector import base_attribute

HELD_OUT = "held_out/"  # before the names of evaluations among the metrics of an iteration
ORDER_SEED = 0  # of the order in which samples of examples are taken


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The result of an evaluation."""

    # For "greedy", "sampled" and, with beams, "beam_search": reward/mean, text/…, score/…, metric/…, kl, kl_per_token.
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, Interval]]  # under the same names: 95 % bootstrap intervals, where there are some
    samples: list[dict[str, Any]]  # the first sampled texts: example, prompt, completion, references, reward
    rewards: dict[str, list[float]]  # for "greedy" and "sampled": the reward of each text, in the order of `order`
    order: list[int]  # the number of the example of each reward, where the environment has a fixed number of them
    texts: list[dict[str, Any]] = field(repr=False)  # all texts, each with all its scores

    def __repr__(self) -> str:
        found = (f"{name} reward {row['reward/mean']:.3f}" for name, row in self.metrics.items())
        count = max((row["examples"] for row in self.metrics.values()), default=0)
        return f"Evaluation({', '.join(found)}, {count} examples)"

    def as_json(self) -> dict[str, Any]:
        """Return everything but the texts as plain data."""
        plain = {"metrics": self.metrics, "intervals": self.intervals, "examples": self._fingerprint()}
        return plain | {"samples": self.samples, "rewards": self.rewards, "order": self.order}

    def _fingerprint(self) -> str:
        """Return a hash of the examples."""
        return _hash_of((row["references"], row["prompt"]) for row in self.texts if row["written"] == "greedy")


def fingerprint_of(envs: VectorEnv, count: int | None) -> str | None:
    """Return the hash that an evaluation of so many examples of an environment has; None where it creates its own."""
    layout, shown_examples = TextLayout.of(envs), base_attribute(envs, "shown_examples")
    if shown_examples is None or layout.restart != "rows":
        return None
    shown = shown_examples()
    examples = (shown[index] for index in chosen_examples(layout.num_examples, count))
    return _hash_of((list(example.references), example.prompt) for example in examples)


def _hash_of(examples: Iterable[tuple[Sequence[str], str]]) -> str:
    """Return a hash of examples: of their references, or of the prompts of those without references."""
    rows = [references or prompt for references, prompt in examples]
    return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()[:16]


def evaluate(
    policy: LMPolicy,
    envs: VectorEnv,
    *,
    seed: int,
    ref_policy: LMPolicy | None = None,
    count: int | None = None,
    samples: int = 3,
    metrics: Sequence[Metric] = (),
    known_words: Collection[str] | None = None,
    beams: int | None = None,
    ranks: Ranks = ALONE,
    check_model: bool = True,
) -> Evaluation:
    """Write each example once, greedily, then by beam search if there are beams, then by sampling.

    Args:
        policy: the policy to evaluate. It samples as in training.
        envs: a vector environment. One that cannot restart single rows draws the examples itself, by the seed.
        seed: random seed for sampling. The same seed gives the same metrics.
        ref_policy: also report "kl" and "kl_per_token", the KL divergence of the sampled texts from this policy in nats
            per text and per token.
        count: evaluate on a random sample of so many examples, the same for every seed; by default on all, in order.
        samples: the number of texts in `Evaluation.samples`.
        metrics: further scores to measure the texts by; see `metrics_by_name`.
        known_words: also report "text/unknown_words", the share of texts with a word that is not in this set;
            see `training_words`.
        beams: also write by beam search with so many beams, as `BeamSearch` does; None does not.
        ranks: the processes that write together, as of `collect`.
        check_model: first find how the models must be read, once; see `LMPolicy.check_readings`.

    Raises:
        ValueError: neither a count nor an environment with a fixed number of examples, or a model cannot be read.
    """
    layout = TextLayout.of(envs)
    for model in (policy,) if ref_policy is None else (policy, ref_policy):
        model.check(layout)
        if check_model:
            model.check_readings(layout)
    total = layout.num_examples if count is None else min(count, layout.num_examples or count)
    if total is None:
        raise ValueError("the environment has no fixed number of examples; give the number of texts, such as count=200")
    examples = chosen_examples(layout.num_examples, count) if layout.restart == "rows" else None
    found, intervals, rewards, kept, written = {}, {}, {}, [], []
    actors: dict[str, Actor] = {"greedy": policy.with_decoding(Decoding(greedy=True))}
    actors |= {} if beams is None else {"beam_search": BeamSearch(policy, beams)}
    for name, actor in (actors | {"sampled": policy}).items():
        generator = torch.Generator().manual_seed(seed)
        plan = Plan(rollout=actor)
        texts = collect(envs, plan, episodes=total, generator=generator, examples=examples, ranks=ranks)
        measured = measure(metrics, texts.infos, seed=seed) if metrics else Measured()
        columns = columns_of_texts(texts, layout, known_words)
        if name == "sampled" and ref_policy is not None:
            columns["kl"] = _kl_of_texts(texts, ref_policy, layout, ranks)
        found[name] = means_of(columns) | _prefixed("metric", measured.values)
        if "kl" in columns:
            found[name]["kl_per_token"] = float(columns["kl"].sum() / columns["text/length"].sum().clamp(min=1))
        intervals[name] = intervals_of(columns, seed) | _prefixed("metric", measured.intervals)
        rewards[name] = columns["reward/mean"].tolist()
        kept = plain_texts(texts, range(min(samples, len(texts))))  # those of the last pass, which samples
        written += [{"written": name} | row for row in _scored_texts(texts, measured)]
    return Evaluation(found, intervals, kept, rewards, examples or [], written)


def chosen_examples(num_examples: int | None, count: int | None) -> list[int]:
    """Return the indices of the examples to evaluate on: all in order, or the first `count` of a random order.

    Data sets are often sorted, by class for one, so the first examples are not like the others. The order is the same
    for every seed of an evaluation, so that runs are evaluated on the same examples, and a smaller sample is part of a
    larger one.

    Raises:
        ValueError: the environment has no fixed number of examples.
    """
    if num_examples is None:
        raise ValueError("an environment that restarts single rows must have a number of examples in its metadata")
    if count is None:
        return list(range(num_examples))
    order: list[int] = np.random.default_rng(ORDER_SEED).permutation(num_examples).tolist()
    return order[:count]


def columns_of_texts(
    trajectories: Trajectories, layout: TextLayout, known_words: Collection[str] | None
) -> dict[str, Tensor]:
    """Return the metrics of each text by name, (B,) float64; a score is NaN where a text has none."""
    columns = {
        "reward/mean": trajectories.rewards.sum(1).double(),
        "text/length": trajectories.lengths.double(),
        "text/ended": trajectories.ended_by_themselves(layout.eos_token_ids).double(),
    }
    completions = [info["completion"] for info in trajectories.infos if info.get("completion") is not None]
    if len(completions) == len(trajectories):  # a foreign environment may report none
        columns["text/repetition"] = _column(repetition(text) for text in completions)
        if known_words is not None:
            columns["text/unknown_words"] = _column(has_unknown_word(text, known_words) for text in completions)
    return columns | _prefixed("score", trajectories.scores)


def flat_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of an evaluation on one level, with names such as "greedy/reward/mean"."""
    return {f"{decoding}/{name}": value for decoding, found in metrics.items() for name, value in found.items()}


def means_of(columns: dict[str, Tensor]) -> dict[str, float]:
    """Return means over texts, and the standard error of the mean reward where there is more than one text."""
    rewards = columns["reward/mean"]
    metrics = {"examples": len(rewards), "reward/mean": float(rewards.mean())}
    if len(rewards) > 1:
        metrics["reward/stderr"] = float(rewards.std(correction=1)) / math.sqrt(len(rewards))
    return metrics | {name: float(column.nanmean()) for name, column in columns.items() if name != "reward/mean"}


def intervals_of(columns: dict[str, Tensor], seed: int) -> dict[str, Interval]:
    """Return the bootstrap intervals of the means over two texts or more, where each text has a value."""
    complete = {name: column for name, column in columns.items() if len(column) > 1 and not column.isnan().any()}
    return {name: mean_interval(column.cpu().numpy(), seed=seed) for name, column in complete.items()}


def _scored_texts(trajectories: Trajectories, measured: Measured) -> list[dict[str, Any]]:
    """Return all texts as plain data, each with its scores and metrics."""
    rows = plain_texts(trajectories, range(len(trajectories)))
    for number, row in enumerate(rows):
        del row["rollin"]  # always 0: only the policy writes
        row["scores"] = {name: float(scores[number]) for name, scores in trajectories.scores.items()}
        row["metrics"] = {name: scores[number] for name, scores in measured.per_text.items()}
    return rows


def _prefixed(group: str, metrics: dict[str, Any]) -> dict[str, Any]:
    return {f"{group}/{name}": value for name, value in metrics.items()}


def _column(values: Iterable[float]) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


@torch.no_grad()
def _kl_of_texts(trajectories: Trajectories, ref_policy: LMPolicy, layout: TextLayout, ranks: Ranks) -> Tensor:
    """Return an estimate of the KL divergence from the reference policy for each text, (B,) nats."""

    def score(rows: Tensor) -> Tensor:
        return ref_policy.token_logprobs(trajectories.texts[rows], layout).logprobs.double()

    ref_logprobs = ranks.compute_rows(score, len(trajectories), chunk=64)
    columns = (trajectories.old_logprobs, ref_logprobs, trajectories.wrote)  # (B, T) each
    return _column(float(nats_per_text(*row)) for row in zip(*(column[:, None] for column in columns), strict=True))
