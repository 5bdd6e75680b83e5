"""Embedded data: columns, no repetition, lengths, and tokenizers that lose nothing."""

import gzip
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import spacy
from tokenizers import Tokenizer

from tril_gym.data.embedded import build, common_gen_grammar, hh_grammar, imdb_grammar, text_grammar
from tril_gym.data.embedded.phrases import options
from tril_gym.data.tokenizers import train_tokenizer

FOLDER = Path(build.__file__).parent
COLUMNS = {
    "imdb": {"text": str, "label": int},
    "common_gen": {"concepts": list, "references": list},
    "tldr": {"post": str, "subreddit": str, "title": str, "summary": str},
    "hh": {"prompt": str, "chosen": str, "rejected": str, "kind": str},
    "text": {"prompt": str, "references": list, "answer": str, "kind": str},
}


def rows(task: str, split: str, folder: Path = FOLDER) -> list[dict]:
    with gzip.open(folder / task / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def every_row(task: str) -> list[dict]:
    return [row for split in build.SPLITS for row in rows(task, split)]


def length(text: str) -> int:
    return len(text.split())


@pytest.fixture(scope="module")
def lemmatize():
    nlp = spacy.blank("en")
    nlp.add_pipe("lemmatizer", config={"mode": "lookup"})
    nlp.initialize()
    return lambda text: {token.lemma_ for token in nlp(text)}


@pytest.fixture(scope="module", params=list(build.DATASETS))
def task(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(task) -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / task / "tokenizer.json"))


def test_counts_and_columns(task):
    for split, size in zip(build.SPLITS, build.DATASETS[task].sizes, strict=True):
        found = rows(task, split)
        assert len(found) == size >= {"text": (200, 50)}.get(task, (2000, 200))[split != "train"]
        for row in found:
            assert {name: type(value) for name, value in row.items()} == COLUMNS[task]


def test_no_row_is_repeated(task):
    main = {
        "imdb": lambda row: row["text"],
        "common_gen": lambda row: frozenset(row["concepts"]),
        "tldr": lambda row: row["post"],
        "hh": lambda row: row["prompt"],
        "text": lambda row: row["prompt"],
    }[task]
    assert Counter(map(main, every_row(task))).most_common(1)[0][1] == 1


def test_the_data_are_small():
    files = [path for task in build.DATASETS for path in (FOLDER / task).iterdir()]
    assert len(files) == 4 * len(build.DATASETS)
    assert sum(path.stat().st_size for path in files) < 800_000


def test_imdb_is_balanced_and_has_the_stated_lengths():
    for split in build.SPLITS:
        found = rows("imdb", split)
        assert sum(row["label"] for row in found) == len(found) / 2
        assert all(30 <= length(row["text"]) <= 70 for row in found)


def opinions_of(review: str) -> str:
    """Return a review without what was expected of the film, in lower case."""
    return re.sub("|".join(imdb_grammar.EXPECTED), "", review).lower()


def remarks(good: int) -> list[str]:
    pairs = (*imdb_grammar.REMARKS.values(), imdb_grammar.EVENINGS)
    return [text.format(companion="").strip().lower() for pair in pairs for text in options(pair[1 - good])]


def clauses(good: int) -> list[str]:
    found = {clause for topic in imdb_grammar.TOPICS.values() for clause in options(topic[2 - good])}
    return sorted(found, key=len, reverse=True)  # "sharp and colorful" before "sharp"


def test_imdb_labels_say_which_opinions_prevail():
    for row in every_row("imdb"):
        text = opinions_of(row["text"])
        bad, good = (
            len(re.findall(rf"\bis (?:really |truly |so )?(?:{'|'.join(clauses(good))})\b", text))
            + sum(remark in text for remark in remarks(good))
            for good in (0, 1)
        )
        assert (good > bad) == row["label"], row["text"]
        assert good != bad


def test_no_remark_decides_the_label_of_an_imdb_review():
    found = [(opinions_of(row["text"]), row["label"]) for row in every_row("imdb")]
    for good in (0, 1):
        for remark in remarks(good):
            labels = [label for text, label in found if remark in text]
            assert 0.6 < labels.count(good) / len(labels) < 0.97, remark


def test_tldr_posts_and_summaries_have_the_stated_lengths():
    found = every_row("tldr")
    assert len({row["subreddit"] for row in found}) >= 12
    assert all(40 <= length(row["post"]) <= 90 and 8 <= length(row["summary"]) <= 24 for row in found)


