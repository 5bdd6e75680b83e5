"""METEOR: a harmonic mean of precision and recall of matched words, less a penalty for matches in scattered pieces.

Two rewards. `meteor` is the official program, version 1.5 (Denkowski and Lavie 2014, https://aclanthology.org/W14-3348):
words match exactly, by stem, by WordNet synonym and by paraphrase. It needs Java and the package pycocoevalcap.

`meteor_exact_stem` needs neither: the formula of the first versions (Banerjee and Lavie 2005,
https://aclanthology.org/W05-0909; in this form Lavie and Agarwal 2007, https://aclanthology.org/W07-0734), by nltk and
without synonyms. Of h words of a completion and r of a reference m match, in c pieces that follow each other in both:

    P = m / h,  R = m / r,  F = P R / (0.9 P + 0.1 R)
    METEOR = F · (1 − 0.5 (c / m)³)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch, well_formed
from tril_gym.rewards.text.java_process import caption_file, check_memory, find_java, line_process, numbers, one_line

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5  # nltk's names of the three numbers in the formula
OPTIONS = ("-", "-", "-stdio", "-l", "en", "-norm")  # no files, lines instead
CHUNK = 256  # texts asked at a time
MARK = re.compile(r"\|{3,}")  # what separates the texts of a question

_WORD = re.compile(r"\w+|[^\w\s]")


class Meteor(Score):
    """METEOR 1.5 of each completion by the official program, 0 to 1; the best over the references.

    Options of the program as in the caption toolkit: English, and its own lower-casing and splitting of punctuation. A
    text counts as one line: any white space and "|||" as a space, halves of characters as "?". Without references, or
    without words, the score is 0. One Java program serves the whole process. Starting it takes some seconds, a caption
    about a millisecond; but two texts of a thousand words each take seconds again.
    """

    name = "meteor"
    slow = True

    def __init__(self, *, memory: str = "2g") -> None:
        """Choose how much memory Java may take, such as "2g".

        Raises:
            ImportError: pycocoevalcap, which has the program, is not installed.
            ValueError: there is no Java, or `memory` is no amount of memory.
        """
        check_memory(memory)
        jar = caption_file(self.name, "meteor/meteor-1.5.jar")
        options = [f"-Xmx{memory}", "-Dfile.encoding=UTF-8"]
        self.command = [find_java(self.name), *options, "-jar", str(jar), *OPTIONS]

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the METEOR of each completion, (B,) in [0, 1]."""
        scores = np.zeros(check_batch(prompts, completions, references, extras))
        questions = {
            row: question(completion, targets)
            for row, (completion, targets) in enumerate(zip(completions, references, strict=True))
            if _plain(completion) and targets
        }
        rows = list(questions)
        for start in range(0, len(rows), CHUNK):
            chosen = rows[start : start + CHUNK]
            scores[chosen] = self._ask([questions[row] for row in chosen])
        return scores

    def _ask(self, questions: Sequence[str]) -> list[float]:
        java = line_process(self.command)
        counts = java.ask(questions)  # of words and matches, one line a text
        evaluated = java.ask([" ||| ".join(["EVAL", *counts])], answers=len(counts) + 1)
        return numbers(evaluated[:-1], of=self.name)  # the last is the score of all together


class MeteorExactStem(Score):
    """METEOR of 2007 with exact and stem matches only, 0 to 1; the best over the references.

    Words are lower-cased runs of letters and digits, and single other characters. A word matches the last free one of
    its kind, so there can be more pieces than need be. Even a copy of a reference has a penalty, 0.5 / m³ for m words.
    Without references, or with no match, the score is 0.
    """

    name = "meteor_exact_stem"

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the METEOR of each completion, (B,) in [0, 1]."""
        check_batch(prompts, completions, references, extras)
        pairs = zip(completions, references, strict=True)
        return np.array([_best(completion, targets) for completion, targets in pairs], dtype=np.float64)


class NoSynonyms:
    """A word net in which no word has a meaning, so that none has a synonym."""

    def synsets(self, word: str) -> list[object]:
        """Return the meanings of a word: none."""
        return []


def question(completion: str, targets: Strings) -> str:
    """Return the line that asks the program to compare a completion with its references."""
    return " ||| ".join(["SCORE", *map(_plain, targets), _plain(completion)])


def words_of(text: str) -> list[str]:
    """Split a text into lower-cased words and single marks: "The dog's red." is the, dog, ', s, red, full stop."""
    return _WORD.findall(well_formed(text).lower())


def _plain(text: str) -> str:
    return one_line(MARK.sub(" ", text))


def _best(completion: str, targets: Strings) -> float:
    from nltk.translate.meteor_score import single_meteor_score

    words = words_of(completion)
    parameters = {"wordnet": NoSynonyms(), "alpha": ALPHA, "beta": BETA, "gamma": GAMMA}
    return max((single_meteor_score(words_of(target), words, **parameters) for target in targets), default=0.0)
