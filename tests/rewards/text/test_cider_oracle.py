"""CIDEr-D equals that of the caption toolkit, where this is installed."""

import gzip
import json
from collections import defaultdict

import numpy as np
import paths
import pytest
from reward_examples import Example

from tril_gym import rewards
from tril_gym.rewards.text.cider import split_words

DATA = paths.DATA / "commongen"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}")


def captions(split):
    with gzip.open(DATA / f"{split}.jsonl.gz", "rt") as lines:
        return [json.loads(line)["references"] for line in lines]


def test_scores_equal_those_of_the_toolkit():
    module = pytest.importorskip("pycocoevalcap.cider.cider_scorer", reason="needs pycocoevalcap")
    score = rewards.load("cider_d", train=[Example("", tuple(texts)) for texts in captions("train")[:8000]])
    known = score.frequencies
    texts = [(one, [other for other in of_one if other != one]) for of_one in captions("validation") for one in of_one]
    texts = [(one, others) for one, others in texts if others][:1000]
    texts += [("a a a dog dog", ["a dog", "the dog runs"]), ("x", ["x"]), ("dog", ["a dog runs in the park ."])]

    class Documents(list):
        def __len__(self):  # the toolkit uses it as the number of documents
            return known.documents

    scorer = module.CiderScorer(n=4, sigma=6.0)
    for text, targets in texts:
        scorer += (" ".join(split_words(text)), [" ".join(split_words(target)) for target in targets])
    counts = {tuple(ngram.split(" ")): count for ngram, count in known.frequencies.items()}
    scorer.document_frequency, scorer.crefs = defaultdict(float, counts), Documents(scorer.crefs)
    expected = np.array(scorer.compute_cider())
    completions, references = [list(column) for column in zip(*texts, strict=True)]
    found = score([""] * len(texts), completions, references, [{}] * len(texts))
    assert len(texts) >= 1000
    assert expected.max() > 3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert np.abs(found - expected[::-1]).max() > 1  # so that a wrong score would be detected
