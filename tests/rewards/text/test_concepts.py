import pytest
import spacy

from tril_gym import rewards
from tril_gym.rewards.text import concepts as module


def coverage(completion, concepts):
    score = rewards.load("concept_coverage")
    return float(score(["p"], [completion], [[]], [{"concepts": concepts}])[0])


def test_inflections_count():
    assert coverage("Two dogs are running.", ["dog", "run"]) == 1.0
    assert coverage("Two dogs are sleeping.", ["dog", "run"]) == 0.5
    assert coverage("Nothing of it", ["dog", "run"]) == 0.0


def test_a_concept_may_itself_be_inflected():
    assert coverage("a giraffe eats", ["giraffes", "eat"]) == 1.0


def test_exact_matches_count():
    # The lemma of the word in the text differs from the concept's lemma, but both are spelled alike.
    assert coverage("She LEFT, better.", ["left", "better"]) == 1.0
    assert coverage("xyzzies", ["xyzzies"]) == 1.0


def test_whole_words_only():
    assert coverage("a category of hotdogs", ["cat", "dog"]) == 0.0
    assert coverage("a hot dog-like thing", ["dog"]) == 1.0


def test_words_of_a_concept_are_adjacent():
    assert coverage("two ice creams", ["ice cream"]) == 1.0
    assert coverage("cream on ice", ["ice cream"]) == 0.0


def test_order_and_repetition_of_words_do_not_count():
    assert coverage("run dog dog dog", ["dog", "run", "ball"]) == coverage("dog run", ["dog", "run", "ball"])
    assert coverage("run dog dog dog", ["dog", "run", "ball"]) == pytest.approx(2 / 3)


def test_empty_text_or_no_concepts():
    assert coverage("", ["dog"]) == coverage(" \n", ["dog"]) == 0.0
    assert coverage("a dog", []) == 0.0


def test_lemmas_are_those_of_spacys_lookup_lemmatizer():
    nlp = spacy.blank("en")
    nlp.add_pipe("lemmatizer", config={"mode": "lookup"})
    nlp.initialize()
    text = "the children were riding their bikes, don't you think? geese flew 3 miles"
    assert module._lexicon().lemmatise(text)[1].split() == [token.lemma_.lower() for token in nlp(text)]


def test_cache_of_words_is_limited(monkeypatch):
    monkeypatch.setattr(module, "MAX_STORED_WORDS", module._lexicon().num_stored_words + 10)
    before = module._lexicon()
    assert coverage("two dogs " + " ".join(f"qx{i}" for i in range(50)), ["dog"]) == 1.0
    assert before.num_stored_words > module.MAX_STORED_WORDS
    assert coverage("two dogs", ["dog"]) == 1.0
    assert module._lexicon() is not before


def test_data_without_concepts_is_refused():
    score = rewards.load("concept_coverage")
    with pytest.raises(ValueError, match=r'extras\["concepts"\].*got extras with \[\'label\'\]'):
        score(["p"], ["a dog"], [[]], [{"label": 1}])
    with pytest.raises(ValueError, match="got extras with nothing"):
        score(["p"], ["a dog"], [[]], [{}])
    with pytest.raises(ValueError, match="got the string 'dog run'"):
        score(["p"], ["a dog"], [[]], [{"concepts": "dog run"}])


def of_kind(name, completion, concepts):
    return float(rewards.load(name)(["p"], [completion], [[]], [{"concepts": concepts}])[0])


def test_order_by_hand():
    concepts = ["dog", "run", "park"]
    assert of_kind("concept_order", "The dog runs in the park.", concepts) == 1.0
    # park (0), dog (3), runs (4): the longest in order is dog, run
    assert of_kind("concept_order", "Park: the dog runs.", concepts) == pytest.approx(2 / 3)
    assert of_kind("concept_order", "parks run dogs", concepts) == pytest.approx(1 / 3)
    assert of_kind("concept_order", "a cat", concepts) == 0.0
    # the first mention counts: the second dog does not change the order
    assert of_kind("concept_order", "park dog run", ["park", "run", "dog"]) == pytest.approx(2 / 3)
    assert of_kind("concept_order", "run dog, run dog", ["dog", "run"]) == 0.5
    assert of_kind("concept_order", "", concepts) == of_kind("concept_order", "dog", []) == 0.0


def test_order_is_coverage_at_most():
    texts = ["the dog runs in the park", "park run", "dogs dogs park", "running in parks with dogs", "x"]
    for text in texts:
        order, coverage = (
            of_kind(name, text, ["dog", "run", "park"]) for name in ("concept_order", "concept_coverage")
        )
        assert order <= coverage
        assert (order == 0) == (coverage == 0)


def test_stems_by_hand():
    # stems: dog, run, park; the text has the, dog, run, park. with its full stop
    assert of_kind("concept_stems", "the dogs running park.", ["dog", "run", "park"]) == pytest.approx(2 / 3)
    assert of_kind("concept_stems", "the dogs running park", ["dog", "run", "park"]) == 1.0
    assert of_kind("concept_stems", "a dog", ["dog", "dogs"]) == 1.0  # one stem
    assert of_kind("concept_stems", "he saw", ["see"]) == 0.0  # lemmas would match
    assert of_kind("concept_coverage", "he saw", ["see"]) == 1.0
    assert of_kind("concept_stems", "", ["dog"]) == of_kind("concept_stems", "dog", []) == 0.0


@pytest.mark.parametrize("name", ["concept_order", "concept_stems"])
def test_missing_concepts_are_refused(name):
    with pytest.raises(ValueError, match=rf'{name} needs extras\["concepts"\]'):
        rewards.load(name)(["p"], ["c"], [[]], [{}])
