"""Signs of a known cause in a run whose held-out reward did not rise, and the options that help.

Each is a section of docs/when_it_does_not_learn.md. A sign is not a proof: successful runs have some of them, too, so
they are looked for only where the verdict is not a gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from tril_gym.agents.learners.learner import mean_metrics
from tril_gym.experiment.verdict import THRESHOLD, standard_errors_of

LARGE_KL = 10.0  # nats a text
SHORTER = 0.75  # times the length before
REPEATED = 0.02  # more of a text's trigrams are repeated
INVENTED = 0.03  # more of the texts have an unknown word
ALIKE = 0.9  # share of groups whose texts all have the same reward
UNEXPLAINED = 0.05  # share of the variance of returns
CERTAIN = 0.95  # accuracy of a discriminator
RECENT = 1 / 3  # of the iterations: those whose metrics count
# Of an algorithm that has all that advice names, none of it as advised.
ANY: Mapping[str, Any] = {"target_kl": None, "kl_coef": 0.0, "temperature": 0.7, "critic_warmup": 0}


def signs(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    verdict: Mapping[str, Any],
    *,
    learns_from_rewards: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return one sentence for each sign of a known cause; none after a gain, or where nothing scores the texts.

    Args:
        before: metrics of the held-out texts before training, by decoding.
        after: the same after training.
        rows: metrics of the iterations, as in `metrics.jsonl`.
        verdict: what `verdict_of` returned.
        learns_from_rewards: whether the rewards of the environment change what is learned.
        settings: the hyperparameters of the run: advice names those that the algorithm has; None for any.
    """
    if verdict["outcome"] in ("gain", "no reward"):
        return []
    last = rows[-math.ceil(len(rows) * RECENT) :] if rows else []
    recent, explained = means(last), _explained(last)
    settings = ANY if settings is None else settings
    of_texts = _of_texts(before["sampled"], after["sampled"], recent, verdict, settings)
    if learns_from_rewards and (recent.get("group/zero_variance", 0.0) > ALIKE or recent.get("reward/std", 1.0) == 0.0):
        advice = ["temperature 1"] if settings.get("temperature", 1.0) < 1 else []
        alike = "all texts of a prompt have the same reward, so none is better: "
        return [*of_texts, alike + either(*advice, "an easier reward")]
    return [*of_texts, *_of_training(recent, explained, settings)]


def either(*words: str) -> str:
    """Return pieces of advice as "a, b, or c"."""
    *first, last = words
    return ", or ".join([", ".join(first), last] if first else [last])


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each metric over the rows that have a number for it."""
    # null stands for a number that is not finite
    return mean_metrics({name: value for name, value in row.items() if value is not None} for row in rows)


def _explained(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the median of what a critic explains: in an iteration of nearly equal returns it may be −10⁵."""
    found = (row.get(f"{critic}/explained_variance") for row in rows for critic in ("critic", "guide_critic"))
    numbers = [number for number in found if number is not None]
    return median(numbers) if numbers else None


def _of_texts(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    recent: Mapping[str, float],
    verdict: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Iterator[str]:
    """Yield what the held-out sampled texts show."""
    kl = after.get("kl")
    lengths = [part["text/length"] for part in (before, after)]
    penalty = recent.get("kl_coef", 0.0) * recent.get("kl", 0.0)
    if kl is not None and kl > LARGE_KL and "target_kl" in settings:  # an imitator goes as far as its references
        raised = [f"raise {name}" for name in ("kl_coef", "beta") if name in settings]
        yield f"KL {kl:.1f} nats a text: " + either("lower learning_rate", *raised)
    elif lengths[1] < SHORTER * lengths[0] and penalty > 0:
        yield (
            f"sampled texts became shorter, {lengths[0]:.1f} → {lengths[1]:.1f} tokens, and each token pays for its KL"
            f" (kl_coef × kl {penalty:.2g} a text, reward/std {recent.get('reward/std', 0.0):.2g}): lower kl_coef"
        )
    repeated = [part.get("text/repetition") or 0.0 for part in (before, after)]
    if repeated[1] > repeated[0] + REPEATED:
        has_term = "score/repetition_penalty" in after
        advice = "raise the weight of" if has_term else "add a second reward term, such as 0.5"
        yield f"sampled texts repeat more trigrams, {repeated[0]:.1%} → {repeated[1]:.1%}: {advice} repetition_penalty"
    unknown = [part.get("text/unknown_words") or 0.0 for part in (before, after)]
    if unknown[1] > unknown[0] + INVENTED:
        remedies = {"temperature": "a lower temperature", "kl_coef": "a higher kl_coef"}
        found = [words for name, words in remedies.items() if name in settings] or ["more iterations"]
        yield (
            f"more sampled texts have a word that no training text has, {unknown[0]:.0%} → {unknown[1]:.0%}: "
            + either(*found)
        )
    greedy, sampled = (standard_errors_of(verdict[way]) for way in ("greedy", "sampled"))
    if sampled >= THRESHOLD > greedy:
        colder = ["a lower temperature"] if "temperature" in settings else []
        yield (
            "the sampled reward rose and the greedy one did not, as where a policy only becomes more certain: "
            + either(*colder, "more imitation before", "more iterations")
        )


def _of_training(recent: Mapping[str, float], explained: float | None, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the metrics of the last iterations show."""
    if explained is not None and explained < UNEXPLAINED:
        is_new = {
            "critic_warmup 2": settings.get("critic_warmup", 0) < 2,
            "gae_lambda 1": settings.get("gae_lambda", 0.0) < 1,
            # it is of the environment's reward, which GAIL does not learn from, and is not discounted
            "baseline prompt": settings.get("baseline", "none") == "none"
            and "discriminator" not in settings
            and settings.get("gamma", 1.0) == 1.0,
        }
        advice = [words for words, is_other in is_new.items() if is_other] or ["another critic_learning_rate"]
        yield f"the critic explains {max(explained, 0.0):.0%} of the returns' variance: {either(*advice)}"
    accuracy = recent.get("discriminator/accuracy", 0.0)
    if accuracy > CERTAIN:
        limit = settings.get("discriminator_accuracy")
        skips = ["discriminator_accuracy 0.8"] if limit is None or limit > 0.8 else []
        yield (
            f"the discriminator is right about {accuracy:.0%} of the texts: "
            + either(*skips, "a lower discriminator_learning_rate")
        )
    own, guided = recent.get("reward/policy_alone"), recent.get("reward/guide_finished")
    if own is not None and guided is not None and guided < own:
        yield (
            f"texts that the guide finished earn {guided:.3g}, the policy's own {own:.3g}: it has little to learn from"
            " this guide"
        )
