"""Verifiable rewards: 1 for a completion that agrees with the right answer, else 0.

The right answer is in the references or in one of the extras, which `against` names. It may be a list: to agree with
one of its items is enough.
"""

from __future__ import annotations

import re
import string
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, get_args

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.utils.config_fields import check_choice
from tril_gym.utils.suggestions import suggestion

REFERENCES = "references"
LETTERS = tuple(string.ascii_uppercase[:5])
NUMBER = re.compile(
    r"(?<!\w)(?<!\d\.)"  # neither inside a word nor a part of 1.2.3
    r"[-+−]?"  # a sign; in 5-3 it is an operator
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\.)\.\d+)"  # 1,234.5 or 1234 or .5
    r"(?:[eE][-+]?\d+)?"
)
WORD = re.compile(r"[^\W\d_]{2,}")
COMMAND = re.compile(r"\\[a-zA-Z]+")  # of LaTeX
LARGEST = 1000  # decimal exponent of a number that is read

Which = Literal["last", "first", "only"]
Whitespace = Literal["strip", "collapse", "keep"]


class Verified(Score):
    """A score that compares the completion of each text with its right answers.

    Args:
        against: "references", or the name of the extra that holds the right answer.
        after: a marker; only what follows its last occurrence is read, and a completion without it scores 0.
    """

    def __init__(self, *, against: str = REFERENCES, after: str | None = None) -> None:
        if not isinstance(against, str) or not against:
            raise ValueError(f'against must be "{REFERENCES}" or the name of an extra, got {against!r}')
        if after is not None and (not isinstance(after, str) or not after):
            raise ValueError(f'after must be a text such as "####", got {after!r}; leave it out to read all')
        self.against, self.after = against, after

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return 1 or 0 for each text, (B,)."""
        number = check_batch(prompts, completions, references, extras)
        scores = np.zeros(number)
        for row, completion in enumerate(completions):
            answers = self.answers(references[row], extras[row])
            read = completion if self.after is None else after_marker(completion, self.after)
            scores[row] = read is not None and any(self.agrees(read, answer, extras[row]) for answer in answers)
        return scores

    @abstractmethod
    def agrees(self, completion: str, answer: Any, extras: Mapping[str, Any]) -> bool:
        """Return whether a completion gives this answer; `extras` are those of the text."""

    def answers(self, references: Sequence[str], extras: Mapping[str, Any]) -> Sequence[Any]:
        """Return the right answers of one text.

        Raises:
            ValueError: there are none.
        """
        if self.against == REFERENCES:
            if not references:
                raise ValueError(
                    f"{self.name} compares with references, and a text has none; its extras are"
                    f" {_names(extras)}: against=NAME compares with one of them (--reward-arg {self.name}.against=NAME)"
                )
            return references
        answer = field_of(extras, self.against, self.name)
        found = list(answer) if isinstance(answer, list | tuple | np.ndarray) else [answer]
        if not found or any(item is None or item == "" or isinstance(item, list | dict) for item in found):
            raise ValueError(f"{self.name} compares with extras[{self.against!r}], one or more answers, got {answer!r}")
        return found


class ExactMatch(Verified):
    """1 for a completion that is the right answer.

    Args:
        against: "references", or the name of the extra that holds the right answer.
        after: a marker; only what follows its last occurrence is compared.
        ignore_case: compare without upper and lower case.
        ignore_punctuation: compare without the punctuation of ASCII.
        whitespace: "strip": compare without white space at both ends; "collapse": and with one space for each run of
            white space; "keep": compare all of it.
    """

    name = "exact_match"

    def __init__(
        self,
        *,
        against: str = REFERENCES,
        after: str | None = None,
        ignore_case: bool = False,
        ignore_punctuation: bool = False,
        whitespace: Whitespace = "strip",
    ) -> None:
        super().__init__(against=against, after=after)
        self.ignore_case = ignore_case
        self.ignore_punctuation = ignore_punctuation
        self.whitespace = check_choice("whitespace", whitespace, get_args(Whitespace))

    def agrees(self, completion: str, answer: Any, extras: Mapping[str, Any]) -> bool:
        """Return whether both are the same text."""
        return self._plain(completion) == self._plain(as_text(answer))

    def _plain(self, text: str) -> str:
        text = text.casefold() if self.ignore_case else text
        text = text.translate(NO_PUNCTUATION) if self.ignore_punctuation else text
        if self.whitespace == "collapse":
            return " ".join(text.split())
        return text.strip() if self.whitespace == "strip" else text


class NumberMatch(Verified):
    """1 for a completion with the right number: "so 1,200 in all." agrees with 1200.0.

    Args:
        against: "references", or the name of the extra with the right number, or with a text whose number it is.
        after: a marker such as "####"; only what follows its last occurrence is read. In an answer that is a text it is
            read where it occurs.
        which: the number that counts: "last", "first", or "only", which is none where there are several.
        tolerance: largest difference that still agrees.
    """

    name = "number_match"

    def __init__(
        self, *, against: str = REFERENCES, after: str | None = None, which: Which = "last", tolerance: float = 0.0
    ) -> None:
        super().__init__(against=against, after=after)
        self.which = check_choice("which", which, get_args(Which))
        is_number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
        if not is_number or not 0 <= tolerance < float("inf"):
            raise ValueError(f"tolerance must be a number of at least 0, got {tolerance!r}; 0 asks for the same number")
        self.tolerance = Decimal(str(float(tolerance)))

    def agrees(self, completion: str, answer: Any, extras: Mapping[str, Any]) -> bool:
        """Return whether the number of a completion is the answer."""
        right, found = self._right(answer), pick(numbers_in(completion), self.which)
        return found is not None and abs(found - right) <= self.tolerance

    def _right(self, answer: Any) -> Decimal:
        """Return the right number.

        Raises:
            ValueError: the answer has none, or several without words, as a fraction has, or where one is the only that
                counts.
        """
        text = as_text(answer)
        if self.after is not None:
            marked = after_marker(text, self.after)
            text = text if marked is None else marked
        numbers = numbers_in(text)
        if len(numbers) > 1 and not WORD.search(COMMAND.sub("", text)):  # 1/2, 10:30, 2^10
            raise ValueError(
                f"{self.name} needs one number to compare with, got {answer!r} as {self.against}; write its value, such"
                " as 0.5 for 1/2, or set after= to the marker that precedes the number, such as ####"
            )
        right = pick(numbers, self.which)
        if right is None:
            raise ValueError(f"{self.name} needs a number to compare with, got {answer!r} as {self.against}")
        return right


class RegexMatch(Verified):
    r"""1 for a completion that a regular expression finds something in.

    Three forms: `pattern` alone; `against` alone, the extra (or the references) with the pattern of each text; or both,
    where the group of `pattern`, as in "answer is (\w+)", finds what must be the right answer.

    Args:
        pattern: a regular expression.
        against: name of the extra, or "references".
        after: a marker; only what follows its last occurrence is read.
        full: the pattern must match the whole completion, but for white space around it.
        ignore_case: upper and lower case are the same.
        which: "last", "first" or "only": the match whose group counts, with both `pattern` and `against`.
    """

    name = "regex"

    def __init__(
        self,
        *,
        pattern: str | None = None,
        against: str | None = None,
        after: str | None = None,
        full: bool = False,
        ignore_case: bool = False,
        which: Which = "last",
    ) -> None:
        super().__init__(against=REFERENCES if against is None else against, after=after)
        self.full, self.ignore_case = full, ignore_case
        self.which = check_choice("which", which, get_args(Which))
        self.pattern = None if pattern is None else self._compiled(pattern)
        self.compares = against is not None
        if pattern is None and against is None:
            raise ValueError(
                "regex needs pattern=, a regular expression, or against=, the extra with one for each text, such as"
                r" --reward-arg 'regex.pattern=\d+'"
            )
        if which != "last" and (self.pattern is None or not self.compares):
            raise ValueError(
                f"which={which!r} chooses the match whose group is compared, so it needs both pattern= and against=;"
                " leave it out: any match counts"
            )
        if self.pattern is not None and self.compares and self.pattern.groups != 1:
            raise ValueError(
                f"pattern must have one group in parentheses, whose text is compared with {against}, got"
                f" {pattern!r} with {self.pattern.groups}"
            )

    def answers(self, references: Sequence[str], extras: Mapping[str, Any]) -> Sequence[Any]:
        """Return the right answers, or the patterns, of one text; one that is not read where the pattern is all."""
        return super().answers(references, extras) if self.compares else [""]

    def agrees(self, completion: str, answer: Any, extras: Mapping[str, Any]) -> bool:
        """Return whether the pattern matches, and where there is an answer, whether its group is that."""
        pattern = self._compiled(as_text(answer)) if self.pattern is None else self.pattern
        if self.full:
            whole = pattern.fullmatch(completion.strip())
            matches = [] if whole is None else [whole]
        else:
            matches = list(pattern.finditer(completion))
        if self.pattern is None or not self.compares:
            return bool(matches)
        found = pick([match[1] or "" for match in matches], self.which)
        wanted = as_text(answer).strip()
        if found is None:
            return False
        return found.strip() == wanted or (self.ignore_case and found.strip().casefold() == wanted.casefold())

    def _compiled(self, pattern: Any) -> re.Pattern[str]:
        try:
            return re.compile(
                str(pattern) if type(pattern) is int else pattern, re.IGNORECASE if self.ignore_case else 0
            )
        except (re.error, TypeError) as error:
            raise ValueError(f"pattern must be a regular expression, got {pattern!r}: {error}") from error


class ChoiceMatch(Verified):
    """1 for a completion that names the right one of several choices, such as "(B)" or "The answer is B.".

    A choice counts where it stands alone, not inside a word.

    Args:
        against: "references", or the name of the extra with the right choice, or its index from 0: a number, or
            a text of one that is no choice itself.
        after: a marker such as "Answer:"; only what follows its last occurrence is read.
        choices: the choices, by default the letters A to E; a text has them separated by commas.
        options: the name of the extra with the choices of each text, instead of `choices`.
        which: the choice that counts: "last", "first", or "only", which is none where several are named.
        ignore_case: upper and lower case are the same; beware of the article "a".
    """

    name = "choice"

    def __init__(
        self,
        *,
        against: str = REFERENCES,
        after: str | None = None,
        choices: Sequence[str] | str = LETTERS,
        options: str | None = None,
        which: Which = "last",
        ignore_case: bool = False,
    ) -> None:
        super().__init__(against=against, after=after)
        self.which = check_choice("which", which, get_args(Which))
        if options is not None and not isinstance(options, str):
            raise ValueError(f"options must be the name of an extra, got {options!r}; choices= takes the choices")
        self.ignore_case, self.options = ignore_case, options
        names = choices.split(",") if isinstance(choices, str) else choices
        self.choices = self._checked("choices", names)

    def agrees(self, completion: str, answer: Any, extras: Mapping[str, Any]) -> bool:
        """Return whether the choice that a completion names is the answer."""
        choices = self.choices
        if self.options is not None:
            choices = self._checked(f"extras[{self.options!r}]", field_of(extras, self.options, self.name))
        named = [self._plain(found) for found in self._pattern(choices).findall(completion)]
        if self.which == "only":
            named = list(dict.fromkeys(named))
        return pick(named, self.which) == self._plain(self._right(answer, choices))

    def _right(self, answer: Any, choices: Sequence[str]) -> str:
        """Return the right choice.

        Raises:
            ValueError: the answer is none of the choices.
        """
        text, numbers = as_text(answer).strip(), (int, float, np.integer, np.floating)
        is_named = self._plain(text) in map(self._plain, choices)
        is_number = isinstance(answer, numbers) and not isinstance(answer, bool)
        # In CSV an index is a text, and a column of pandas with a missing value has 1.0.
        if (is_number or not is_named) and text.isdecimal() and int(text) < len(choices):
            return choices[int(text)]
        if not is_named:
            raise ValueError(
                f"{self.name} needs one of the choices {', '.join(choices)} as {self.against}, or its index from 0, got"
                f" {answer!r}; choices= names others, options= the extra that holds them"
            )
        return text

    def _plain(self, choice: str) -> str:
        return choice.casefold() if self.ignore_case else choice

    def _pattern(self, choices: Sequence[str]) -> re.Pattern[str]:
        longest_first = sorted(choices, key=len, reverse=True)
        alternatives = "|".join(map(re.escape, longest_first))
        return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE if self.ignore_case else 0)

    def _checked(self, name: str, choices: Any) -> tuple[str, ...]:
        is_list = isinstance(choices, list | tuple) and all(isinstance(choice, str) for choice in choices)
        found = tuple(choice.strip() for choice in choices) if is_list else ()
        if len(found) < 2 or "" in found or len(set(map(self._plain, found))) < len(found):
            raise ValueError(f"{name} must be two or more different texts, got {choices!r}")
        return found


NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def after_marker(text: str, marker: str) -> str | None:
    """Return what follows the last occurrence of a marker; None where there is none."""
    return text.rpartition(marker)[2] if marker in text else None


def numbers_in(text: str) -> list[Decimal]:
    """Return the numbers of a text in order: 1,200 is one, 5-3 are two, and -3 after a space is negative."""
    found = (Decimal(number.replace(",", "").replace("−", "-")) for number in NUMBER.findall(text))
    return [number for number in found if number.is_finite() and abs(number.adjusted()) <= LARGEST]


def pick(found: Sequence[Any], which: str) -> Any:
    """Return the first or the last of what was found, or the only one; None where there is none."""
    if not found or (which == "only" and len(found) > 1):
        return None
    return found[-1] if which == "last" else found[0]


def as_text(answer: Any) -> str:
    """Return an answer as a text: 4 and 4.0 are "4", 1e23 is 1 with 23 zeros, True is "True"."""
    value = answer.item() if isinstance(answer, np.generic) else answer
    # By its decimal digits: int(1e23) is 99999999999999991611392.
    return str(int(Decimal(str(value)))) if isinstance(value, float) and value.is_integer() else str(value)


def field_of(extras: Mapping[str, Any], name: str, reward: str) -> Any:
    """Return one of the extras of a text.

    Raises:
        ValueError: the text has no such extra.
    """
    if name not in extras:
        raise ValueError(
            f"{reward} needs extras[{name!r}]{suggestion(name, extras)}, a column of the data, in every text; a text"
            f" has {_names(extras)}"
        )
    return extras[name]


def _names(extras: Mapping[str, Any]) -> str:
    return ", ".join(sorted(str(name) for name in extras if name != "finish_reason")) or "nothing"
