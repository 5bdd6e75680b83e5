"""The official SPICE with a stand-in for its parser; see `spice_stand_in`."""

import shutil
import sys

import pytest
import spice_stand_in

from tril_gym.rewards.text import official_spice as module
from tril_gym.rewards.text.java_process import line_process
from tril_gym.rewards.text.official_spice import CORENLP, SAME_HASH, OfficialSpice

HAS_COMPILER = shutil.which("java") is not None and shutil.which("javac") is not None
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no Java compiler on the path")


def package(folder, monkeypatch):
    """Import the stand-in pycocoevalcap instead of an installed one."""
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
    monkeypatch.syspath_prepend(folder)


@pytest.fixture(scope="session")
def stand_in_folder(tmp_path_factory):
    return spice_stand_in.build(tmp_path_factory.mktemp("spice"), None)


@pytest.fixture
def stand_in(stand_in_folder, monkeypatch):
    """Return a reward with the stand-in scorer, without synonyms."""
    package(stand_in_folder, monkeypatch)
    reward = OfficialSpice(memory="256m", threads=1)
    yield reward
    line_process(reward.command).close()


@pytest.fixture
def real(tmp_path, monkeypatch):
    """Return a reward with the real scorer."""
    folder = spice_stand_in.real_scorer()
    if folder is None:
        pytest.skip("pycocoevalcap, which has the real scorer, is not installed")
    package(spice_stand_in.build(tmp_path, folder), monkeypatch)
    reward = OfficialSpice(memory="1g", threads=1)
    yield reward
    line_process(reward.command).close()


def score(reward, pairs):
    completions, references = [list(column) for column in zip(*pairs, strict=True)]
    return reward([""] * len(pairs), completions, references, [{}] * len(pairs)).tolist()


BY_HAND = [
    # (dog) against (dog), (dog, brown): P = 1, R = 1/2, F1 = 2/3
    (("dog", ["dog:brown"]), 2 / 3),
    # (dog), (ball), (dog, chase, ball) against these and (cat), of two references: P = 1, R = 3/4, F1 = 6/7
    (("dog>chase>ball", ["dog>chase>ball", "cat"]), 6 / 7),
    # direction counts: of three propositions two match, P = R = 2/3
    (("ball>chase>dog", ["dog>chase>ball"]), 2 / 3),
    (("dog cat", ["ball"]), 0.0),
]


@needs_compiler
def test_one_process_scores_all_texts(stand_in):
    pairs, expected = zip(*BY_HAND, strict=True)
    found = score(stand_in, pairs)
    assert found == pytest.approx(expected)
    pid = line_process(stand_in.command).pid
    assert score(OfficialSpice(memory="256m", threads=1), pairs[::-1] * 50) == found[::-1] * 50
    assert [score(stand_in, [pair])[0] for pair in pairs] == found
    assert line_process(stand_in.command).pid == pid


@needs_compiler
def test_parses_are_cached(stand_in):
    # The stand-in replaces PARSED by the number of texts parsed so far: a cached text has the same proposition.
    first = score(stand_in, [("PARSED dog", ["PARSED dog"]), ("PARSED cat", ["PARSED dog"])])
    assert first == [1.0, 0.0]
    assert score(stand_in, [("n1 dog", ["PARSED dog"]), ("n2 cat", ["PARSED cat"])]) == [1.0, 1.0]
    assert score(stand_in, [("PARSED new", ["n1 new"])]) == [0.5]  # a new text, so not n1


@needs_compiler
def test_unusual_texts(stand_in):
    texts = ["a\tb", "a\n\nb", "a \udce2", "\N{DOG FACE} größe", "dog " * 2500, "x" * 10_000, "a\x00b", "error"]
    pairs = [(text, [text, ""]) for text in texts]
    assert score(stand_in, pairs) == [1.0] * len(texts)
    assert score(stand_in, [("\N{DOG FACE} größe", ["größe ?"])]) == [0.5]  # unicode is passed unchanged


@needs_compiler
def test_parser_error_does_not_affect_the_next_batch(stand_in):
    pid = line_process(stand_in.command).pid
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=r"official_spice did not reply .*IllegalStateException: no parse of this"
        ):
            score(stand_in, [("dog", ["dog"]), ("crash", ["dog"])])
        assert score(stand_in, [("dog", ["dog"])]) == [1.0]
    assert pid is None
    with pytest.raises(RuntimeError, match=r"exited with code 3"):
        score(stand_in, [("exit", ["dog"])])
    assert score(stand_in, [("dog", ["dog"])]) == [1.0]


@pytest.fixture
def empty_package(tmp_path, monkeypatch):
    """Return a pycocoevalcap and a Java of empty files."""
    library = tmp_path / "pycocoevalcap" / "spice" / "lib"
    library.mkdir(parents=True)
    (tmp_path / "pycocoevalcap" / "__init__.py").touch()
    (library.parent / "spice-1.0.jar").touch()
    for name in ("java", "javac"):
        (tmp_path / name).touch(mode=0o755)
    for jar in CORENLP:
        (library / jar).touch()
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    package(tmp_path, monkeypatch)
    return tmp_path


