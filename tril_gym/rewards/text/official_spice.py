"""SPICE by its authors' program: agreement with the references in objects, attributes and relations.

It has NOT been run with its original models, Stanford CoreNLP 3.6.0, which no package contains. Tested are the driver,
the real parser's class up to the loading of its models, and with a stand-in for the parser the graphs of propositions
and their matching. Not tested: the real parser, also under newer Java and with equal hashes (below), and agreement with
the caption toolkit on real texts.

Anderson et al. 2016, https://arxiv.org/abs/1607.08822. Each text is parsed into a graph of propositions such as (dog),
(dog, brown), (dog, chase, ball); those of all references are merged into one graph. Words match if they share a WordNet
synset. SPICE is the F1 of the completion's propositions and those of the references.

The scorer is spice-1.0.jar of the package pycocoevalcap, driven by `SpiceServer.java`, which keeps one Java process and
caches parses. `DOWNLOAD` is the toolkit's own command to get the parser.

Differences from how the toolkit runs it:
- one process for all texts instead of one per batch, and no JavaScript, so Java 15 and newer can be used;
- parses are cached in memory, not in a data base in the package's folder;
- Java gives every object the same hash (`-XX:hashCode=2`). The scorer merges a word with the most similar word that it
  finds first, in the order of hashes that change from object to object. Ties were therefore broken differently each
  time, and the score of a text depended on the texts before it. With equal hashes the order is that of the text.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch
from tril_gym.rewards.text.java_process import (
    ENGLISH,
    caption_file,
    check_memory,
    find_java,
    line_process,
    one_line,
    parse_numbers,
)
from tril_gym.utils.config_fields import check_integer

SERVER = Path(__file__).with_name("SpiceServer.java")
CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
DOWNLOAD = 'python -c "from pycocoevalcap.spice.get_stanford_models import get_stanford_models; get_stanford_models()"'
SAME_HASH = ("-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2")


class OfficialSpice(Score):
    """SPICE of each completion by the official program, 0 to 1; not tested with its original models.

    A text is read as one line: white space as a space, lone surrogates as "?". Words beyond `max_words` are not read,
    of references neither, because parsing time grows with the cube of a sentence's length. Without references, or
    without a common proposition, the score is 0.
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
        """Choose the parser's folder and its limits.

        Args:
            corenlp: folder with the two jars of CoreNLP 3.6.0; None is where the toolkit's download puts them.
            memory: maximum memory of Java, such as "8g".
            threads: texts parsed in parallel; None is one per processor.
            max_words: maximum number of words read per text.

        Raises:
            ImportError: pycocoevalcap, which has the scorer, is not installed.
            ValueError: there is no Java compiler or no CoreNLP, or a number is out of range.
        """
        check_memory(memory)
        for name, value in (("threads", threads), ("max_words", max_words)):
            if value is not None:
                check_integer(name, value, 1)
        self.max_words = max_words
        jars = class_path(corenlp)
        options = [f"-Xmx{memory}", *ENGLISH, *SAME_HASH, "-cp", os.pathsep.join(jars)]
        java = find_java(self.name, compiler=True)
        self.command = [java, *options, str(SERVER), str(threads or os.cpu_count() or 1)]

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the SPICE of each completion, (B,) in [0, 1]."""
        scores = np.zeros(check_batch(prompts, completions, references, extras))
        lines = {}
        for row, (completion, targets) in enumerate(zip(completions, references, strict=True)):
            written, *wanted = map(self._truncate, (completion, *targets))
            if written and any(wanted):
                lines[row] = "\t".join([written, *filter(None, wanted)])
        if lines:
            scores[list(lines)] = self._request(list(lines.values()))
        return scores

    def _request(self, lines: Sequence[str]) -> list[float]:
        replies = line_process(self.command).request([*lines, ""], num_replies=len(lines))
        return parse_numbers(replies, reward=self.name)

    def _truncate(self, text: str) -> str:
        return " ".join(one_line(text).split(" ")[: self.max_words])


def class_path(corenlp: str | Path | None) -> list[str]:
    """Return the jars of the scorer, its libraries and the parser.

    Raises:
        ValueError: the parser is missing.
    """
    scorer = caption_file(OfficialSpice.name, "spice/spice-1.0.jar")
    library = scorer.parent / "lib"
    folder = library if corenlp is None else Path(corenlp).expanduser()
    missing = [jar for jar in CORENLP if not (folder / jar).is_file()]
    if missing:
        raise ValueError(
            f"official_spice parses with Stanford CoreNLP 3.6.0 and found no {' and no '.join(missing)} in {folder}; "
            f"download them with `{DOWNLOAD}` (about 400 MB), or pass corenlp=FOLDER that has them. This reward has not"
            " been tested with them: compare some of its scores with the caption toolkit's first"
        )
    return [str(scorer), str(library / "*"), *(str(folder / jar) for jar in CORENLP)]
