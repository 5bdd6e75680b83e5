"""METEOR: weighted harmonic mean of precision and recall of matched words, with a penalty for fragmented matches.

Two rewards. `meteor` is the official program, version 1.5 (Denkowski and Lavie 2014, https://aclanthology.org/W14-3348):
words match exactly, by stem, by WordNet synonym and by paraphrase. It needs Java and the package pycocoevalcap.

`meteor_exact_stem` needs neither: the formula of the first versions (Banerjee and Lavie 2005,
https://aclanthology.org/W05-0909; in this form Lavie and Agarwal 2007, https://aclanthology.org/W07-0734), by nltk and
without synonyms. Of h words of a completion and r of a reference, m match, in c chunks that are contiguous in both:

    P = m / h,  R = m / r,  F = P R / (0.9 P + 0.1 R)
    METEOR = F · (1 − 0.5 (c / m)³)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch, well_formed
from tril_gym.rewards.text.java_process import (
    ENGLISH,
    caption_file,
    check_memory,
    find_java,
    line_process,
    one_line,
    parse_numbers,
)
from tril_gym.rewards.text.words import split_words

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5  # nltk's names of 0.9, 3 and 0.5 in the formula
OPTIONS = ("-", "-", "-stdio", "-l", "en", "-norm")  # standard input in place of files
CHUNK = 256  # texts per request
MARK = re.compile(r"\|{3,}")  # the program's separator of texts


class Meteor(Score):
    """METEOR 1.5 of each completion by the official program, 0 to 1; the maximum over the references.

    Options of the program as in the caption toolkit: English, and its own lower-casing and splitting of punctuation. A
    text is read as one line: white space and "|||" as a space, lone surrogates as "?". Without references, or without
    words, the score is 0. One Java program serves the whole process. Starting it takes some seconds, a caption about a
    millisecond, and two texts of a thousand words each some seconds.
    """

    name = "meteor"
    slow = True

    def __init__(self, *, memory: str = "2g") -> None:
        """Start no program yet.

        Args:
            memory: maximum memory of Java, such as "2g".

        Raises:
            ImportError: pycocoevalcap, which has the program, is not installed.
            ValueError: there is no Java, or `memory` is no amount of memory.
        """
        check_memory(memory)
        jar = caption_file(self.name, "meteor/meteor-1.5.jar")
        options = [f"-Xmx{memory}", "-Dfile.encoding=UTF-8", *ENGLISH]
        self.command = [find_java(self.name), *options, "-jar", str(jar), *OPTIONS]

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the METEOR of each completion, (B,) in [0, 1]."""
        scores = np.zeros(check_batch(prompts, completions, references, extras))
        lines = {
            row: score_line(completion, targets)
            for row, (completion, targets) in enumerate(zip(completions, references, strict=True))
            if _one_line(completion) and targets
        }
        rows = list(lines)
        for start in range(0, len(rows), CHUNK):
            chosen = rows[start : start + CHUNK]
            scores[chosen] = self._request([lines[row] for row in chosen])
        return scores

    def _request(self, lines: Sequence[str]) -> list[float]:
        java = line_process(self.command)
        counts = java.request(lines)  # of words and matches, one line per text
        evaluated = java.request([" ||| ".join(["EVAL", *counts])], num_replies=len(counts) + 1)
        return parse_numbers(evaluated[:-1], reward=self.name)  # the last is the score of the whole corpus


class MeteorExactStem(Score):
    """METEOR of 2007 with exact and stem matches only, 0 to 1; the maximum over the references.

    Words are lower-cased runs of letters and digits, and single other characters. A word matches the last free equal
    word, so the number of chunks is not always minimal. Even a copy of a reference has a penalty, 0.5 / m³ for m words.
    Without references, or without a match, the score is 0.
    """

    name = "meteor_exact_stem"

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the METEOR of each completion, (B,) in [0, 1]."""
        check_batch(prompts, completions, references, extras)
        pairs = zip(completions, references, strict=True)
        return np.array([_best(completion, targets) for completion, targets in pairs], dtype=np.float64)


class NoSynonyms:
    """A WordNet without entries, so that no word has a synonym."""

    def synsets(self, word: str) -> list[object]:
        """Return the synsets of a word: none."""
        return []


def score_line(completion: str, targets: Strings) -> str:
    """Return the program's command to compare a completion with its references."""
    return " ||| ".join(["SCORE", *map(_one_line, targets), _one_line(completion)])


def _one_line(text: str) -> str:
    return one_line(MARK.sub(" ", text))


def _best(completion: str, targets: Strings) -> float:
    from nltk.translate.meteor_score import single_meteor_score

    words, *references = (split_words(well_formed(text)) for text in (completion, *targets))
    parameters = {"wordnet": NoSynonyms(), "alpha": ALPHA, "beta": BETA, "gamma": GAMMA}
    return max((single_meteor_score(reference, words, **parameters) for reference in references), default=0.0)
