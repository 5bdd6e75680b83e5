"""One row of a vector environment: what it must return, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np

from tril_gym.testing.conformance import require
from tril_gym.testing.text_sizes import TextSizes
from tril_gym.utils.batched_infos import row_of


class Row:
    """What one row must return, followed step by step."""

    def __init__(self, row: int, sizes: TextSizes, mode: str) -> None:
        self.row, self.sizes, self.mode = row, sizes, mode
        self.prompt: list[int] = []
        self.written: list[int] = []
        self.has_ended = False

    def name(self, where: str) -> str:
        """Return where a rule is checked."""
        return f"in mode {self.mode}, row {self.row} {where}"

    def begin(self, observations: Any, where: str) -> None:
        """Take the prompt of the row's next text, and check that nothing is written."""
        self.prompt, self.written, self.has_ended = self.sizes.prompt_of(observations[self.row]), [], False
        self.check_text(observations[self.row], where)

    def check_text(self, observation: Any, where: str) -> None:
        """Check that an observation shows prompt and completion so far."""
        self.sizes.check_observation(observation, self.prompt, self.written, self.name(where))

    def follow(self, step: tuple[Any, ...], action: int, where: str) -> None:
        """Check one step of this row."""
        observations, rewards, terminated, truncated, infos = step
        paid = float(rewards[self.row])
        require(np.isfinite(paid), f"{self.name(where)}, the reward is a finite number", repr(paid))
        if self.has_ended:
            rule = f"{self.name(where)}, a row that ended before is paid 0 and neither terminated nor truncated"
            idle = (paid, bool(terminated[self.row]), bool(truncated[self.row]))
            require(idle == (0.0, False, False), rule, repr(idle))
            if self.mode == "NextStep":
                self.begin(observations, f"{where}, which resets it")
            else:
                self.check_text(observations[self.row], f"{where}, at which it is idle")
                rule = f"{self.name(where)}, an idle row has no info"
                require(row_of(infos, self.row) == {}, rule, repr(row_of(infos, self.row)))
            return
        self.written.append(action)
        self.has_ended = self.sizes.ends(self.written)
        rule = f"{self.name(where)}, terminated is {self.has_ended} after the tokens {self.written}, truncated is False"
        found = (bool(terminated[self.row]), bool(truncated[self.row]))
        require(found == (self.has_ended, False), rule, repr(found))
        if self.has_ended and self.mode == "SameStep":
            final = row_of(infos, self.row)
            rule = f"{self.name(where)}, the infos of a row that ended have final_obs and final_info"
            require({"final_obs", "final_info"} <= set(final), rule, repr(sorted(final)))
            self.check_text(final["final_obs"], f"{where}, in final_obs")
            self.begin(observations, f"{where}, which begins its next text")
        else:
            self.check_text(observations[self.row], where)
