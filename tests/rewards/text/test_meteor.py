import gzip
import importlib
import json
import sys

import numpy as np
import paths
import pytest
from nltk.corpus.util import LazyCorpusLoader
from nltk.translate.meteor_score import single_meteor_score

from tril_gym import rewards
from tril_gym.rewards.base import well_formed
from tril_gym.rewards.text import meteor as module
from tril_gym.rewards.text import words
from tril_gym.rewards.text.java_process import line_process
from tril_gym.rewards.text.meteor import Meteor, score_line

DATA = paths.DATA

# Has the protocol of the official program. The score is the share of a text's words that the best reference has.
FAKE = """#!{python} -SE
import sys
sys.stdin.reconfigure(encoding="utf-8")
for line in sys.stdin:
    kind, *fields = line.rstrip("\\n").split(" ||| ")
    if kind == "SCORE":
        *references, text = [field.split() for field in fields]
        print(max(sum(word in reference for word in text) for reference in references), len(text))
    elif kind == "EVAL":
        scores = [int(field.split()[0]) / int(field.split()[1]) for field in fields]
        print(*scores, sum(scores) / len(scores), sep="\\n")
    else:
        sys.exit(f"Error: {{line}}")
    sys.stdout.flush()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a pycocoevalcap with an empty jar, and a `java` written in Python."""
    folder = tmp_path_factory.mktemp("meteor")
    (folder / "pycocoevalcap" / "meteor").mkdir(parents=True)
    (folder / "pycocoevalcap" / "__init__.py").touch()
    (folder / "pycocoevalcap" / "meteor" / "meteor-1.5.jar").touch()
    (folder / "java").write_text(FAKE.format(python=sys.executable))
    (folder / "java").chmod(0o755)
    return folder


@pytest.fixture
def fake(folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PATH", str(folder))
    yield Meteor()
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)


def score(reward, pairs):
    completions, references = [list(column) for column in zip(*pairs, strict=True)]
    return reward([""] * len(pairs), completions, references, [{}] * len(pairs)).tolist()


def test_one_process_scores_all_batches(fake):
    pairs = [("a dog runs", ["a cat runs", "a dog"]), ("a dog", ["the dog and a cat"]), ("x y", ["z"])]
    assert score(fake, pairs) == pytest.approx([2 / 3, 1, 0])
    pid = line_process(fake.command).pid
    many = pairs * 200  # more than one request
    assert score(fake, many) == score(fake, pairs) * 200
    assert score(Meteor(), pairs[::-1]) == score(fake, pairs)[::-1]
    assert line_process(fake.command).pid == pid


def test_options_are_passed_to_the_program(fake, folder):
    assert fake.command[0] == str(folder / "java")
    assert fake.command[1] == "-Xmx2g"
    assert fake.command[-6:] == ["-", "-", "-stdio", "-l", "en", "-norm"]
    assert Meteor(memory="512m").command[1] == "-Xmx512m"
    with pytest.raises(ValueError, match=r"memory must be .* got '2'"):
        Meteor(memory="2")


def test_separators_in_texts_are_removed():
    assert score_line("a|||b\nc", ["d\r\n||| e", "||||"]) == "SCORE ||| d e |||  ||| a b c"
    assert score_line("a | b || c", ["d"]) == "SCORE ||| d ||| a | b || c"


def test_unusual_texts(fake):
    texts = ["a ||| b", "a\nb", "a \udce2 b", "\N{DOG FACE} a", "a b " * 2500, "a\x00b", "EVAL ||| a"]
    pairs = [(text, ["a", text]) for text in texts]
    assert score(fake, pairs) == [1.0] * len(texts)
    assert [score(fake, [pair])[0] for pair in pairs] == [1.0] * len(texts)


def test_empty_texts_score_zero_without_a_request(fake, monkeypatch):
    monkeypatch.setattr(module, "line_process", None)
    pairs = [("", ["a"]), (" \n", ["a"]), ("|||", ["a"]), ("a", [])]
    assert score(fake, pairs) == [0.0] * 4
    assert fake([], [], [], []).shape == (0,)
    with pytest.raises(TypeError):
        score(fake, [("a", ["a"])])  # the control: this is a request


