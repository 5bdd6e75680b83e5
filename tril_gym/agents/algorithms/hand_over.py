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
        20, "Iterations of AggreVaTeD before those of PPO++; with hand_over quality, the most", minimum=0, group="guide"
    )
    hand_over: Literal["iteration", "quality"] = config_field(
        "iteration",
        "What ends AggreVaTeD: its number of iterations, or a policy that writes as well as the guide",
        group="guide",
    )
    hand_over_every: int = config_field(
        5,
        "Iterations between measurements of hand_over quality",
        minimum=1,
        group="guide",
        only_with=("hand_over", "quality"),
    )
    hand_over_texts: int = config_field(
        64,
        "Texts of the policy, and as many of the guide, in a measurement",
        minimum=1,
        group="guide",
        only_with=("hand_over", "quality"),
    )
    hand_over_margin: float = config_field(
        0.0,
        "Mean reward of the policy above the guide's at which PPO++ begins; it may be negative",
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
