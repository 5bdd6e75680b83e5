"""Scene graphs of sentences parsed by hand, and SPICE with a rule-based pipeline."""

import numpy as np
import pytest
import spacy
from reward_examples import Example
from spacy.tokens import Doc
from spacy.vocab import Vocab
from spacy_pipeline import save_pipeline

from tril_gym import rewards
from tril_gym.rewards.text import spice as module
from tril_gym.rewards.text.scene_graph import propositions
from tril_gym.rewards.text.spice import Spice, f1

KINDS = {"n": "NOUN", "p": "PROPN", "v": "VERB", "x": "AUX", "a": "ADJ", "d": "DET", "i": "ADP", "#": "NUM"}
KINDS |= {"r": "PRON", "c": "CCONJ", "-": "PART", "b": "ADV"}


def parsed(text):
    """Return a Doc from "word/lemma/kind/label/head …"; heads count from 1, the root has 0; "/tag" is optional."""
    cells = [word.split("/") for word in text.split()]
    return Doc(
        Vocab(),
        words=[cell[0] for cell in cells],
        lemmas=[cell[1] or cell[0] for cell in cells],
        pos=[KINDS[cell[2]] for cell in cells],
        deps=[cell[3] for cell in cells],
        heads=[i if cell[4] == "0" else int(cell[4]) - 1 for i, cell in enumerate(cells)],
        tags=[cell[5] if len(cell) > 5 else "" for cell in cells],
    )


def graph(text):
    return {", ".join(proposition) for proposition in propositions(parsed(text))}


SENTENCES = {
    # Two young girls throw a red ball to the dog
    "verb, object, place": (
        "Two/two/#/nummod/3 young//a/amod/3 girls/girl/n/nsubj/4 throw//v/ROOT/0 a//d/det/7 red//a/amod/7"
        " ball//n/dobj/4 to//i/prep/4 the//d/det/10 dog//n/pobj/8",
        {"girl", "ball", "dog", "girl, two", "girl, young", "ball, red", "girl, throw, ball", "girl, throw to, dog"},
    ),
    # a dog sleeps
    "a verb without an object": ("a//d/det/2 dog//n/nsubj/3 sleeps/sleep/v/ROOT/0", {"dog", "dog, sleep"}),
    # the dog is big and brown
    "a copula with adjectives": (
        "the//d/det/2 dog//n/nsubj/3 is/be/x/ROOT/0 big//a/acomp/3 and//c/cc/4 brown//a/conj/4",
        {"dog", "dog, big", "dog, brown"},
    ),
    # a poodle is a dog
    "a copula with a noun": ("a//d/det/2 poodle//n/nsubj/3 is/be/x/ROOT/0 a//d/det/5 dog//n/attr/3",
                             {"poodle", "dog", "poodle, be, dog"}),
    # the cat is on the mat
    "a copula with a place": (
        "the//d/det/2 cat//n/nsubj/3 is/be/x/ROOT/0 on//i/prep/3 the//d/det/6 mat//n/pobj/4",
        {"cat", "mat", "cat, on, mat"},
    ),
    # a man with a hat
    "a noun with a preposition": ("a//d/det/2 man//n/ROOT/0 with//i/prep/2 a//d/det/5 hat//n/pobj/3",
                                  {"man", "hat", "man, with, hat"}),
    # a ball is thrown by a boy
    "a passive with its agent": (
        "a//d/det/2 ball//n/nsubjpass/4 is/be/x/auxpass/4 thrown/throw/v/ROOT/0/VBN by//i/agent/4 a//d/det/7"
        " boy//n/pobj/5",
        {"ball", "boy", "boy, throw, ball"},
    ),
    # a ball is thrown and caught
    "a passive without one, twice": (
        "a//d/det/2 ball//n/nsubjpass/4 is/be/x/auxpass/4 thrown/throw/v/ROOT/0/VBN and//c/cc/4"
        " caught/catch/v/conj/4/VBN",
        {"ball", "ball, throw", "ball, catch"},
    ),
    # a ball thrown by a boy
    "a participle of what was done": (
        "a//d/det/2 ball//n/ROOT/0 thrown/throw/v/acl/2/VBN by//i/agent/3 a//d/det/6 boy//n/pobj/4",
        {"ball", "boy", "boy, throw, ball"},
    ),
    # a man holding a dog
    "a participle of what is done": (
        "a//d/det/2 man//n/ROOT/0 holding/hold/v/acl/2/VBG a//d/det/5 dog//n/dobj/3",
        {"man", "dog", "man, hold, dog"},
    ),
    # a man and a woman eat bread and cheese
    "joined subjects and objects": (
        "a//d/det/2 man//n/nsubj/6 and//c/cc/2 a//d/det/5 woman//n/conj/2 eat//v/ROOT/0 bread//n/dobj/6 and//c/cc/7"
        " cheese//n/conj/7",
        {"man", "woman", "bread", "cheese", "man, eat, bread", "man, eat, cheese", "woman, eat, bread",
         "woman, eat, cheese"},
    ),
    # a boy runs and kicks a ball
    "joined verbs": (
        "a//d/det/2 boy//n/nsubj/3 runs/run/v/ROOT/0 and//c/cc/3 kicks/kick/v/conj/3 a//d/det/7 ball//n/dobj/5",
        {"boy", "ball", "boy, run", "boy, kick, ball"},
    ),
    # a dog that chases a cat
    "a clause about a noun": (
        "a//d/det/2 dog//n/ROOT/0 that//r/nsubj/4 chases/chase/v/relcl/2 a//d/det/6 cat//n/dobj/4",
        {"dog", "cat", "dog, chase, cat"},
    ),
    # the dog does not eat a bone
    "not": (
        "the//d/det/2 dog//n/nsubj/5 does/do/x/aux/5 not//-/neg/5 eat//v/ROOT/0 a//d/det/7 bone//n/dobj/5",
        {"dog", "bone", "dog, not eat, bone"},
    ),
    # she throws a ball
    "a pronoun": ("she//r/nsubj/2 throws/throw/v/ROOT/0 a//d/det/4 ball//n/dobj/2", {"ball"}),
    # a man picks up a tennis ball
    "a particle and a compound": (
        "a//d/det/2 man//n/nsubj/3 picks/pick/v/ROOT/0 up//i/prt/3 a//d/det/7 tennis//n/compound/7 ball//n/dobj/3",
        {"man", "ball", "ball, tennis", "man, pick up, ball"},
    ),
    # a cat jumps out of a box
    "two prepositions": (
        "a//d/det/2 cat//n/nsubj/3 jumps/jump/v/ROOT/0 out//i/prep/3 of//i/prep/4 a//d/det/7 box//n/pobj/5",
        {"cat", "box", "cat, jump out of, box"},
    ),
    # a girl wants to ride a horse
    "a verb after a verb": (
        "a//d/det/2 girl//n/nsubj/3 wants/want/v/ROOT/0 to//-/aux/5 ride//v/xcomp/3 a//d/det/7 horse//n/dobj/5",
        {"girl", "horse", "girl, want", "girl, ride, horse"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), SENTENCES.values(), ids=SENTENCES)
def test_graph_of_a_sentence(text, expected):
    assert graph(text) == expected


def test_f1_by_hand():
    one = propositions(parsed(SENTENCES["verb, object, place"][0]))  # 8 propositions
    # a red ball: (ball), (ball, red)
    two = propositions(parsed("a//d/det/3 red//a/amod/3 ball//n/ROOT/0"))
    # two in common: P = 2/8, R = 2/2, F1 = 2 · (1/4) / (5/4) = 0.4
    assert f1(one, two) == f1(two, one) == pytest.approx(0.4)
    assert f1(one, one) == 1.0
    assert f1(one, frozenset()) == f1(frozenset(), frozenset()) == 0.0


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("pipeline") / "toy")


