"""Rewards on real data, where these are beside the repository in shared/data."""

import gzip
import json

import numpy as np
import paths
import pytest
from reward_examples import Example

from tril_gym import rewards
from tril_gym.rewards.neural import sentiment
from tril_gym.rewards.neural.training import FitConfig

DATA = paths.DATA

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}")


def rows(name, number):
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for _, line in zip(range(number), file, strict=False)]


def test_captions_cover_their_concepts():
    data = rows("commongen/validation", 500)
    columns = [""] * len(data), [row["references"][0] for row in data], [[]] * len(data)
    score = rewards.load("concept_coverage")
    assert score(*columns, [{"concepts": row["concepts"]} for row in data]).mean() > 0.98
    assert score(*columns, [{"concepts": row["concepts"]} for row in data[1:] + data[:1]]).mean() < 0.1


def test_captions_match_their_own_references_best():
    train = [Example(" ".join(row["concepts"]), tuple(row["references"])) for row in rows("commongen/train", 2000)]
    data = rows("commongen/validation", 300)
    number, completions = len(data), [row["references"][0] for row in data]
    references = [row["references"][1:] for row in data]
    for name in ("cider_d", "rouge_l"):
        score = rewards.load(name, train=train)
        own = score([""] * number, completions, references, [{}] * number)
        others = score([""] * number, completions, references[1:] + references[:1], [{}] * number)
        assert own.mean() > 2 * others.mean() + 0.1


def test_small_classifier_separates_good_and_bad_reviews(monkeypatch):
    monkeypatch.setattr(sentiment, "FIT_CONFIG", FitConfig(width=32, learning_rate=2e-3, steps=400, piece=96))
    train = [Example(row["text"], (), row["label"]) for row in rows("imdb/train", 2000)]
    score = rewards.load("sentiment", train=train)
    test = rows("imdb/test", 300)
    is_positive = np.array([row["label"] == 1 for row in test])
    found = score([row["text"] for row in test], [""] * 300, [[]] * 300, [{}] * 300) > 0.5
    assert (found == is_positive).mean() > 0.65  # chance is 0.5, with a standard error of 0.03


def test_overlap_scores_equal_those_of_the_standard_packages():
    """ROUGE, BLEU, chrF and TER, of each text and of the corpus, to 1e-12."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF, TER

    captions = [row["references"] for row in rows("commongen/validation", 15)]
    summaries = [row["summary"] for row in rows("tldr/validation", 15)]
    posts = [row["post"].split("\n")[0] for row in rows("tldr/validation", 15)]
    completions = [of_one[0] for of_one in captions] + posts
    references = [of_one[1:] or of_one for of_one in captions] + [[summary] for summary in summaries]
    columns = [""] * len(completions), completions, references, [{}] * len(completions)

    kinds = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL", "rouge_lsum": "rougeLsum"}
    plain = RougeScorer(list(kinds.values()), use_stemmer=True)
    pairs = list(zip(completions, references, strict=True))
    table = [[plain.score(target, text) for target in targets] for text, targets in pairs]
    for name, kind in kinds.items():
        best = [max(found[kind].fmeasure for found in of_one) for of_one in table]
        np.testing.assert_allclose(rewards.load(name)(*columns), best, rtol=0, atol=1e-12)
    three = ("rouge1", "rouge2", "rougeL")
    mean = [max(sum(found[kind].fmeasure for kind in three) / 3 for found in of_one) for of_one in table]
    np.testing.assert_allclose(rewards.load("rouge_combined")(*columns), mean, rtol=0, atol=1e-12)

    most = max(map(len, references))
    streams = [[of_one[i] if i < len(of_one) else None for of_one in references] for i in range(most)]
    single = {"bleu": BLEU(effective_order=True, force=True), "chrf": CHRF(), "ter": TER()}
    for name, metric in single.items():
        expected = [metric.sentence_score(*pair).score for pair in pairs]
        np.testing.assert_allclose(rewards.load(name)(*columns), expected, rtol=0, atol=1e-12)
    for name, metric in {"sacre_bleu": BLEU(force=True), "corpus_chrf": CHRF(), "corpus_ter": TER()}.items():
        assert rewards.load(name).corpus(*columns) == pytest.approx(
            metric.corpus_score(completions, streams).score, abs=1e-12
        )
