"""Order in which a batch is written. B texts, T new tokens."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from doubles import EOS, foreign_envs, generator
from torch import Tensor

from tril_gym.agents import Actor, TextLayout, Writer
from tril_gym.agents.collection.generation import write_completions
from tril_gym.models.texts import Texts

T = 8
# Texts 0 and 3 have ended: one is full, one has EOS.
BEGINNINGS = [[2] * T, [2, 2, 2], [2, 2, 2, 2, 2, 2], [2, EOS], [], [2], [2, 2, 2, 2]]
TEXTS = Texts.from_ids([[10 + row] for row in range(len(BEGINNINGS))], BEGINNINGS, max_new_tokens=T)


@dataclass
class Recording(Actor):
    """Writes the prompt's id plus a number in 0 … 4 that the uniform chooses, and records the rows that it keeps."""

    min_new_tokens: int
    kept: list[list[int]] = field(default_factory=list)

    def start(self, texts: Texts, infos: Any, layout: TextLayout) -> Writer:
        return RecordingWriter(self, texts.prompts[:, -1])


class RecordingWriter(Writer):
    def __init__(self, actor: Recording, prompts: Tensor) -> None:
        self.actor, self.prompts, self.min_new_tokens = actor, prompts, actor.min_new_tokens

    def next(self, draws: Tensor) -> tuple[Tensor, None]:
        return self.prompts + (5 * draws).long(), None

    def keep(self, rows: Tensor) -> None:
        self.actor.kept.append(rows.tolist())
        self.prompts = self.prompts[rows]


def write(actor: Recording, uniforms: Tensor) -> list[list[int]]:
    layout = TextLayout.of(foreign_envs(1, max_new_tokens=T))
    buffer = write_completions(actor, TEXTS, [{}] * len(TEXTS), layout, uniforms)
    return [buffer.texts().completion_ids(row) for row in range(len(TEXTS))]


@pytest.fixture
def uniforms() -> Tensor:
    return torch.rand((len(TEXTS), T), generator=generator(3), dtype=torch.float64)


@pytest.mark.parametrize("min_new_tokens", [0, T])
def test_each_text_follows_its_prompt_and_uniforms(uniforms, min_new_tokens):
    for row, tokens in enumerate(write(Recording(min_new_tokens), uniforms)):
        begun = BEGINNINGS[row]
        rest = [] if row in (0, 3) else [10 + row + int(5 * uniform) for uniform in uniforms[row, len(begun) :]]
        assert tokens == begun + rest


def test_texts_of_known_length_leave_from_the_end(uniforms):
    actor = Recording(min_new_tokens=T)
    write(actor, uniforms)
    # Texts 1, 2, 4, 5 and 6 have 5, 2, 8, 7 and 4 tokens left.
    assert actor.kept == [[2, 3, 0, 4, 1], [0, 1, 2, 3], [0, 1, 2], [0, 1], [0]]


def test_texts_of_unknown_length_keep_their_order(uniforms):
    actor = Recording(min_new_tokens=0)
    write(actor, uniforms)
    assert actor.kept == [[0, 2, 3, 4], [0, 1, 2], [1, 2], [0]]