def test_missing_parser_is_reported(empty_package, tmp_path_factory):
    library = empty_package / "pycocoevalcap" / "spice" / "lib"
    (library / CORENLP[1]).unlink()
    with pytest.raises(
        ValueError, match=r"found no stanford-corenlp-3\.6\.0-models\.jar in .*lib; download .*corenlp="
    ):
        OfficialSpice()
    elsewhere = tmp_path_factory.mktemp("corenlp")
    with pytest.raises(ValueError, match=r"found no stanford-corenlp-3\.6\.0\.jar and no stanford-corenlp-3\.6\.0-mod"):
        OfficialSpice(corenlp=elsewhere)
    for jar in CORENLP:
        (elsewhere / jar).touch()
    path = OfficialSpice(corenlp=elsewhere).command[OfficialSpice(corenlp=elsewhere).command.index("-cp") + 1]
    assert path.endswith(str(elsewhere / CORENLP[1]))


def test_missing_package_or_compiler_is_reported(empty_package, monkeypatch):
    OfficialSpice()
    (empty_package / "javac").unlink()
    with pytest.raises(ValueError, match=r"official_spice compiles .* no `javac`"):
        OfficialSpice()
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(ImportError, match=r'official_spice needs spice-1\.0\.jar .*"tril-gym\[caption\]"'):
        OfficialSpice()


def test_settings_are_passed_or_refused(empty_package):
    command = OfficialSpice(memory="3g", threads=2).command
    assert command[1] == "-Xmx3g"
    assert command[-2:] == [str(module.SERVER), "2"]
    assert module.SERVER.is_file()
    for setting in ("threads", "max_words"):
        with pytest.raises(ValueError, match=rf"{setting} must be a whole number of at least 1, got 0"):
            OfficialSpice(**{setting: 0})
    with pytest.raises(ValueError, match=r"memory must be .* got 'much'"):
        OfficialSpice(memory="much")


def test_empty_texts_score_zero_and_long_ones_are_truncated(empty_package, monkeypatch):
    asked = []
    reward = OfficialSpice(max_words=3)
    monkeypatch.setattr(reward, "_request", lambda questions: asked.extend(questions) or [0.5] * len(questions))
    assert score(reward, [("", ["a"]), (" \n", ["a"]), ("a", []), ("a", ["", " "])]) == [0.0] * 4
    assert reward([], [], [], []).shape == (0,)
    assert asked == []
    assert score(reward, [("a", []), ("a b  c d", ["", "e\tf", "g h i j"])]) == [0.0, 0.5]
    assert asked == ["a b c\te f\tg h i"]


@needs_compiler
def test_real_scorer_matches_synonyms(real):
    pairs, expected = zip(*BY_HAND, strict=True)
    assert score(real, pairs) == pytest.approx(expected)
    assert score(real, [("auto", ["car"]), ("auto", ["dog"]), ("kid:big", ["child:large"])]) == [1.0, 0.0, 1.0]


# A graph in which a word is as similar to one other word as to a second.
TIED = (
    "break:lead spot>run>catch post:carry close:raise spot:bring",
    [
        "drop:cover state:stand give:drive post:make cover:strike",
        "cover>strike>check bear:line place>office>spot post:turn charge>catch>strike",
        "play:drop set:turn move:lead beat>stand>fix cast:ground",
        "post>lead>drive get:cover beat:cut fix>raise>cover close>stand>give",
    ],
)


@needs_compiler
def test_real_score_is_deterministic(real):
    assert len(set(score(real, [TIED] * 30))) == 1
    real.command = [part for part in real.command if part not in SAME_HASH]
    assert len(set(score(real, [TIED] * 30))) > 1  # as with the authors' program
    line_process(real.command).close()


@needs_compiler
def test_real_parser_is_used(monkeypatch):
    # The code of CoreNLP 3.4.1, which the toolkit has for its tokenizer, suffices to build the real parser.
    folder = spice_stand_in.real_scorer()
    if folder is None:
        pytest.skip("pycocoevalcap, which has the real scorer, is not installed")
    code = str(folder / "tokenizer" / "stanford-corenlp-3.4.1.jar")
    jars = [str(folder / "spice" / "spice-1.0.jar"), str(folder / "spice" / "lib" / "*"), code]
    monkeypatch.setattr(module, "class_path", lambda corenlp: jars)
    reward = OfficialSpice(memory="1g", threads=1)
    with pytest.raises(RuntimeError, match=r'official_spice did not reply .* "edu/stanford/nlp/models/lexparser/'):
        score(reward, [("a dog runs", ["a dog ran"])])
    line_process(reward.command).close()
