"""Scores made of plain functions, whose parameters say what they read.

A function of a batch gets lists with one entry per text: all of prompts, completions, references and extras by
position, or those that it names, or, with a single parameter, the completions. A function of one text gets the entries
of that text.

B texts.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, as_numbers, check_batch
from tril_gym.rewards.retries import Retried

logger = logging.getLogger(__name__)

INPUTS = ("prompts", "completions", "references", "extras")
OF_ONE_TEXT = ("prompt", "completion", "references", "extras")  # names of the same for one text
COMPLETIONS = INPUTS.index("completions")

Call = Callable[[Sequence[Any]], Any]  # calls a function with the four inputs


class FunctionScore(Score):
    """A score made of a function.

    A function that returns a single number for several texts is one of one text: it is called once per text, and a log
    message says so; `per_text` avoids it. If it names prompts or completions it is one of a batch, and a single number
    is an error. A function that raises is called again; see `Retried`.

    Args:
        function: of a batch or, with `is_per_text`, of one text.
        is_per_text: call it once per text; None finds out from what it returns.

    Raises:
        ValueError: its parameters are none that a reward can have.
    """

    def __init__(self, function: Callable[..., Any], *, is_per_text: bool | None = None) -> None:
        self.function = function if isinstance(function, Retried) else Retried(function)
        self.is_per_text = is_per_text
        self.name = str(getattr(function, "__name__", type(function).__name__)).strip("<>")
        if is_per_text is None and passing(function, INPUTS) is None and passing(function, OF_ONE_TEXT) is not None:
            self.is_per_text = True  # its parameters have names of one text
        names = OF_ONE_TEXT if self.is_per_text else INPUTS
        if passing(function, names) is None:
            raise ValueError(
                f"reward {self.name!r} has the parameters {inspect.signature(function)}; a reward"
                f"{' of one text' if self.is_per_text else ''} takes {', '.join(names)}, all four by position or some"
                f" by these names, or the {names[COMPLETIONS]} alone"
            )

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Call the function and return one number per text, (B,)."""
        num_texts = check_batch(prompts, completions, references, extras)
        inputs = (prompts, completions, references, extras)
        if self.is_per_text:
            return self._numbers(self._each(inputs), num_texts)
        values = self._call(inputs)
        if num_texts and _is_number(values):
            if num_texts > 1 or _is_number(self._call([[*column] * 3 for column in inputs])):
                if passing(self.function, OF_ONE_TEXT) is None:  # its parameters have names of a batch
                    raise ValueError(
                        f"reward {self.name!r} gives one number for all texts, and must give one for each; a function"
                        f" that is called with one text at a time names its parameters {', '.join(OF_ONE_TEXT)}"
                    )
                self.is_per_text = True
                _say_once(
                    f"reward {self.name!r} gives one number for several texts, so it is called once per text;"
                    " rewards.per_text(function) declares this"
                )
                return self._numbers(self._each(inputs), num_texts)
            values = [values]  # a function of a batch that gives a number for a batch of one
        return self._numbers(values, num_texts)

    def _call(self, inputs: Sequence[Any]) -> Any:
        call = passing(self.function, INPUTS)
        assert call is not None, "checked in __init__"
        try:
            return call(inputs)
        except (TypeError, AttributeError) as error:
            if len(inspect.signature(self.function).parameters) > 1:
                raise
            raise type(error)(
                f"{error} (it is called with a list of texts; a function of one text is rewards.per_text(function))"
            ) from error

    def _each(self, inputs: Sequence[Any]) -> list[Any]:
        call = passing(self.function, OF_ONE_TEXT)
        assert call is not None, "checked in __init__"
        return [call(of_one) for of_one in zip(*inputs, strict=True)]

    def _numbers(self, values: Any, num_texts: int) -> Scores:
        try:
            return as_numbers(values, num_texts)
        except ValueError as error:
            raise ValueError(f"reward {self.name!r}: {error}") from error


def per_text(function: Callable[..., Any]) -> FunctionScore:
    """Return the score of a function of one text: its completion, or what its parameters name.

    The names are prompt, completion, references and extras.
    """
    return FunctionScore(function, is_per_text=True)


def on_main_process(function: Callable[..., Any]) -> FunctionScore:
    """Return the score of a function that only the main process calls, for the texts of all processes.

    Args:
        function: as `FunctionScore` takes it, or such a score.
    """
    score = function if isinstance(function, FunctionScore) else FunctionScore(function)
    score.main_process = True
    return score


def with_retries(
    function: Callable[..., Any], *, retries: int = 2, pause: float = 1.0, timeout: float | None = None
) -> FunctionScore:
    """Return the score of a function that may fail temporarily, such as one that calls a service.

    Args:
        function: as `FunctionScore` takes it.
        retries: further calls after one that raised.
        pause: seconds before the second call; each further pause is twice as long.
        timeout: seconds that a call may take; None for any number.
    """
    return FunctionScore(Retried(function, retries=retries, pause=pause, timeout=timeout))


def passing(function: Callable[..., Any], names: Sequence[str]) -> Call | None:
    """Return how to pass the four inputs to a function under these names; None where its parameters do not allow it."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a built-in function that does not tell
        return lambda inputs: function(*inputs)
    parameters = signature.parameters.values()
    named = [it.name for it in parameters if it.kind in (it.POSITIONAL_OR_KEYWORD, it.KEYWORD_ONLY)]
    needed = [it for it in parameters if it.default is it.empty and it.kind not in (it.VAR_POSITIONAL, it.VAR_KEYWORD)]
    has_rest = any(it.kind == it.VAR_KEYWORD for it in parameters)
    chosen = [number for number, name in enumerate(names) if name in named or has_rest]
    if chosen and all(it.name in names and it.kind != it.POSITIONAL_ONLY for it in needed):
        return lambda inputs: function(**{names[number]: inputs[number] for number in chosen})
    if len(needed) == 1 and needed[0].kind != needed[0].KEYWORD_ONLY and not _is_other(needed[0].name, names):
        return lambda inputs: function(inputs[COMPLETIONS])
    try:
        signature.bind(*names)
    except TypeError:
        return None
    return None if any(_is_other(it.name, names) for it in needed) else lambda inputs: function(*inputs)


def _is_other(name: str, names: Sequence[str]) -> bool:
    """Return whether a parameter has a name of the other kind: of a batch, or of one text."""
    return name in {*INPUTS, *OF_ONE_TEXT} - {*names}


def _is_number(values: Any) -> bool:
    """Return whether a function gave a single number, also as a tensor or array without dimensions."""
    return isinstance(values, int | float | np.number | np.bool_) or getattr(values, "ndim", None) == 0


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)