TEXTS = [
    "a red dog chases two cats on the mat",
    "the dog sits",
    "",
    "a cat",
    "\N{DOG FACE} \udce2",
    " \n",
    "dog " * 999,
]
TARGETS = [["the dog chases a cat"], ["the dog sits", "a big cat sits"], ["a dog"], [], ["a dog"], ["x"], ["dogs"]]


def score(reward, texts, targets):
    return reward([""] * len(texts), texts, targets, [{}] * len(texts))


def test_spice_by_hand(pipeline):
    reward = rewards.load("spice", pipeline=pipeline)
    # (dog), (cat), (mat), (dog, red), (cat, two), (dog, chase, cat), (dog, chase on, mat) against
    # (dog), (cat), (dog, chase, cat): 3 in common, F1 = 2 · 3 / (7 + 3)
    # (dog), (dog, sit) against the union with (cat), (cat, big), (cat, sit): 2 · 2 / (2 + 5)
    found = score(reward, TEXTS, TARGETS)
    assert found[:2].tolist() == pytest.approx([0.6, 4 / 7])
    assert found[2:6].tolist() == [0.0] * 4
    assert found[6] > 0


def test_scores_do_not_depend_on_the_batch(pipeline):
    together = score(rewards.load("spice", pipeline=pipeline), TEXTS, TARGETS)
    order = [4, 0, 6, 1, 1, 3, 2, 5]
    for reward in (rewards.load("spice", pipeline=pipeline), rewards.load("spice", pipeline=pipeline)):
        shuffled = score(reward, [TEXTS[i] for i in order], [TARGETS[i] for i in order])
        assert shuffled.tolist() == together[order].tolist()
        assert [score(reward, [TEXTS[i]], [TARGETS[i]])[0] for i in order] == together[order].tolist()
    assert score(reward, [], []).shape == (0,)


