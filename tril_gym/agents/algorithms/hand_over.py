"""When D2LOLS changes from AggreVaTeD to PPO++: after a number of iterations, or by measured quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tril_gym.agents.algorithms.mixed import MixedConfig
from tril_gym.utils.config_fields import config_field


@dataclass(frozen=True, kw_only=True)
class HandOverConfig(MixedConfig):
    """The hyperparameters of PPO++ and AggreVaTeD, and what ends the latter."""

    aggrevated_iterations: int = config_field(
        20, "Iterations of AggreVaTeD before PPO++; with hand_over quality, their maximum", minimum=0, group="guide"
    )
    hand_over: Literal["iteration", "quality"] = config_field(
        "iteration",
        "When PPO++ begins: iteration: after aggrevated_iterations; quality: once the policy's texts have as much"
        " reward as the guide's",
        group="guide",
    )
    hand_over_every: int = config_field(
        5,
        "Iterations between comparisons of policy and guide, with hand_over quality",
        minimum=1,
        group="guide",
        only_with=("hand_over", "quality"),
    )
    hand_over_texts: int = config_field(
        64,
        "Texts that policy and guide each write in a comparison",
        minimum=1,
        group="guide",
        only_with=("hand_over", "quality"),
    )
    hand_over_margin: float = config_field(
        0.0,
        "PPO++ begins when the policy's mean reward exceeds the guide's by this margin; it may be negative",
        group="guide",
        only_with=("hand_over", "quality"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hand_over == "quality" and self.collects_ahead:
            raise ValueError(
                "hand_over must be iteration with overlap, got quality: the next plan is known before a measurement"
                " could be made; leave overlap out, or hand over by iteration"
            )

    def is_measured_in(self, iteration: int, handed_over: int | None) -> bool:
        """Return whether policy and guide are compared before an iteration.

        Args:
            iteration: counted from 0.
            handed_over: iteration before which the policy was found good enough; a failed one is measured again.
        """
        is_open = iteration < self.aggrevated_iterations and handed_over in (None, iteration)
        return self.hand_over == "quality" and is_open and iteration % self.hand_over_every == 0