def test_tldr_summaries_can_be_copied_from_their_posts():
    def overlap(summary: str, post: str) -> float:
        wanted, given = (re.findall(r"\w+", text.lower()) for text in (summary, post))
        return sum(word in given for word in wanted) / len(wanted)

    found = every_row("tldr")
    own = sum(overlap(row["summary"], row["post"]) for row in found) / len(found)
    others = sum(overlap(row["summary"], other["post"]) for row, other in pairwise(found))
    assert own > 0.85
    assert others / (len(found) - 1) < 0.5  # negative control: the summary of another post


def test_most_tldr_summaries_end_with_the_question_and_the_most_frequent_ending_is_another():
    """So the likeliest summary is not the one that shares most words with the others."""
    endings = [re.search(r", and [^,]+\.$|[.:] [^.:]+\?$", row["summary"]).group() for row in every_row("tldr")]
    shares = {mark: sum(ending.startswith(mark) for ending in endings) / len(endings) for mark in (",", ".", ":")}
    assert sum(shares.values()) == 1
    assert max(shares, key=shares.get) == ","
    assert 0.62 < shares["."] + shares[":"] < 0.66
    assert abs(shares["."] - shares[":"]) < 0.03


def test_common_gen_sentences_have_the_stated_form():
    sentences = []
    for row in every_row("common_gen"):
        assert 3 <= len(row["concepts"]) == len(set(row["concepts"])) <= 5
        assert 1 <= len(row["references"]) <= 4
        sentences += row["references"]
    assert len(set(sentences)) == len(sentences)
    for sentence in sentences:
        assert re.fullmatch(r"[a-z]+(,? [a-z]+){5,13}\.", sentence), sentence
        assert not re.search(r"\b(a [aeiou]|an [^aeiou])", sentence), sentence


def test_hh_has_both_kinds_and_length_tells_little():
    found = every_row("hh")
    longer = {
        kind: sum(len(row["chosen"]) > len(row["rejected"]) for row in found if row["kind"] == kind)
        / sum(row["kind"] == kind for row in found)
        for kind in ("helpful", "harmless")
    }
    assert 0.5 < longer["helpful"] < 0.65
    assert 0.5 < longer["harmless"] < 0.8
    assert 0.2 < sum(row["prompt"].count(hh_grammar.HUMAN) == 2 for row in found) / len(found) < 0.3
    for row in found:
        assert row["prompt"].startswith(hh_grammar.HUMAN)
        assert row["prompt"].endswith(hh_grammar.ASSISTANT)
        assert row["chosen"] != row["rejected"]
        assert not re.search(r"\b(a [aeiou]|an [^aeioh])|  |[{}]", f"{row['chosen']} {row['rejected']}"), row


def right_answer(kind: str, question: str) -> str:
    numbers, words = [int(number) for number in re.findall(r"\d+", question)], re.findall(r"\w+", question)
    if kind in ("sum", "difference", "larger"):
        return str({"sum": sum(numbers), "difference": numbers[0] - numbers[-1], "larger": max(numbers)}[kind])
    if kind == "choice":
        group = text_grammar.GROUPS[question.removeprefix("Which word is ").split("?")[0]]
        (letter,) = re.findall(rf"(\w): (?:{'|'.join(group)})\b", question)
        return letter
    if kind == "opposite":
        (pair,) = (pair for pair in text_grammar.OPPOSITES if words[-1] in pair)
        return pair[1 - pair.index(words[-1])]
    return " ".join(sorted(words[3:])) if kind == "order" else " ".join([words[3]] * numbers[0])


def test_answers_of_questions_are_right():
    found = every_row("text")
    assert {row["kind"] for row in found} == set(text_grammar.KINDS)
    for row in found:
        assert row["references"] == [row["answer"]]
        assert row["answer"] == right_answer(row["kind"], row["prompt"].removesuffix(" Answer:")), row


def test_references_have_the_lemmas_of_all_concepts(lemmatize):
    inflected = 0
    for row in every_row("common_gen"):
        for reference in row["references"]:
            assert set(row["concepts"]) <= lemmatize(reference), (row["concepts"], reference)
            inflected += not set(row["concepts"]) <= set(re.findall("[a-z]+", reference))
    assert inflected > 4000  # lemmas are needed: most sentences inflect a concept


def test_forms_of_a_concept_have_it_as_lemma(lemmatize):
    concepts = {concept for row in every_row("common_gen") for concept in row["concepts"]}
    assert len(concepts) >= 120
    written = {
        word
        for row in every_row("common_gen")
        for reference in row["references"]
        for word in re.findall("[a-z]+", reference)
    }
    for concept in concepts:
        forms = common_gen_grammar.VERBS.get(concept, [concept, common_gen_grammar.plural(concept)])
        for form in written.intersection(forms) | {concept}:
            assert lemmatize(form) == {concept}


