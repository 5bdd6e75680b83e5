"""SPICE: do completion and references say the same of the same things?

Anderson et al. 2016: https://arxiv.org/abs/1607.08822. With G(t) the propositions of text t's scene graph,

    P = |G(c) ∩ G(R)| / |G(c)|,  R = |G(c) ∩ G(R)| / |G(R)|,  SPICE = 2 P R / (P + R)

where G(R) is the union over the references. Differs from the official program (`official_spice`): the graphs are read
off spaCy's parse by the rules of `scene_graph.py`, and words match by lemma alone, not by WordNet's synonyms.

SPIDEr adds CIDEr-D to it: Liu et al. 2017, https://arxiv.org/abs/1612.00370.

B texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tril_gym.rewards.base import Extras, ReferenceLists, Score, Scores, Strings, check_batch, well_formed
from tril_gym.rewards.fitting import Train, cached
from tril_gym.rewards.text.cider import CiderD
from tril_gym.rewards.text.scene_graph import Proposition, propositions
from tril_gym.utils.lru_cache import LRUCache

if TYPE_CHECKING:
    from spacy.language import Language

PIPELINE = "en_core_web_sm"
CACHED_TEXTS = 8192  # graphs of references, which come back each time their example is drawn

Graph = frozenset[Proposition]


class Spice(Score):
    """SPICE of each completion, 0 to 1; 0 without references, and where either side says nothing.

    All texts of a batch that are new go through the pipeline in one call.
    """

    name = "spice"
    slow = True

    def __init__(self, *, pipeline: str | Path = PIPELINE) -> None:
        """Name the spaCy pipeline that parses: it needs a tagger, a lemmatizer and a dependency parser.

        Args:
            pipeline: name of an installed one, or a folder.
        """
        refuse_missing(self.name, pipeline)
        self.pipeline = str(pipeline)
        self._graphs = LRUCache[str, Graph](CACHED_TEXTS)

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the SPICE of each completion, (B,) in [0, 1]."""
        check_batch(prompts, completions, references, extras)
        texts = list(dict.fromkeys([*completions, *(target for targets in references for target in targets)]))
        parsed = self._graphs.get_many(texts, lambda new: parse(new, self.pipeline))
        known = dict(zip(texts, parsed, strict=True))
        graphs = [
            (known[completion], frozenset[Proposition]().union(*(known[target] for target in targets)))
            for completion, targets in zip(completions, references, strict=True)
        ]
        return np.array([f1(*pair) for pair in graphs], dtype=np.float64)


class Spider(Score):
    """SPIDEr: SPICE + CIDEr-D of each completion, each with a weight; TRIL's reward on CommonGen."""

    name = "spider"
    slow = True

    def __init__(
        self,
        *,
        train: Train | None = None,
        fitted: Path | None = None,
        pipeline: str | Path = PIPELINE,
        spice_weight: float = 1.0,
        cider_weight: float = 1.0,
    ) -> None:
        """Choose the parser and the weights.

        Args:
            train: examples to count CIDEr-D's document frequencies over.
            fitted: the folder where an earlier count was saved.
            pipeline: of spaCy, see `Spice`.
            spice_weight: of SPICE, 0 to 1.
            cider_weight: of CIDEr-D, 0 to 10.
        """
        refuse_missing(self.name, pipeline)
        self.spice, self.cider = Spice(pipeline=pipeline), CiderD(train=train, fitted=fitted)
        self.spice_weight, self.cider_weight = spice_weight, cider_weight

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the weighted sum for each completion, (B,)."""
        batch = prompts, completions, references, extras
        return self.spice_weight * self.spice(*batch) + self.cider_weight * self.cider(*batch)

    def save(self, folder: Path) -> None:
        """Write the document frequencies."""
        self.cider.save(folder)


def f1(mine: Graph, theirs: Graph) -> float:
    """Return the F1 of propositions, 0 where there are none in common."""
    common = len(mine & theirs)
    return 2 * common / (len(mine) + len(theirs)) if common else 0.0  # 2 P R / (P + R)


def parse(texts: list[str], pipeline: str) -> list[Graph]:
    """Return the scene graph of each text, parsed in one call."""
    if not texts:
        return []
    nlp: Language = cached(("spacy", pipeline), lambda: _load(pipeline))
    with nlp.memory_zone():  # the words of these texts are forgotten after it
        return [propositions(doc) for doc in nlp.pipe(map(well_formed, texts))]


def refuse_missing(name: str, pipeline: str | Path) -> None:
    """Raise ValueError where there is no such pipeline."""
    from spacy.util import is_package

    if not (Path(pipeline).joinpath("meta.json").is_file() or is_package(str(pipeline))):
        raise ValueError(
            f"{name} parses with a spaCy pipeline, and none called {str(pipeline)!r} is installed or a folder; get one"
            f" with `python -m spacy download {PIPELINE}`, or name another: {name}.pipeline=FOLDER"
        )


def _load(pipeline: str) -> Language:
    import spacy

    nlp = spacy.load(pipeline)
    if not nlp("A dog runs.").has_annotation("DEP"):
        raise ValueError(f"the spaCy pipeline {pipeline!r} has no dependency parser; one like {PIPELINE} has")
    return nlp
