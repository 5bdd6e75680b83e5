"""Writing with a sharded model that is never whole: a pass gathers one block after another, as in training.

Gathering takes all processes at once, but they write different numbers of texts and tokens. So each pass is announced,
and a process that has none to make meanwhile, or one through other blocks, gathers for the others and reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from tril_gym.models.sharding import held, stacks_of
from tril_gym.utils.ranks import Ranks


class BlockByBlock:
    """Gathers one block at a time of a sharded model while each process makes as many passes as its texts need.

    Args:
        model: sharded.
        ranks: the processes that hold its parts.
    """

    def __init__(self, model: Any, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self.stacks: list[Any] = [*stacks_of(model)]
        self._is_open = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make passes without gradients in the block, which all processes enter and leave together.

        What is outside the stacks, such as embeddings, stays gathered meanwhile. A block within a block is part of it.
        """
        if self._is_open:
            yield
            return
        with ExitStack() as undo:
            undo.enter_context(held([self.model]))
            for number, stack in enumerate(self.stacks, start=1):
                for block in stack:
                    undo.enter_context(_before_forward(block, _gather))
                undo.enter_context(_before_forward(stack[0], partial(self._take_turn, number)))
            self._is_open = True
            undo.callback(setattr, self, "_is_open", False)
            yield
            self._take_turn(0)  # not where this process fails: the others are ended, too

    def _take_turn(self, number: int, *_: object) -> None:
        """Announce a pass through the stack of this number, from 1 (0: no more passes), and wait until it is next.

        The largest number that a process announces is next. The others gather its blocks.
        """
        with torch.inference_mode(False), torch.no_grad():
            while (turn := int(self.ranks.max({"stack": number})["stack"])) != number:
                for block in self.stacks[turn - 1]:
                    block.unshard()
                    block.reshard()


def _gather(block: Any, *_: object) -> None:
    """Gather the weights of a block; not in inference mode, whose tensors no later pass could train."""
    with torch.inference_mode(False), torch.no_grad():
        block.unshard()


@contextmanager
def _before_forward(block: nn.Module, hook: Any) -> Iterator[None]:
    """Call a function before each pass of a block, and before the functions that are called already."""
    handle = block.register_forward_pre_hook(hook, prepend=True)
    try:
        yield
    finally:
        handle.remove()