@pytest.mark.parametrize(
    "text",
    [
        "a dog runs in the park.",
        " leading, trailing and  double spaces ",
        "tabs\tand\nlines\r\n\n",
        "emoji 🐕🏽‍🦺 🎉 and é, e\u0301, ß, ﬁ, \u200b, \ufeff",
        "η γάτα кошка 猫が好き القطة \U0001f3f4",
        "don't won't it's , . ! ?",
        "".join(map(chr, range(1, 256))),
    ],
)
def test_decoding_restores_any_text(tokenizer, text):
    tokens = tokenizer.encode(text).ids
    assert tokenizer.decode(tokens, skip_special_tokens=False) == text


def test_tokenizer_size_and_special_tokens(tokenizer):
    assert tokenizer.token_to_id("<pad>") == 0
    assert tokenizer.token_to_id("<eos>") == 1
    assert tokenizer.get_vocab_size() <= build.VOCAB_SIZE
    assert tokenizer.encode("a<eos>").ids[-1] == 1


def test_every_word_is_one_token_and_every_token_occurs(task, tokenizer):
    texts = [
        text
        for split in {"train", "test", *build.DATASETS[task].tokenizer_splits}
        for row in rows(task, split)
        for text in build.DATASETS[task].texts(row)
    ]
    encodings = tokenizer.encode_batch(texts)
    assert all(len(set(encoding.word_ids)) == len(encoding.ids) for encoding in encodings)
    used = {token for encoding in encodings for token in encoding.ids}
    single_bytes = range(2, 258)  # the alphabet of other texts, after the two special tokens
    assert set(range(258, tokenizer.get_vocab_size())) <= used
    assert used.isdisjoint({0, 1})
    assert [tokenizer.decode(tokenizer.encode(text).ids) for text in ("Čeština 123", "naïve")] == [
        "Čeština 123",
        "naïve",
    ]
    assert all(len(tokenizer.id_to_token(token)) == 1 for token in single_bytes)


def test_a_larger_vocabulary_than_allowed_is_cut_into_pieces():
    texts = ["a red house", "a blue house", "two red houses"]
    whole, pieces = (train_tokenizer(texts, size) for size in (263, 262))
    assert whole.get_vocab_size() == 258 + 5  # "a" is a byte; " red", " house", " blue", "two" and " houses" are words
    assert len(whole.encode("a red house").ids) == 3
    assert pieces.get_vocab_size() == 262
    assert len(pieces.encode("two red houses").ids) > 3
    assert pieces.decode(pieces.encode("a new house").ids) == "a new house"


@pytest.mark.parametrize(
    ("task_name", "texts", "limit"),
    [
        ("common_gen", lambda row: [f"concepts: {' '.join(row['concepts'])}. sentence:"], 15),
        ("common_gen", lambda row: [f" {reference}<eos>" for reference in row["references"]], 20),
        ("imdb", lambda row: [row["text"][: len(row["text"]) // 2]], 64),
        ("imdb", lambda row: [row["text"][len(row["text"]) // 2 :] + "<eos>"], 48),
        ("tldr", lambda row: [f" {row['summary']}<eos>"], 30),
        ("hh", lambda row: [row["prompt"]], 100),
        ("hh", lambda row: [f" {row['chosen']}<eos>"], 64),
    ],
)
def test_most_texts_fit_the_default_lengths(task_name, texts, limit):
    tokenizer = Tokenizer.from_file(str(FOLDER / task_name / "tokenizer.json"))
    lengths = [len(tokenizer.encode(text).ids) for row in every_row(task_name) for text in texts(row)]
    assert sum(length <= limit for length in lengths) / len(lengths) > 0.97


@pytest.mark.slow
def test_a_rebuild_equals_the_shipped_data(tmp_path):
    build.build(tmp_path)
    for task in build.DATASETS:
        for split in build.SPLITS:
            made, shipped = ((folder / task / f"{split}.jsonl.gz").read_bytes() for folder in (tmp_path, FOLDER))
            assert made[4:8] == b"\0\0\0\0"  # no modification time
            assert gzip.decompress(made) == gzip.decompress(shipped)  # other Python versions may compress differently
        made, shipped = (json.loads((folder / task / "tokenizer.json").read_text()) for folder in (tmp_path, FOLDER))
        assert made["model"]["vocab"] == shipped["model"]["vocab"]
        assert made["model"]["merges"] == shipped["model"]["merges"]


def test_written_bytes_do_not_depend_on_the_file_name(tmp_path):
    for name in ("one", "two"):
        build.write_rows(tmp_path / name, [{"text": "é 🐕"}])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    build.write_rows(tmp_path / "two", [{"text": "other"}])
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()
