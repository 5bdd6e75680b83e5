"""The KL divergence of the policy to its reference: estimators, and controllers of its coefficient.

Per token, from log-probabilities of tokens that π itself wrote: Schulman 2020, http://joschu.net/blog/kl-approx.html

A controller holds `coef`, the reward lost per nat. With a target in nats per text, it moves the coefficient after each
iteration by the error e = KL / target − 1: up where the KL is above the target.
Ziegler et al. 2019, section 2.2, for the adaptive one: https://arxiv.org/abs/1909.08593

B texts, T new tokens.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from tril_gym.functional.masked import select

Estimator = Literal["k1", "k2", "k3"]
Controller = Literal["fixed", "adaptive", "proportional", "pid"]


def kl_terms(logprobs: Tensor, ref_logprobs: Tensor, *, estimator: Estimator = "k1") -> Tensor:
    """Return an estimate of KL(π‖π_ref) at each token that π wrote, in nats: (B, T), (B, T) -> (B, T).

    With l = log π(token) − log π_ref(token):

        k1 = l                  unbiased, of either sign
        k2 = l² / 2             biased, low variance, never negative
        k3 = exp(−l) − 1 + l    unbiased, low variance, never negative
    """
    assert logprobs.shape == ref_logprobs.shape, (logprobs.shape, ref_logprobs.shape)
    log_ratio = logprobs - ref_logprobs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    if estimator == "k3":
        return torch.expm1(-log_ratio) + log_ratio
    raise ValueError(
        f"The KL estimator must be one of {', '.join(get_args(Estimator))}, got {estimator!r}; usual is k1"
    )


def nats_per_text(logprobs: Tensor, ref_logprobs: Tensor, wrote: Tensor) -> Tensor:
    """Return an estimate of KL(π‖π_ref) in nats per text: a scalar, 0 over no texts.

    The k1 terms are summed over the tokens that π wrote and averaged over all B texts, also those where it wrote none.
    """
    return (select(logprobs, wrote) - select(ref_logprobs, wrote)).sum() / max(1, wrote.shape[0])


class KLController(Protocol):
    """Sets the coefficient of the KL penalty."""

    coef: float  # reward lost per nat
    initial: float  # what it began with

    def update(self, kl: float, episodes: int) -> None:
        """Move the coefficient by the KL of an iteration, in nats per text, estimated on `episodes` texts."""

    def state_dict(self) -> dict[str, float]:
        """Return what must be saved to continue as if never stopped."""
        return {"coef": self.coef, "initial": self.initial}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned; a controller with another initial coefficient begins there."""
        if state.get("initial", self.initial) == self.initial:
            self.coef = state["coef"]


def _check_coef(coef: float) -> None:
    """Raise for a coefficient that would reward the KL."""
    if not (math.isfinite(coef) and coef >= 0):
        raise ValueError(f"kl_coef must be 0 or more, got {coef}; the usual value is 0.001 to 0.1")


def _check_target(target: float) -> None:
    """Raise for a target that the KL cannot be divided by."""
    if not (math.isfinite(target) and target > 0):
        raise ValueError(f"kl_target must be above 0 nats per text, got {target}; the usual value is 6.0")


def _error(kl: float, target: float) -> float:
    """Return the relative error e of the KL."""
    if not math.isfinite(kl):
        raise ValueError(f"The KL to the reference policy is {kl} nats: the policy diverged; try a lower learning_rate")
    return kl / target - 1


