"""SPICE by its authors' program: agreement with the references in objects, attributes and relations.

Anderson et al. 2016, https://arxiv.org/abs/1607.08822. Each text is parsed, its parse gives a graph of propositions
such as (dog), (dog, brown), (dog, chase, ball); those of all references together make one graph. Words match when they
share a WordNet synset. SPICE is the F1 of the completion's propositions and those of the references.

The scorer is spice-1.0.jar of the package pycocoevalcap, driven by `SpiceServer.java`, which keeps one Java process and
remembers parses. The parser, Stanford CoreNLP 3.6.0, is in no package: `DOWNLOAD` is the toolkit's own way to it.

Differs from the toolkit's way of running it:
- one process for all texts instead of one for each batch, and no JavaScript, so Java 15 and newer do as well;
- parses are remembered in memory, not in a data base of the package's folder;
- Java gives every object the same hash (`-XX:hashCode=2`). The scorer merges a word with the most similar one that it
  finds first, in an order by hashes that change from object to object: of equally similar words another one was merged
  each time, and the score of a text depended on the texts before it. With equal hashes the order is that of the text.

Tested are the driver, the real parser's class up to the loading of its models, and with a stand-in for the parser the
propositions' graphs and their matching. Unverified, for want of the models: the parser at work, under newer Java and
with equal hashes, and agreement with the toolkit on real texts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.rewards.text.java_process import caption_file, check_memory, find_java, line_process, numbers, one_line

SERVER = Path(__file__).with_name("SpiceServer.java")
CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
DOWNLOAD = 'python -c "from pycocoevalcap.spice.get_stanford_models import get_stanford_models; get_stanford_models()"'
SAME_HASH = ("-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2")


class OfficialSpice(Score):
    """SPICE of each completion by the official program, 0 to 1.

    A text counts as one line: any white space as a space, halves of characters as "?". Words beyond `max_words` are
    left out, of references too, since parsing takes time with the cube of a sentence's length. Without references, or
    without a proposition that matches, the score is 0.
    """

    name = "official_spice"
    slow = True

    def __init__(
        self,
        *,
        corenlp: str | Path | None = None,
        memory: str = "8g",
        threads: int | None = None,
        max_words: int = 100,
    ) -> None:
        """Choose where the parser is and what it may take.

        Args:
            corenlp: the folder with the two jars of CoreNLP 3.6.0; None is where the toolkit's download puts them.
            memory: the most that Java may take, such as "8g".
            threads: how many texts to parse at a time; None is one for each processor.
            max_words: words of a text that are read.

        Raises:
            ImportError: pycocoevalcap, which has the scorer, is not installed.
            ValueError: there is no Java compiler or no CoreNLP, or a number is out of range.
        """
        check_memory(memory)
        for name, value in (("threads", threads), ("max_words", max_words)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.max_words = max_words
        jars = class_path(corenlp)
        options = [f"-Xmx{memory}", *SAME_HASH, "-cp", os.pathsep.join(jars)]
        java = find_java(self.name, compiler=True)
        self.command = [java, *options, str(SERVER), str(threads or os.cpu_count() or 1)]

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the SPICE of each completion, (B,) in [0, 1]."""
        scores = np.zeros(check_batch(prompts, completions, references, extras))
        questions = {}
        for row, (completion, targets) in enumerate(zip(completions, references, strict=True)):
            written, *meant = map(self._cut, (completion, *targets))
            if written and any(meant):
                questions[row] = "\t".join([written, *filter(None, meant)])
        if questions:
            scores[list(questions)] = self._ask(list(questions.values()))
        return scores

    def _ask(self, questions: Sequence[str]) -> list[float]:
        answers = line_process(self.command).ask([*questions, ""], answers=len(questions))
        return numbers(answers, of=self.name)

    def _cut(self, text: str) -> str:
        return " ".join(one_line(text).split(" ")[: self.max_words])


def class_path(corenlp: str | Path | None) -> list[str]:
    """Return the jars of the scorer, of its libraries and of the parser.

    Raises:
        ValueError: the parser is not there; the message says how to get it.
    """
    scorer = caption_file(OfficialSpice.name, "spice/spice-1.0.jar")
    library = scorer.parent / "lib"
    folder = library if corenlp is None else Path(corenlp).expanduser()
    missing = [jar for jar in CORENLP if not (folder / jar).is_file()]
    if missing:
        raise ValueError(
            f"official_spice parses with Stanford CoreNLP 3.6.0 and found no {' and no '.join(missing)} in {folder}; "
            f"download them with `{DOWNLOAD}` (about 400 MB), or pass corenlp=FOLDER that has them"
        )
    return [str(scorer), str(library / "*"), *(str(folder / jar) for jar in CORENLP)]
