"""References as token ids: what imitation learns from, and an actor that writes them.

The ids of joiner + text, as they continue a text, and EOS, cut to T tokens; a text that is cut has no EOS, and one with
a stop string or another EOS id ends there, where the environment ends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tril_gym.agents.actors.whole_text_writer import WholeTextWriter, WrittenTexts, up_to_end
from tril_gym.agents.collection.actor import Actor, refuse_begun
from tril_gym.agents.collection.layout import TextLayout, codec_of
from tril_gym.agents.collection.trajectories import Infos, Trajectories
from tril_gym.models.texts import Texts
from tril_gym.utils.tokenization import after_joiner


class ReferenceTokens:
    """Tokenises references, each text once."""

    def __init__(self, layout: TextLayout) -> None:
        if layout.tokenizer is None:
            raise ValueError("references must be tokenised, but the environment shows no tokenizer attribute")
        self.layout, self._codec = layout, codec_of(layout)
        self._cache: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """Return the ids of one reference, EOS included where it fits."""
        if text not in self._cache:
            ids = self._codec.ids(after_joiner(self.layout.joiner, text))
            if self.layout.stop_strings.are_in(ids):
                ids = self.layout.stop_strings.cut_ids(ids)
            else:
                ids = [*ids, self.layout.eos_token_ids[0]]
            self._cache[text] = up_to_end(ids, self.layout.eos_token_ids)[: self.layout.max_new_tokens]
        return self._cache[text]

    @staticmethod
    def of(layout: TextLayout, *, known: ReferenceTokens | None) -> ReferenceTokens:
        """Return the known ones if they are of an environment of this layout, else new ones."""
        if known is not None and known.layout == layout and known.layout.tokenizer is layout.tokenizer:
            return known
        return ReferenceTokens(layout)


def is_positive(info: Mapping[str, Any]) -> bool:
    """Return whether an example is labelled 1, such as the review of a film that was liked."""
    return bool(info.get("extras", {}).get("label") == 1)


def pick(references: Sequence[str], draw: float) -> str:
    """Return one of several references, chosen by a uniform in [0, 1)."""
    return references[int(draw * len(references))]


def reference_texts(trajectories: Trajectories, tokenize: ReferenceTokens, generator: torch.Generator) -> Texts:
    """Return the prompts of B texts, each with one of its references, drawn at random.

    Raises:
        ValueError: an example has no reference.
    """
    refuse_missing(trajectories.infos)
    draws = torch.rand(len(trajectories), generator=generator, dtype=torch.float64).tolist()
    pairs = zip(trajectories.infos, draws, strict=True)
    return trajectories.texts.with_completions([tokenize(pick(info["references"], draw)) for info, draw in pairs])


def refuse_missing(infos: Infos) -> None:
    """Raise `ValueError` if an example has no reference."""
    missing = [info.get("prompt", "?") for info in infos if not info.get("references")]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(infos)} examples have no references to write, the first is {missing[0]!r};"
            " use data with references, or an algorithm and a guide that need none"
        )


class References(Actor):
    """Writes one of a prompt's references: an oracle that can only begin texts, not continue them."""

    can_continue = False
    needs_references = True

    def __init__(self) -> None:
        self._tokens: ReferenceTokens | None = None

    def __repr__(self) -> str:
        return "Guide.references()"

    def start(self, texts: Texts, infos: Infos, layout: TextLayout) -> WholeTextWriter:
        """Begin B texts; see `Actor`.

        Raises:
            ValueError: a text is begun already, or an example has no reference.
        """
        refuse_begun(texts, "references")
        refuse_missing(infos)
        tokenize = self._tokens = ReferenceTokens.of(layout, known=self._tokens)

        def write_texts(rows: list[int], draws: Tensor) -> WrittenTexts:
            pairs = zip(rows, draws.tolist(), strict=True)
            return WrittenTexts([tokenize(pick(infos[row]["references"], draw)) for row, draw in pairs])

        return WholeTextWriter(write_texts, len(infos))