def test_each_text_is_parsed_once(pipeline, monkeypatch):
    reward, calls, parse = Spice(pipeline=pipeline), [], module.parse
    monkeypatch.setattr(module, "parse", lambda texts, name: calls.append(list(texts)) or parse(texts, name))
    score(reward, ["a dog", "a cat", "a dog"], [["a dog"], ["the cat sits"], ["a dog"]])
    score(reward, ["a dog", "a mat"], [["the cat sits"], ["a dog"]])
    assert calls == [["a dog", "a cat", "the cat sits"], ["a mat"]]


def test_cache_of_graphs_is_limited(pipeline, monkeypatch):
    monkeypatch.setattr(module, "CACHED_TEXTS", 3)
    reward = Spice(pipeline=pipeline)
    first = score(reward, TEXTS, TARGETS)
    assert len(reward._graphs) == 3
    assert score(reward, TEXTS, TARGETS).tolist() == first.tolist()


def test_spider_adds_cider_and_is_saved(pipeline, tmp_path):
    train = [Example("p", ("the dog chases a cat",)), Example("p", ("the dog sits",)), Example("p", ("a mat",))]
    settings = {"pipeline": str(pipeline), "spice_weight": 2.0, "cider_weight": 0.5}
    reward = rewards.load("spider", train=train, **settings)
    spice, cider = rewards.load("spice", pipeline=pipeline), rewards.load("cider_d", train=train)
    expected = 2.0 * score(spice, TEXTS, TARGETS) + 0.5 * score(cider, TEXTS, TARGETS)
    np.testing.assert_array_equal(score(reward, TEXTS, TARGETS), expected)
    assert len(set(expected.tolist())) > 3
    reward.save(tmp_path)
    again = rewards.load("spider", fitted=tmp_path, **settings)
    np.testing.assert_array_equal(score(again, TEXTS, TARGETS), expected)


def test_missing_pipeline_is_refused(tmp_path):
    for name in ("spice", "spider"):
        with pytest.raises(
            ValueError, match=rf"{name} parses.* no_such_one is .*pip install \"tril-gym\[spice\]\".*{name}.pipeline"
        ):
            rewards.load(name, train=[Example("p", ("a",))] * 2, pipeline="no_such_one")
    spacy.blank("en").to_disk(tmp_path / "blank")
    blank = rewards.load("spice", pipeline=tmp_path / "blank")
    with pytest.raises(ValueError, match="has no dependency parser"):
        score(blank, ["a dog"], [["a dog"]])


# Expected parses of en_core_web_sm, by hand.
REAL_SENTENCES = {
    "Two young girls are throwing a red ball to the dog.": {
        "girl", "ball", "dog", "girl, two", "girl, young", "ball, red", "girl, throw, ball", "girl, throw to, dog",
    },
    "A brown dog chases a cat on the street.": {
        "dog", "cat", "street", "dog, brown", "dog, chase, cat", "cat, on, street",
    },
    "The ball was thrown by a boy.": {"ball", "boy", "boy, throw, ball"},
    "The dog is not big.": {"dog", "dog, not big"},
    "A woman who wears a blue dress sits on a bench.": {
        "woman", "dress", "bench", "dress, blue", "woman, wear, dress", "woman, sit on, bench",
    },
}  # fmt: skip


@pytest.mark.parametrize("sentence", REAL_SENTENCES)
def test_graph_of_a_sentence_by_a_real_parser(sentence):
    (found,) = module.parse([sentence], module.resolve_pipeline("spice", None))
    assert {", ".join(proposition) for proposition in found} == REAL_SENTENCES[sentence]


def test_spice_with_a_real_parser_ignores_voice_but_not_roles():
    reference = ["A dog chases a cat."]
    same, passive, reversed_roles, other = score(
        rewards.load("spice"),
        ["The dog chases the cat.", "A cat is chased by a dog.", "A cat chases a dog.", "A man rides a horse."],
        [reference] * 4,
    )
    assert same == passive == 1.0
    assert reversed_roles == pytest.approx(2 / 3)  # dog and cat are common to both; each has 3 propositions
    assert other == 0.0


def test_default_pipeline_is_the_first_installed_one(monkeypatch):
    assert module.resolve_pipeline("spice", None) in module.PIPELINES
    monkeypatch.setattr(module, "PIPELINES", ("no_such_one", *module.PIPELINES))
    assert module.resolve_pipeline("spice", None) in module.PIPELINES[1:]
    monkeypatch.setattr(module, "PIPELINES", ("no_such_one",))
    with pytest.raises(ValueError, match=r"spice parses .*no_such_one.*tril-gym\[spice\]"):
        rewards.load("spice")