def test_missing_package_or_java_is_reported(fake, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(ValueError, match=r"meteor runs a Java program and found no `java`"):
            Meteor()
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(ImportError, match=r'meteor needs meteor-1\.5\.jar .*`pip install "tril-gym\[caption\]"`'):
        Meteor()


def captions(number):
    with gzip.open(DATA / "commongen" / "validation.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["references"] for _, line in zip(range(number), file, strict=False)]
    own = [(references[0], references[1:]) for references in texts if len(references) > 1]
    # Every second caption with its own references, the others with those of another example.
    return [(text, references if i % 2 else own[i - 1][1]) for i, (text, references) in enumerate(own)]


def official():
    """Return the reward, or skip where its program cannot run."""
    try:
        return Meteor()
    except (ImportError, ValueError) as error:
        pytest.skip(str(error))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}")
def test_scores_equal_those_of_the_caption_toolkit():
    reward = official()
    toolkit = importlib.import_module("pycocoevalcap.meteor.meteor").Meteor()
    toolkit.meteor_p.stderr.close()  # not closed by the toolkit
    pairs = captions(110)
    texts = {str(i): [text] for i, (text, _) in enumerate(pairs)}
    _, expected = toolkit.compute_score({str(i): references for i, (_, references) in enumerate(pairs)}, texts)
    toolkit.meteor_p.stdout.close()
    del toolkit
    found = score(reward, pairs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert np.std(found) > 0.1  # the texts differ
    pid = line_process(reward.command).pid
    assert [score(reward, [pair])[0] for pair in pairs[:10]] == found[:10]
    assert score(reward, pairs[::-1]) == found[::-1]
    assert line_process(reward.command).pid == pid


def test_official_program_scores_unusual_texts():
    reward = official()
    odd = [
        "\N{DOG FACE}",
        "\x01\x7f",
        ".",
        "|",
        "||",
        "a\u0085b",
        "\udce2",
        "\ufeff",
        "\u200b",
        "SCORE",
        "x" * 10_000,
        "1e5",
    ]
    normal = ("a dog runs", ["the dogs ran", "a cat"])
    found = score(reward, [pair for text in odd for pair in (normal, (text, ["a dog", text, ""]))])
    assert found[::2] == score(reward, [normal]) * len(odd)
    assert np.isfinite(found).all()
    assert 0 <= min(found) <= max(found) <= 1
    assert score(reward, [("the dog ran after the ball " * 385, ["a dog ran after the balls"])])[0] > 0


def stem(completion, references):
    return float(rewards.load("meteor_exact_stem")(["p"], [completion], [references], [{}])[0])


def test_exact_and_stem_by_hand():
    # 6 words, all match in one piece: P = R = F = 1, penalty 0.5 · (1/6)³
    assert stem("The cat sat on the mat", ["the cat sat on the mat"]) == pytest.approx(1 - 0.5 / 216)
    # dogs ~ dog, running ~ runs by stem; "a" is missing. h = 3, r = 4, m = 3: P = 1, R = 3/4
    #   pieces: (dogs), (running, fast) = 2: the reference has "a" between. F = 0.75 / (0.9 + 0.075) = 0.769231
    #   penalty 0.5 · (2/3)³ = 0.148148
    assert stem("dogs running fast", ["dog a runs fast"]) == pytest.approx(0.75 / 0.975 * (1 - 0.5 * 8 / 27))
    # h = 4, r = 2, m = 1: P = 1/4, R = 1/2, F = 0.125 / (0.225 + 0.05); one piece of one word: penalty 0.5
    assert stem("a red ball .", ["ball games"]) == pytest.approx(0.125 / 0.275 / 2)


def test_best_reference_counts_without_synonyms():
    assert stem("the cat", ["a dog", "the cat", "the"]) == stem("the cat", ["the cat"]) == pytest.approx(15 / 16)
    assert stem("car", ["automobile"]) == 0.0


def test_no_match_scores_zero():
    assert stem("the cat", []) == stem("", ["the cat"]) == stem("the cat", [""]) == stem(" \n", [" "]) == 0.0


def test_words_are_letters_and_digits_or_single_marks():
    assert words.split_words("The dog's 2nd-best.") == ["the", "dog", "'", "s", "2nd", "-", "best", "."]
    assert words.split_words(well_formed("\N{DOG FACE}\udce2")) == ["\N{DOG FACE}", "?"]


def test_no_corpus_is_read(monkeypatch):
    def read(corpus):
        raise AssertionError("a corpus is read")

    monkeypatch.setattr(LazyCorpusLoader, "_LazyCorpusLoader__load", read)
    assert stem("a car and a dog", ["an automobile and dogs"]) > 0
    with pytest.raises(AssertionError, match="a corpus is read"):  # as nltk's WordNet does
        single_meteor_score(["automobile"], ["car"])


def test_exact_and_stem_of_unusual_texts_in_a_batch():
    reward = rewards.load("meteor_exact_stem")
    texts = ["a dog", "", "\udce2 dog", "\x00", "\N{DOG FACE}", "dog ball " * 1112, "x" * 10_000, "a cat|||\n"]
    pairs = [(text, ["the dogs", text[:50]]) for text in texts]
    found = score(reward, pairs)
    assert [score(reward, [pair])[0] for pair in pairs] == found
    assert score(reward, pairs[::-1]) == found[::-1]
    assert 0 <= min(found) <= max(found) <= 1
    assert reward([], [], [], []).shape == (0,)