@dataclass
class FixedKL(KLController):
    """A constant coefficient."""

    coef: float
    initial: float = field(init=False)

    def __post_init__(self) -> None:
        _check_coef(self.coef)
        self.initial = self.coef

    def update(self, kl: float, episodes: int) -> None:
        """Do nothing."""

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Do nothing: the coefficient is that of the config."""


@dataclass
class AdaptiveKL(KLController):
    """Multiplicative control: c ← c (1 + clip(e, −0.2, 0.2) · episodes / horizon)."""

    coef: float
    target: float  # nats per text
    horizon: float  # episodes in which the coefficient changes by at most a fifth
    initial: float = field(init=False)

    def __post_init__(self) -> None:
        _check_coef(self.coef)
        self.initial = self.coef
        _check_target(self.target)
        if self.coef == 0:
            raise ValueError("kl_coef must be above 0 for the adaptive controller, which multiplies it; got 0")
        if not self.horizon > 0:
            raise ValueError(f"kl_horizon must be above 0 episodes, got {self.horizon}; the usual value is 10000")

    def update(self, kl: float, episodes: int) -> None:
        """Multiply the coefficient by at most 1 ± 0.2 · episodes / horizon."""
        error = min(max(_error(kl, self.target), -0.2), 0.2)
        self.coef *= max(0.0, 1 + error * episodes / self.horizon)


@dataclass
class ProportionalKL(KLController):
    """Incremental proportional control: c ← max(0, c + K_p e)."""

    coef: float
    target: float  # nats per text
    gain: float  # K_p, reward per nat
    initial: float = field(init=False)

    def __post_init__(self) -> None:
        _check_coef(self.coef)
        self.initial = self.coef
        _check_target(self.target)

    def update(self, kl: float, episodes: int) -> None:
        """Add a step proportional to the error."""
        self.coef = max(0.0, self.coef + self.gain * _error(kl, self.target))


@dataclass
class PIDKL(KLController):
    """PID control: c ← max(0, c_0 + K_p e + K_i Σe + K_d Δe)."""

    coef: float  # starts at c_0
    target: float  # nats per text
    gains: tuple[float, float, float]  # K_p, K_i, K_d, reward per nat
    # Bound of |Σe| (anti-windup): after a long time off the target the integral is soon undone.
    integral_limit: float = 10.0
    initial: float = field(init=False)  # c_0
    integral: float = field(init=False, default=0.0)  # Σe
    previous_error: float = field(init=False, default=math.nan)  # NaN before the first update

    def __post_init__(self) -> None:
        _check_coef(self.coef)
        _check_target(self.target)
        self.initial = self.coef

    def update(self, kl: float, episodes: int) -> None:
        """Compute the coefficient from the error; Δe is 0 in the first update."""
        error = _error(kl, self.target)
        change = 0.0 if math.isnan(self.previous_error) else error - self.previous_error
        self.previous_error = error
        self.integral = min(max(self.integral + error, -self.integral_limit), self.integral_limit)
        k_p, k_i, k_d = self.gains
        self.coef = max(0.0, self.initial + k_p * error + k_i * self.integral + k_d * change)

    def state_dict(self) -> dict[str, float]:
        """Return the coefficients, the sum of the errors and the last error."""
        return super().state_dict() | {"integral": self.integral, "previous_error": self.previous_error}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` of this or another controller returned."""
        super().load_state_dict(state)
        self.integral = state.get("integral", self.integral)
        self.previous_error = state.get("previous_error", self.previous_error)


def kl_controller(
    kind: Controller,
    *,
    coef: float,
    target: float | None = None,
    horizon: float = 10_000,
    gains: tuple[float, float, float] = (1e-4, 1e-4, 0.0),
) -> KLController:
    """Return the controller of this name.

    Args:
        kind:    "fixed", "adaptive", "proportional" or "pid".
        coef:    initial coefficient, reward lost per nat.
        target:  nats per text; needed by all but the fixed one.
        horizon: episodes in which the adaptive one changes the coefficient by at most a fifth.
        gains:   K_p, K_i and K_d in reward per nat; the proportional one uses K_p only.
    """
    if kind == "fixed":
        return FixedKL(coef)
    if kind not in get_args(Controller):
        raise ValueError(f"The KL controller must be one of {', '.join(get_args(Controller))}, got {kind!r}")
    if target is None:
        raise ValueError(
            f"kl_target must be given, in nats per text, for the {kind} KL controller; the usual value is 6.0"
        )
    if kind == "adaptive":
        return AdaptiveKL(coef, target, horizon)
    return ProportionalKL(coef, target, gains[0]) if kind == "proportional" else PIDKL(coef, target, gains)
