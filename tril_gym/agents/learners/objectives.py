"""Objectives: what the policy minimises on a part of a minibatch. Each is a formula of `functional` and its numbers.

The loop of `Epochs` knows none of them: an objective gets log-probabilities with gradient, the experience, and the
divisors of the whole minibatch, so that parts add up to it. Its terms are logged under their names.

B texts, T new tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from tril_gym.agents.learners.experience import Counts, Experience
from tril_gym.functional import losses, pair_losses, policy_losses, text_losses
from tril_gym.functional.group_advantages import are_tied
from tril_gym.functional.masked import masked_mean, select
from tril_gym.functional.policy_losses import LengthNorm, length_weights

Ratio = Literal["token", "text", "weight"]
Regression = Literal["apa", "awr"]
PairLoss = Literal["dpo", "ipo", "ipo_mean", "hinge", "hinge_norm", "rebel", "p3o", "p3o_joint"]
TextLoss = Literal["likelihood", "a_star", "ratio", "ref_free", "token_ratio", "kl"]


ROUNDING = 1e-4  # nats; a smaller margin is none, such as that before the first step


class Objective(Protocol):
    """Scores how well a policy does."""

    def __call__(self, logprobs: Tensor, part: Experience, counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a scalar to minimise, and terms to log, all divided by `counts`.

        Args:
            logprobs: (B, T) log π(token) of the part's texts, with gradient.
            part: some texts of a minibatch.
            counts: divisors, those of the whole minibatch.
        """


