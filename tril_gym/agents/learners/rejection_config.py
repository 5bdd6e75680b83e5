"""Hyperparameters of preferences among texts that rejection sampling accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.agents.learners.pair_config import OfflinePairConfig
from tril_gym.agents.learners.selection import accepted_pairs
from tril_gym.utils.config_fields import MAX_COEFFICIENT, config_field


@dataclass(frozen=True, kw_only=True)
class RejectionConfig(OfflinePairConfig):
    """The hyperparameters of an update by preferences, and those of rejection sampling."""

    needs_rewards: ClassVar[bool] = True
    loss: Literal["dpo", "ipo", "ipo_mean", "hinge", "hinge_norm"] = config_field(
        "hinge_norm", "Loss of a pair; the sigmoid-norm of the paper is dpo"
    )
    beta: float = config_field(
        0.05,
        "γ of the hinges, β of dpo and ipo: preference per nat of log-ratio",
        above=0,
        maximum=MAX_COEFFICIENT,
    )
    texts_per_prompt: int = config_field(8, "Candidates of a prompt", minimum=2)
    accepted_texts: int = config_field(4, "Candidates of a prompt that are accepted", minimum=2)
    rejection_beta: float = config_field(
        0.5, "β of rejection sampling, reward per nat: a small one accepts only the best", above=0
    )
    pairing: Literal["first_round", "tournament"] = config_field(
        "first_round", "Accepted texts that are compared: neighbours, or also the better ones of them, round by round"
    )
    reference_every: int | None = config_field(
        None,
        "Replace the reference policy, which writes the candidates, by the current policy after this many iterations:"
        " iterated RSO; default: never",
        minimum=1,
    )
    epochs: int = config_field(1, "Passes over the texts of an iteration", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accepted_texts > self.texts_per_prompt:
            raise ValueError(
                f"accepted_texts must be at most the {self.texts_per_prompt} candidates of a prompt, texts_per_prompt,"
                f" got {self.accepted_texts}; half of them is usual"
            )

    def select(self, trajectories: Trajectories, generator: torch.Generator) -> Trajectories:
        """Return pairs of accepted texts, the better one first."""
        return accepted_pairs(
            trajectories,
            beta=self.rejection_beta,
            want=self.accepted_texts,
            generator=generator,
            pairing=self.pairing,
        )

    @property
    def keeps_reference(self) -> bool:
        """Whether the reference policy stays the policy that training began with."""
        return self.reference_every is None

    def renews_reference(self, iteration: int) -> bool:
        """Return whether the reference policy becomes the policy after so many iterations."""
        return self.reference_every is not None and iteration % self.reference_every == 0
