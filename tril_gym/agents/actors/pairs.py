"""Pairs as texts: an actor that writes the preferred text of a pair as the first of its group, the other one second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tril_gym.agents.actors.references import ReferenceTokens
from tril_gym.agents.actors.whole_text_writer import WholeTextWriter, WrittenTexts
from tril_gym.agents.collection.actor import Actor, refuse_begun
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.models.texts import Texts


class Pairs(Actor):
    """Writes given pairs. It can only begin texts, in groups of two.

    Args:
        pairs: the preferred and the other text of each example, by its index; by default an example's first reference
            and the column `rejected` of its extras, as preference data have them.
    """

    can_continue = False

    def __init__(self, pairs: Sequence[tuple[str, str]] | None = None) -> None:
        self.pairs = pairs
        self._tokens: ReferenceTokens | None = None

    def __repr__(self) -> str:
        return "Pairs()" if self.pairs is None else f"Pairs({len(self.pairs)} pairs)"

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> WholeTextWriter:
        """Begin B texts; see `Actor`.

        Raises:
            ValueError: a text is begun already, or an example has no pair.
        """
        refuse_begun(texts, "pairs")
        tokenize = self._tokens = ReferenceTokens.of(layout, known=self._tokens)
        members = [self._pair(info)[info["member"]] for info in infos]

        def write_texts(rows: list[int], draws: Tensor) -> WrittenTexts:
            return WrittenTexts([tokenize(members[row]) for row in rows])

        return WholeTextWriter(write_texts, len(infos))

    def _pair(self, info: dict[str, Any]) -> tuple[str, str]:
        """Return the two texts of an example."""
        return pair_of_example(info) if self.pairs is None else self.pairs[info["example"]]


def pair_of_example(info: dict[str, Any]) -> tuple[str, str]:
    """Return the preferred and the other text of an example.

    Args:
        info: that of a text of the example, with `references` and `extras`.

    Raises:
        ValueError: it has none.
    """
    rejected, references = info.get("extras", {}).get("rejected"), info.get("references")
    if not references or not isinstance(rejected, str):
        raise ValueError(
            f"example {info.get('example', '?')} has no pair: the preferred text is its first reference, the other one"
            " the column rejected; use data with both, such as the environment tril/HH-v0, or a file of your own with"
            " the columns prompt, chosen and rejected: --env tril/Text-v0 --dataset PAIRS.jsonl"
        )
    return references[0], rejected
