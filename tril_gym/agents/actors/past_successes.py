"""The best texts of the past as a guide: the policy begins with a prefix of what it once wrote well itself.

PrefixRL, 2026: https://arxiv.org/abs/2601.18795
On hard problems a policy seldom meets a reward; from a prefix of a text that met it, it does more often.

Differs from the paper: the texts are those of the run, not of a search before it.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from torch import Tensor

from tril_gym.agents.actors.whole_text_writer import WholeTextWriter, WrittenTexts
from tril_gym.agents.collection.actor import Actor, refuse_begun
from tril_gym.agents.collection.baselines import check_examples
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos, Trajectories
from tril_gym.models.texts import Texts


class PastSuccesses(Actor):
    """Writes the best text so far of each example. It can only begin texts.

    Of an example without one it writes EOS alone, of which every cut keeps nothing: the policy begins at the prompt.

    Args:
        minimum: least reward of a text that is kept; None: any.

    Raises:
        ValueError: it is no finite number.
    """

    can_continue = False

    def __init__(self, minimum: float | None = None) -> None:
        is_number = isinstance(minimum, Real) and not isinstance(minimum, bool) and math.isfinite(minimum)
        if minimum is not None and not is_number:
            raise ValueError(f"minimum must be a finite number, a reward, or None for any, got {minimum!r}")
        self.minimum = minimum
        self.table: dict[int, tuple[list[int], float]] = {}  # ids and reward, by the index of the example

    def __repr__(self) -> str:
        return f"Guide.successes({'' if self.minimum is None else f'{self.minimum:g}'})"

    def check(self, layout: TextLayout) -> None:
        """Raise `ValueError` for an environment that does not say which example a text belongs to."""
        if layout.num_examples is None:
            raise ValueError(
                "past successes are kept by example, and this environment does not report its examples: its metadata"
                " has no num_examples; use another guide"
            )

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> WholeTextWriter:
        """Begin B texts; see `Actor`.

        Raises:
            ValueError: a text is begun already.
        """
        refuse_begun(texts, "past successes")
        nothing = ([layout.eos_token_ids[0]], 0.0)
        found = [self.table.get(info.get("example", -1), nothing)[0] for info in infos]

        def write_texts(rows: list[int], draws: Tensor) -> WrittenTexts:
            return WrittenTexts([found[row] for row in rows])

        return WholeTextWriter(write_texts, len(infos))

    def remember(self, trajectories: Trajectories) -> None:
        """Keep the texts that are better than those of their examples so far, the first of equal ones.

        Raises:
            ValueError: the environment did not say which examples these are.
        """
        check_examples(trajectories.examples)
        rewards, is_cut_off = trajectories.total_rewards.tolist(), trajectories.is_cut_off.tolist()
        for row, (example, reward) in enumerate(zip(trajectories.examples.tolist(), rewards, strict=True)):
            is_success = self.minimum is None or reward >= self.minimum
            is_better = example not in self.table or reward > self.table[example][1]
            if is_success and is_better and not is_cut_off[row]:
                self.table[example] = (trajectories.texts.completion_ids(row), reward)

    def state_dict(self) -> dict[str, Any]:
        """Return the texts and their rewards."""
        return {"table": dict(self.table)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.table = dict(state["table"])
