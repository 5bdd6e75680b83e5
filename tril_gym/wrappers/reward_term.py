"""One term of a reward: a score of finished texts, its weight and its name.

B texts that end in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from tril_gym import rewards
from tril_gym.rewards.base import as_numbers, columns_of
from tril_gym.utils.config_fields import check_weight
from tril_gym.utils.no_copy import unwrap_no_copy
from tril_gym.wrappers.vector import base_attribute, wrappers_of
from tril_gym.wrappers.without_info import check_infos_pass

Info = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Term:
    """A score, its weight in the reward, and the name under which infos show it."""

    name: str
    score: rewards.Score
    weight: float

    def __call__(self, infos: Sequence[Info]) -> npt.NDArray[np.float64]:
        """Score the texts of B ending steps: (B,), unweighted and finite."""
        return self.checked(lambda: self.score(*columns_of(infos)), infos)

    def checked(self, compute: Callable[[], Any], infos: Sequence[Info]) -> npt.NDArray[np.float64]:
        """Return computed scores as (B,) finite numbers; the message of a failure shows the texts."""
        try:
            values = compute()
        except ImportError:
            raise  # an optional package is missing, and the message says how to get it
        except Exception as error:
            kind = ValueError if isinstance(error, ValueError) else RuntimeError
            # What the message of a KeyError means is in its type.
            reason = str(error) if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: {error}"
            reason = reason.removeprefix(f"reward {self.name!r}: ")
            raise kind(f"reward {self.name!r} failed on {self._shown(infos)}: {reason}") from error
        try:
            scores = as_numbers(values, len(infos))
        except ValueError as error:
            raise RuntimeError(f"reward {self.name!r} must give numbers for {self._shown(infos)}: {error}") from error
        if not np.isfinite(scores).all():
            row = int(np.flatnonzero(np.logical_not(np.isfinite(scores)))[0])
            raise RuntimeError(f"reward {self.name!r} gave {scores[row]} for {self._shown([infos[row]])}")
        return scores

    def __deepcopy__(self, memo: dict[int, Any]) -> Term:
        return self  # a score is pure, so a copied environment uses the same one

    def _shown(self, infos: Sequence[Info]) -> str:
        more = f" and {len(infos) - 1} other texts" if len(infos) > 1 else ""
        return f"the text {infos[0]['completion']!r}{more}"


class HasTerm:
    """A wrapper that adds one term to the reward."""

    term: Term
    env: Any

    def __repr__(self) -> str:
        inner = self.env
        while isinstance(inner, HasTerm):
            inner = inner.env
        return f"<{type(self).__name__} {describe_terms(terms(self))}: {inner}>"

    __str__ = __repr__  # Gymnasium's wrappers show it

    @property
    def score(self) -> rewards.Score:
        """The score of the term."""
        return self.term.score


def load_term(
    env: gym.Env | VectorEnv,
    score: Any,
    *,
    weight: float,
    name: str | None,
    settings: Mapping[str, Any] | None,
    fitted: str | Path | None,
) -> Term:
    """Return the term that a wrapper of `env` adds; a reward by name fits on the environment's train examples."""
    check_infos_pass(env, "TextReward", ["prompt", "completion", "references", "extras"])
    score, settings, fitted = unwrap_no_copy(score), unwrap_no_copy(settings), unwrap_no_copy(fitted)
    weight = check_weight(name or (score if isinstance(score, str) else "function"), weight)
    if isinstance(score, str):
        score = rewards.load(score, train=base_attribute(env, "examples_to_fit"), fitted=fitted, **(settings or {}))
    elif settings or fitted:
        raise ValueError(
            f"settings and fitted are for rewards given by name, got the object {score!r}; pass them to the class or"
            " function that made it"
        )
    score = rewards.as_score(score)
    name = name or score.name
    if name in (term.name for term in terms(env)):
        raise ValueError(f"the environment already has a reward named {name!r}; give the second one another name=")
    return Term(name, score, weight)


def with_main_process_reward(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of an environment with a reward that the main process computes."""
    return dict(metadata) | {"text": metadata.get("text", {}) | {"main_process_reward": True}}


def describe_terms(found: Sequence[Term]) -> str:
    """Return terms as a sum, such as "0.1 cider_d + rouge_l"."""
    return " + ".join(term.name if term.weight == 1 else f"{term.weight:g} {term.name}" for term in found)


def terms(env: Any) -> list[Term]:
    """Return the terms that an environment's wrappers pay, the innermost first."""
    return [wrapper.term for wrapper in reversed(wrappers_of(env)) if isinstance(wrapper, HasTerm)]