@dataclass(frozen=True, kw_only=True)
class ClippedRatio:
    """PPO's clipped surrogate and its relatives, with an optional KL term.

    Args:
        clip_range: ε.
        clip_range_high: ε above 1; None: ε.
        ratio: "token": PPO; "text": one ratio for the whole text, GSPO; "weight": the ratio is a clipped weight, CISPO.
        length_norm: how tokens are averaged; see `length_weights`. With "text" only the KL term reads it.
        max_length: T of the environment.
        given_shaping: γ of the loss of given texts, which have no ratio.
    """

    clip_range: float
    clip_range_high: float | None = None
    ratio: Ratio = "token"
    length_norm: LengthNorm = "token"
    max_length: int = 1
    given_shaping: float = 0.1

    def __call__(self, logprobs: Tensor, part: Experience, counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; see `Objective`."""
        old, learn = part.old_logprobs, part.own
        count = counts.learn if self.length_norm == "token" else counts.texts
        assert part.weights is None or self.ratio == "token", self.ratio
        weights = part.weights
        if self.length_norm != "token":
            by_length = length_weights(
                part.learn, self.length_norm, max_length=self.max_length, dtype=part.advantages.dtype
            )
            weights = by_length if weights is None else by_length * weights
        data, high = (logprobs, old, part.advantages, learn), self._high
        if self.ratio == "text":
            loss = policy_losses.gspo_loss(*data, clip_range=self.clip_range, clip_range_high=high, count=counts.texts)
        elif self.ratio == "weight":
            loss = policy_losses.cispo_loss(*data, clip_range_high=high, weights=weights, count=count)
        else:
            loss = losses.policy_loss(
                *data, clip_range=self.clip_range, clip_range_high=high, weights=weights, count=count
            )
        terms = {"policy/clip_fraction": self._clip_fraction(logprobs, part, counts)}
        if part.given is not None:
            terms["given/loss"] = self._given_loss(
                logprobs, part, weights, counts.texts if self.ratio == "text" else count
            )
            loss = loss + terms["given/loss"]
        if part.kl_coef > 0:
            terms["kl/loss"] = policy_losses.reference_kl_loss(
                logprobs, part.ref_logprobs, learn, weights=weights, count=count
            )
            loss = loss + part.kl_coef * terms["kl/loss"]
        return loss, terms

    @property
    def _high(self) -> float:
        return self.clip_range if self.clip_range_high is None else self.clip_range_high

    def _given_loss(self, logprobs: Tensor, part: Experience, weights: Tensor | None, count: float) -> Tensor:
        """Return the loss of the texts that others wrote."""
        assert part.given is not None, "there are given texts"
        if self.ratio == "text":
            weights = length_weights(part.learn, "text", max_length=self.max_length, dtype=part.advantages.dtype)
        return policy_losses.shaped_loss(
            logprobs, part.advantages, part.given, shaping=self.given_shaping, weights=weights, count=count
        )

    def _clip_fraction(self, logprobs: Tensor, part: Experience, counts: Counts) -> Tensor:
        """Return the share of tokens, or of texts, whose ratio is outside the clip's bounds; given ones have none."""
        data, high = (logprobs, part.old_logprobs, part.own), self._high
        low = math.inf if self.ratio == "weight" else self.clip_range  # a weight has an upper bound only
        if self.ratio == "text":
            return policy_losses.text_clip_fraction(*data, clip_range=low, clip_range_high=high, count=counts.own_texts)
        return losses.clip_fraction(*data, clip_range=low, clip_range_high=high, count=counts.own)


@dataclass(frozen=True, kw_only=True)
class AdvantageRegression:
    """APA and advantage-weighted regression.

    Args:
        kind: "apa" or "awr".
        temperature: λ, in units of advantage.
        anchor: the policy that APA stays close to.
    """

    kind: Regression
    temperature: float
    anchor: Literal["old", "reference"] = "old"

    def __call__(self, logprobs: Tensor, part: Experience, counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; see `Objective`."""
        data = (part.advantages, part.learn)
        numbers: dict[str, Any] = {"temperature": self.temperature, "weights": part.weights, "count": counts.learn}
        if self.kind == "awr":
            return policy_losses.awr_loss(logprobs, *data, **numbers), {}
        anchor = part.old_logprobs if self.anchor == "old" else part.ref_logprobs
        return policy_losses.apa_loss(logprobs, anchor, *data, **numbers), {}


@dataclass(frozen=True, kw_only=True)
class PairObjective:
    """A loss on the pairs of each group; `loss` names it.

        dpo, ipo, ipo_mean, hinge, hinge_norm   of the preferred text and the other one; ties count for nothing
        rebel, p3o, p3o_joint                   of both texts and the difference of their rewards

    Args:
        loss: which of them.
        beta: β of dpo and ipo, γ of the hinges, η of rebel.
        label_smoothing: of dpo.
        clip_range: ε of p3o.
        first_is_preferred: prefer the first of a group, whatever the rewards are.
    """

    loss: PairLoss
    beta: float
    label_smoothing: float = 0.0
    clip_range: float = 0.2
    first_is_preferred: bool = False

    def __call__(self, logprobs: Tensor, part: Experience, counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; see `Objective`."""
        first, second = pair_losses.pairs_in_groups(part.group).unbind(1)
        gaps = part.rewards[first] - part.rewards[second]
        gaps = torch.where(are_tied(part.rewards[first], part.rewards[second]), 0.0, gaps)
        if self.first_is_preferred:
            gaps = torch.ones_like(gaps)
        if self.loss in ("rebel", "p3o", "p3o_joint"):
            moved = _sums(logprobs, part.old_logprobs, part)
            return self._regression(moved[first], moved[second], gaps, counts.pairs)
        shift = _sums(logprobs, part.ref_logprobs, part)
        better, worse = torch.where(gaps > 0, first, second), torch.where(gaps > 0, second, first)
        is_pair = gaps != 0
        count = counts.pairs if self.first_is_preferred else counts.preferences
        return self._preference(logprobs, part, shift, (better[is_pair], worse[is_pair]), count)

    def _preference(
        self, logprobs: Tensor, part: Experience, shift: Tensor, pair: tuple[Tensor, Tensor], count: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of preferred and other texts, by row; `shift` is Δ, (B,)."""
        better, worse = pair
        margins = shift[better] - shift[worse]
        if self.loss == "dpo":
            loss = pair_losses.dpo_loss(margins, beta=self.beta, label_smoothing=self.label_smoothing, count=count)
        elif self.loss in ("ipo", "ipo_mean"):
            means = _sums(logprobs, part.ref_logprobs, part, per_token=self.loss == "ipo_mean")
            loss = pair_losses.ipo_loss(means[better] - means[worse], beta=self.beta, count=count)
        else:
            own = pair_losses.text_logprobs(logprobs, part.learn)
            hinged = margins if self.loss == "hinge_norm" else own[better] - own[worse]
            loss = pair_losses.hinge_loss(hinged, gamma=self.beta, count=count)
        lengths = part.learn.sum(1).to(shift.dtype)
        logged = {
            "pair/accuracy": torch.where(margins.abs() < ROUNDING, 0.5, (margins > 0).to(shift.dtype)),
            "pair/margin": self.beta * margins,
            "pair/preferred_logratio": shift[better],
            "pair/other_logratio": shift[worse],
            "pair/preferred_length": lengths[better],
            "pair/other_length": lengths[worse],
        }
        return loss, {name: values.detach().sum() / max(1.0, count) for name, values in logged.items()}

    def _regression(
        self, first: Tensor, second: Tensor, gaps: Tensor, count: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of both texts' D, (n,), and the differences of their rewards."""
        target = (self.beta * gaps).square().sum() / max(1.0, count)
        if self.loss == "rebel":
            return pair_losses.rebel_loss(first - second, gaps, eta=self.beta, count=count), {
                "regression/target": target
            }
        outside = losses.is_outside(first, self.clip_range) | losses.is_outside(second, self.clip_range)
        loss = pair_losses.p3o_loss(
            first,
            second,
            gaps,
            clip_range=self.clip_range,
            clip="joint" if self.loss == "p3o_joint" else "separate",
            count=count,
        )
        return loss, {"policy/clip_fraction": outside.to(first.dtype).sum() / max(1.0, count)}


def _sums(logprobs: Tensor, other: Tensor, part: Experience, *, per_token: bool = False) -> Tensor:
    """Return the log-ratio of each text to another policy: (B,)."""
    difference = losses.log_ratio(logprobs, other, part.learn)
    return pair_losses.text_logprobs(difference, part.learn, per_token=per_token)


@dataclass(frozen=True, kw_only=True)
class TextObjective:
    """A loss in which a text is one action: A-LoL, A*-PO, or the likelihood of texts weighted by their advantages.

    Args:
        loss: "likelihood", "a_star", or a variant of A-LoL.
        clip_range: ε of A-LoL.
        beta: β of A*-PO; that of A-LoL's KL variant is the KL coefficient of the experience.
    """

    loss: TextLoss
    clip_range: float = 0.9
    beta: float = 0.0

    def __call__(self, logprobs: Tensor, part: Experience, counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; see `Objective`."""
        learn, ref = part.learn, part.ref_logprobs
        if self.loss == "likelihood":
            return -masked_mean(logprobs * part.advantages, learn, counts.learn), {}
        if self.loss == "a_star":
            moved, written = _sums(logprobs, ref, part), learn.any(1)
            gains = select(part.rewards, written)
            target = masked_mean(gains.square(), written, counts.texts)
            loss = text_losses.a_star_loss(moved, gains, beta=self.beta, count=counts.texts)
            return loss, {"regression/target": target}
        loss = text_losses.a_lol_loss(
            logprobs,
            ref,
            part.rewards,
            learn,
            variant=self.loss,
            clip_range=self.clip_range,
            kl_coef=part.kl_coef,
            count=counts.texts,
        )
        if self.loss == "ratio":
            is_clipped = losses.is_outside(_sums(logprobs, ref, part).detach(), self.clip_range)
            return loss, {"policy/clip_fraction": masked_mean(is_clipped, learn.any(1), counts.texts)}
        if self.loss == "token_ratio":
            share = losses.clip_fraction(logprobs, ref, learn, clip_range=self.clip_range, count=counts.learn)
            return loss, {"policy/clip_fraction": share}
        return loss, {}  # there is no ratio
