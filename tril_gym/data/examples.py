"""Read-only sequences of examples, kept as objects if they are few, else packed as bytes.

N examples.
"""

from __future__ import annotations

import marshal
import pickle
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, compress, islice
from typing import Any, overload

from tril_gym.data.example import Example

PLAIN = 20_000  # examples that are kept as objects; more are packed
PICKLED = b"\x80"  # first byte of a pickle, and of no tuple that marshal writes
SCALARS = frozenset({str, int, float, bool, type(None)})
FIELDS = ("references", "label", "extras", "suffix", "messages")

_set = object.__setattr__  # of a frozen dataclass


class Examples(Sequence[Example]):
    """Examples that are loaded once and shared by all environments of the process.

    Attributes:
        source: where they come from, for messages.
        held_out: whether they are for evaluation, not for training.
        has_chats: whether any prompt of the data set, also outside of this part, is a chat; all are then read as chats.
        learning_part: for held-out examples, returns the train examples, to which rewards and tokenizers are fitted.
        skipped: number of malformed rows that were left out (`on_bad_row="skip"`).
        prompt_tables: the tokenised prompts, by tokenizer and length; see `tril_gym.envs.prompts`.
    """

    def __init__(
        self,
        examples: Iterable[Example],
        *,
        source: str,
        skipped: int = 0,
        held_out: bool = False,
        has_chats: bool | None = None,
    ) -> None:
        self._examples = examples if isinstance(examples, PackedExamples | SelectedExamples) else pack(examples)
        self.has_chats = _have_chats(self._examples) if has_chats is None else has_chats
        self.source, self.skipped, self.held_out = source, skipped, held_out
        self.learning_part: Callable[[], Examples] | None = None
        self.prompt_tables: dict[tuple[object, ...], Any] = {}

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, index: int | slice) -> Example | tuple[Example, ...]:
        if isinstance(self._examples, tuple):
            return self._examples[index]
        if isinstance(index, slice):
            return tuple(map(self._examples.example, range(len(self))[index]))
        return self._examples.example(range(len(self))[index])

    def __len__(self) -> int:
        return len(self._examples)

    def __deepcopy__(self, memo: dict[int, Any]) -> Examples:
        return self  # read-only, so a copy is not needed

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"prompt_tables": {}}  # their keys are ids of the tokenizers of this process

    def __repr__(self) -> str:
        return f"Examples({len(self)} from {self.source})"

    def prompts(self) -> Iterator[str]:
        """Yield the prompt of every example; for many that is much faster than making the examples."""
        if isinstance(self._examples, tuple):
            return (example.prompt for example in self._examples)
        return self._examples.prompts()

    def select(self, is_selected: Sequence[bool], *, source: str, held_out: bool = False) -> Examples:
        """Return a part of the examples, which are not copied.

        Args:
            is_selected: one value for each example.
            source: where they come from, for messages.
            held_out: whether they are to be evaluated on, not learned from.
        """
        rows = compress(range(len(self)), is_selected)
        part: Iterable[Example]
        if isinstance(self._examples, tuple):
            part = compress(self._examples, is_selected)
        elif isinstance(self._examples, SelectedExamples):
            part = self._examples.select(rows)
        else:
            part = SelectedExamples(self._examples, rows)
        return Examples(part, source=source, held_out=held_out, has_chats=self.has_chats)


class PackedExamples:
    """N examples as bytes: about the length of their texts, where objects take half a kilobyte more each.

    An example is made anew whenever it is read, so two readings are equal, not identical.
    """

    def __init__(self, examples: Iterable[Example]) -> None:
        self._prompts, self._rest = bytearray(), bytearray()
        self._ends = array("q", [0]), array("q", [0])  # of the prompts, and of the rest
        self.has_chats = False
        for example in examples:
            self.has_chats |= bool(example.messages)
            self._prompts += example.prompt.encode()
            self._rest += _dumped(example)
            self._ends[0].append(len(self._prompts))
            self._ends[1].append(len(self._rest))

    def __len__(self) -> int:
        return len(self._ends[0]) - 1

    def __iter__(self) -> Iterator[Example]:
        return map(self.example, range(len(self)))

    def example(self, index: int) -> Example:
        """Return the example of an index from 0 to N − 1."""
        first, last = self._ends[1][index : index + 2]
        found: Example = object.__new__(Example)  # what was checked once needs no checking again
        _set(found, "prompt", self.prompt(index))
        for name, value in zip(FIELDS, _loaded(bytes(self._rest[first:last])), strict=True):
            _set(found, name, value)
        return found

    def prompt(self, index: int) -> str:
        """Return the prompt of an index from 0 to N − 1."""
        first, last = self._ends[0][index : index + 2]
        return self._prompts[first:last].decode()

    def prompts(self) -> Iterator[str]:
        """Yield the prompt of every example."""
        return map(self.prompt, range(len(self)))


def _dumped(example: Example) -> bytes:
    """Return what an example has besides its prompt, as bytes of this process."""
    rest: Any = (example.references, example.label, example.extras, example.suffix, example.messages)
    scalars = chain(example.references, (example.label, example.suffix), example.extras.values())
    if not example.messages and SCALARS.issuperset(map(type, scalars)):
        return marshal.dumps(rest)  # a third of the time of a pickle, but numpy's texts and numbers would become bytes
    return pickle.dumps(rest, protocol=5)


def _loaded(dumped: bytes) -> tuple[Any, ...]:
    """Undo `_dumped`."""
    rest: tuple[Any, ...] = (pickle if dumped.startswith(PICKLED) else marshal).loads(dumped)
    return rest


class SelectedExamples:
    """Some examples of a sequence, which is not copied.

    Args:
        examples: the whole sequence.
        rows: indices of those that are selected.
    """

    def __init__(self, examples: PackedExamples, rows: Iterable[int]) -> None:
        self._examples, self._rows = examples, array("q", rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Example]:
        return map(self._examples.example, self._rows)

    def select(self, places: Iterable[int]) -> SelectedExamples:
        """Return a part of them."""
        return SelectedExamples(self._examples, (self._rows[place] for place in places))

    def example(self, index: int) -> Example:
        """Return the example of an index from 0 to N − 1."""
        return self._examples.example(self._rows[index])

    def prompts(self) -> Iterator[str]:
        """Yield the prompt of every example."""
        return map(self._examples.prompt, self._rows)


def _have_chats(examples: Iterable[Example]) -> bool:
    """Return whether a prompt is a chat, which packed examples know."""
    return examples.has_chats if isinstance(examples, PackedExamples) else any(one.messages for one in examples)


def pack(examples: Iterable[Example]) -> tuple[Example, ...] | PackedExamples:
    """Return examples as they are, or packed where there are more than `PLAIN`."""
    rest = iter(examples)
    first = tuple(islice(rest, PLAIN + 1))
    return first if len(first) <= PLAIN else PackedExamples(chain(first, rest))
