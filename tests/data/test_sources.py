"""Sources of examples, and the messages for invalid data."""

import csv
import gzip
import io
import json
import logging
import os
from typing import ClassVar

import datasets
import numpy as np
import pandas
import pytest

from tril_gym.data import Example, sources
from tril_gym.data.sources import load_examples
from tril_gym.data.splits import hold_out, is_held_out, part_of
from tril_gym.envs.common_gen import COMMON_GEN
from tril_gym.envs.hh import HH
from tril_gym.envs.imdb import IMDB
from tril_gym.envs.text import TEXT
from tril_gym.envs.tldr import TLDR

REVIEWS = [{"text": "a b c d", "label": 1}, {"text": "e f", "label": 0}]
SETS = [
    {"concepts": ["dog", "run", "park"], "references": ["A dog runs.", 'He said: "run, dog".']},
    {"concepts": ["cat"], "references": ["A cat."]},
]
POSTS = [{"post": "I fell.\nIt hurt, a lot.", "subreddit": "tifu", "title": "A fall", "summary": "fell"}]
DIALOGUES = [{"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Hello, you.", "rejected": "No.", "kind": "helpful"}]
TASKS = [(IMDB, REVIEWS), (COMMON_GEN, SETS), (TLDR, POSTS), (HH, DIALOGUES)]


def write(path, rows):
    """Write rows in the format that the ending of the path names."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        buffer = io.BytesIO()
        datasets.Dataset.from_list(rows).to_parquet(buffer)
        content = buffer.getvalue()
    elif name.endswith((".csv", ".tsv")):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), delimiter="," if name.endswith("csv") else "\t")
        writer.writeheader()
        writer.writerows(
            {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows
        )
        content = text.getvalue().encode()
    elif name.endswith(".json"):
        content = json.dumps(rows, indent=2).encode()
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


ENDINGS = [ending + packed for ending in ("jsonl", "json", "csv", "tsv", "parquet") for packed in ("", ".gz")]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("task", "rows"), TASKS)
def test_every_format_gives_the_same_examples(task, rows, ending, tmp_path):
    expected = [task.read(row) for row in rows]
    assert list(load_examples(task, write(tmp_path / f"some.{ending}", rows))) == expected
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / f"validation.{ending}", rows)
    assert list(load_examples(task, str(tmp_path / "folder"), split="validation")) == expected


@pytest.mark.parametrize(("task", "rows"), TASKS)
def test_every_object_gives_the_same_examples(task, rows, tmp_path):
    expected = [task.read(row) for row in rows]
    table = datasets.Dataset.from_list(rows)
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=table, test=table).save_to_disk(tmp_path / "splits")
    objects = (rows, tuple(rows), pandas.DataFrame(rows), table, table.with_format("numpy"), tmp_path / "saved")
    for dataset in (*objects, tmp_path / "splits"):
        assert list(load_examples(task, dataset)) == expected
    assert list(load_examples(task, tmp_path / "splits", split="test")) == expected
    with pytest.raises(ValueError, match=r"splits has no validation split; it has test, train"):
        load_examples(task, tmp_path / "splits", split="validation")
    with pytest.raises(ValueError, match=r"split='test' needs a data set with splits, and .*saved is one table"):
        load_examples(task, tmp_path / "saved", split="test")


def test_embedded_splits():
    for task in (IMDB, COMMON_GEN, TLDR, HH):
        splits = [load_examples(task, split=split) for split in ("train", "validation", "test")]
        assert load_examples(task) is splits[0]
        prompts = [{example.prompt for example in split} for split in splits]
        assert all(len(split) > 50 for split in splits)
        assert not prompts[0] & prompts[1]
        assert all(example.references for split in splits for example in split)


def test_a_file_is_read_once_until_it_changes(tmp_path):
    path = write(tmp_path / "train.jsonl", REVIEWS)
    first = load_examples(IMDB, path)
    assert load_examples(IMDB, str(path)) is first
    assert load_examples(IMDB, tmp_path) is first
    assert load_examples(IMDB, path, on_bad_row="skip") is not first
    write(path, REVIEWS[:1])
    os.utime(path, ns=(1, 1))
    assert len(load_examples(IMDB, path)) == 1


def test_objects_are_shared_not_copied():
    examples = [Example("a"), Example("b")]
    first = load_examples(IMDB, examples)
    assert load_examples(IMDB, list(examples)) is first, "the same objects in another list"
    assert first[0] is examples[0]
    assert load_examples(IMDB, first) is first
    examples.append(Example("c"))
    assert len(load_examples(IMDB, examples)) == 3
    table = datasets.Dataset.from_list(REVIEWS)
    assert load_examples(IMDB, table) is load_examples(IMDB, table)


def test_a_list_in_a_row_that_changes_later_does_not_reach_the_examples():
    def read():
        return load_examples(TEXT, [{"prompt": "one plus one is", "answers": ["2"]}])

    rows = [{"prompt": "one plus one is", "answers": ["2"]}]
    found = load_examples(TEXT, rows)
    rows[0]["answers"].append("3")
    assert found[0].extras == read()[0].extras == {"answers": ["2"]}


def test_rows_are_converted_once_until_they_change():
    rows = [dict(row) for row in REVIEWS]
    first = load_examples(IMDB, rows)
    assert load_examples(IMDB, [dict(row) for row in rows]) is first
    rows[0]["text"] = "g h"
    assert load_examples(IMDB, rows)[0].prompt == "g"
    assert first[0].prompt == "a b"


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        ({"text": ["a b"], "label": [1]}, "got dict"),
        (["a b", "c d"], "got a list of str"),
        ([{"text": "a b", "label": 1}, Example("a")], "got a list of Example and dict"),
        (iter(REVIEWS), "got list_iterator"),
        (None, "got NoneType"),
    ],
)
def test_other_objects_are_refused(dataset, kind):
    with pytest.raises(ValueError, match=rf"a list of dictionaries or of tril_gym.data.Example, .*, {kind}"):
        load_examples(IMDB, dataset)


class TestColumns:
    ROWS = ({"review": "a b c d", "stars": 1, "text": "other"}, {"review": "e f", "stars": 0, "text": "other"})
    NAMES: ClassVar = {"text": "review", "label": "stars"}

    @pytest.mark.parametrize("ending", ["jsonl", "csv.gz", "parquet"])
    def test_names_in_the_data_are_mapped(self, ending, tmp_path):
        expected = list(load_examples(IMDB, REVIEWS))
        path = write(tmp_path / f"mine.{ending}", self.ROWS)
        for dataset in (path, list(self.ROWS), datasets.Dataset.from_list(self.ROWS)):
            assert list(load_examples(IMDB, dataset, column=self.NAMES)) == expected

    def test_two_columns_can_be_exchanged(self):
        row = {"post": "title", "title": "post", "subreddit": "s", "summary": "x"}
        example = load_examples(TLDR, [row], column={"post": "title", "title": "post"})[0]
        assert "TITLE: title\n\nPOST: post\n" in example.prompt

    @pytest.mark.parametrize(("cell", "references"), [("A dog.", ("A dog.",)), ('["A.", "B."]', ("A.", "B."))])
    def test_a_column_of_single_references_becomes_lists(self, cell, references):
        row = {"concepts": ["dog"], "sentence": cell}
        assert load_examples(COMMON_GEN, [row], column={"references": "sentence"})[0].references == references

    def test_names_that_do_not_exist_are_refused(self):
        with pytest.raises(ValueError, match=r"which are text, label, .* 'txt' \(did you mean 'text'\?\) -> 'review'"):
            load_examples(IMDB, list(self.ROWS), column={"txt": "review"})
        with pytest.raises(ValueError, match=r"no column 'rev' .did you mean 'review'.*names for 'text'; found rev"):
            load_examples(IMDB, list(self.ROWS), column={"text": "rev"})
        with pytest.raises(ValueError, match=r"--column label=NAME, says which of yours it is"):
            load_examples(IMDB, list(self.ROWS), column={"text": "review"})
        for wrong in ("text=review", {"text": 3}, [("text", "review")]):
            with pytest.raises(ValueError, match="column must map a column of imdb to its name"):
                load_examples(IMDB, list(self.ROWS), column=wrong)


class TestJson:
    def test_json_lines_and_lists_are_both_json(self, tmp_path):
        path = tmp_path / "data.json"
        path.write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in REVIEWS), encoding="utf-8")
        lines = list(load_examples(IMDB, path))
        path.write_text("\ufeff \n" + json.dumps(REVIEWS), encoding="utf-8")
        assert list(load_examples(IMDB, path)) == lines

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{\n "data": [\n {"text": "a b", "label": 1}\n ]\n}', "several lines; write a list"),
            ('[{"text": "a b", "label": 1}', "is not a list of JSON objects"),
            ("[" * 200_000, "nested too deeply"),
            ('[{"text": "a b", "label": 1}, 3]', "line 2: a row must be a JSON object, got 3"),
            ("", "no usable row: it is empty"),
        ],
    )
    def test_other_json_is_refused(self, text, message, tmp_path):
        path = tmp_path / "data.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            load_examples(IMDB, path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "header", "message"),
    [
        ("some.csv", "text\tlabel", r"separated by commas, not '\\t', .*; name a file with tabs .tsv"),
        ("some.tsv", "text,label", "separated by tabs, not ',', .*; name a file with commas .csv"),
        ("some.csv", "text;label", "separated by commas, not ';'"),
    ],
)
def test_other_separators_are_named(name, header, message, tmp_path):
    (tmp_path / name).write_text(f"{header}\na b,1\n")
    with pytest.raises(ValueError, match=message):
        load_examples(IMDB, tmp_path / name)


def test_missing_values_of_a_table_are_none():
    frame = pandas.DataFrame({"prompt": ["a", "b"], "completion": ["c", None], "number": [1.5, float("nan")]})
    first, second = load_examples(TEXT, frame)
    assert (first.references, first.extras) == (("c",), {"number": 1.5})
    assert (second.references, second.extras) == ((), {"number": None})


def test_a_table_with_lists_is_read_from_memory_as_from_its_file(tmp_path):
    """`read_parquet` of pandas returns lists, also of messages, as arrays."""
    rows = [{"prompt": [{"role": "user", "content": f"a {n}"}], "references": ["b", "c"]} for n in range(3)]
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    assert type(frame["references"][0]).__name__ == "ndarray"
    assert list(load_examples(TEXT, frame)) == list(load_examples(TEXT, tmp_path / "a.parquet"))
    assert load_examples(TEXT, frame)[0].references == ("b", "c")


def test_a_cell_of_csv_may_be_long(tmp_path):
    (tmp_path / "a.csv").write_text(f"prompt\n{'a' * 200_000}\n")
    assert len(load_examples(TEXT, tmp_path / "a.csv")[0].prompt) == 200_000


def test_columns_of_a_table_have_different_names():
    frame = pandas.DataFrame([["a b", 1, 0]], columns=["text", "label", "label"])
    with pytest.raises(ValueError, match="the DataFrame has the column 'label' twice"):
        load_examples(IMDB, frame)


def test_split_is_refused_without_splits(tmp_path):
    path = write(tmp_path / "one.jsonl", REVIEWS)
    for dataset in (path, [Example("a")], datasets.Dataset.from_list(REVIEWS)):
        with pytest.raises(ValueError, match="split='train'"):
            load_examples(IMDB, dataset, split="train")
    both = datasets.DatasetDict(train=datasets.Dataset.from_list(REVIEWS))
    assert len(load_examples(IMDB, both)) == 2
    with pytest.raises(ValueError, match="no split 'test'; it has train"):
        load_examples(IMDB, both, split="test")


def test_train_examples_of_other_splits(tmp_path):
    write(tmp_path / "train.jsonl", REVIEWS)
    write(tmp_path / "test.jsonl", REVIEWS[:1])
    assert len(load_examples(IMDB, tmp_path)) == 2
    assert len(load_examples(IMDB, tmp_path / "test.jsonl")) == 1, "one file has no splits"


def test_invalid_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no train split.*it has nothing"):
        load_examples(IMDB, tmp_path)
    write(tmp_path / "valid.jsonl", REVIEWS)
    with pytest.raises(ValueError, match=r"no validation split.*it has valid\.jsonl"):
        load_examples(IMDB, tmp_path, split="validation")
    write(tmp_path / "train.jsonl", REVIEWS)
    write(tmp_path / "train.csv", REVIEWS)
    with pytest.raises(ValueError, match=r"train\.jsonl and train\.csv; a split must be one file"):
        load_examples(IMDB, tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt must end in \.jsonl"):
        load_examples(IMDB, tmp_path / "notes.txt")


BAD_ROWS = [
    (IMDB, "{not json", "not a line of JSON"),
    (IMDB, "[1, 2]", "a row must be a JSON object"),
    (IMDB, '{"text": "a b", "label": 2}', "label must be 1 .positive. or 0 .negative., got 2"),
    (IMDB, '{"text": "a b", "label": true}', "label"),
    (IMDB, '{"text": "one", "label": 1}', "two words"),
    (IMDB, '{"text": " ", "label": 1}', "text must be a text that is not empty"),
    (IMDB, '{"text": 5, "label": 1}', "got 5"),
    (IMDB, '{"label": 1}', "no column 'text'; found label, and imdb has text, label"),
    (COMMON_GEN, '{"concepts": [], "references": []}', "concepts must name one"),
    (COMMON_GEN, '{"concepts": "dog run", "references": []}', "concepts must be a list of texts .in CSV"),
    (COMMON_GEN, '{"concepts": ["dog", 3], "references": []}', "concepts must be a list of texts that are not empty"),
    (COMMON_GEN, '{"concepts": ["dog"], "references": [""]}', "references"),
    (TLDR, '{"post": "p", "subreddit": "s", "title": "", "summary": "x"}', "title"),
    (TLDR, '{"post": "p", "subreddit": "s", "summary": "x"}', "no column 'title'"),
]


def test_labels_may_be_numbers_of_numpy():
    assert IMDB.read({"text": "a b", "label": np.int64(1)}).label == 1


@pytest.mark.parametrize(("task", "line", "reason"), BAD_ROWS)
def test_malformed_rows(task, line, reason, tmp_path, caplog):
    path = tmp_path / "bad.jsonl"
    good = json.dumps(next(rows[0] for its_task, rows in TASKS if its_task is task))
    path.write_text(f"{good}\n\n{line}\n{good}\n")
    with pytest.raises(ValueError, match=reason) as error:
        load_examples(task, path)
    assert f"{path}, line 3: " in str(error.value)
    assert "skip" in str(error.value)
    with caplog.at_level(logging.WARNING):
        examples = load_examples(task, path, on_bad_row="skip")
    assert examples.skipped == 1
    assert "skipped 1 malformed rows of 3" in caplog.text
    assert len(examples) == (1 if task is COMMON_GEN else 2)
    path.write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"no usable row.*line 1: "):
        load_examples(task, path, on_bad_row="skip")


def test_malformed_files(tmp_path):
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(b'{"text": "a b", "label": 1}\n\xff\xfe\n')
    with pytest.raises(ValueError, match="line 2: not a line of JSON"):
        load_examples(IMDB, path)
    path = tmp_path / "broken.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a b", "label": 1}\n' * 100)[:-10])
    with pytest.raises(ValueError, match=r"broken\.jsonl\.gz, line \d+: cannot be read: .*; check that it is complete"):
        load_examples(IMDB, path)
    path.write_bytes(b"plain")
    with pytest.raises(ValueError, match=r"broken\.jsonl\.gz, line 1: cannot be read: Not a gzipped file"):
        load_examples(IMDB, path)
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"plain")
    with pytest.raises(ValueError, match=r"broken\.parquet is not a Parquet file"):
        load_examples(IMDB, path)
    path = tmp_path / "empty.jsonl"
    path.write_text("\n")
    with pytest.raises(ValueError, match="no usable row: it is empty"):
        load_examples(IMDB, path)


@pytest.mark.parametrize("place", range(10, 2000, 97))
def test_a_flipped_byte_of_a_gzip_file_is_found(place, tmp_path):
    """Deflate, length or checksum: each is one message with the file and a line, never a shorter data set."""
    rows = b"".join(b'{"text": "word%d and %d more", "label": 1}\n' % (i * i, 7 * i) for i in range(500))
    content = bytearray(gzip.compress(rows))
    content[place % len(content)] ^= 0x10
    path = tmp_path / "flipped.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"flipped\.jsonl\.gz, line \d+: "):
        load_examples(IMDB, path)


@pytest.mark.parametrize(
    "text", ['"text": ' + "[" * 200_000 + "]" * 200_000, '"text": ' + '{"a":' * 900 + "1" + "}" * 900]
)
def test_deeply_nested_json_is_one_message(text, tmp_path):
    path = tmp_path / "deep.jsonl"
    path.write_text(f'{{"text": "a b", "label": 1}}\n{{{text}, "label": 1}}\n')
    with pytest.raises(ValueError, match=r"deep\.jsonl, line 2: (its JSON is nested too deeply|text must be)") as error:
        load_examples(IMDB, path)
    assert len(str(error.value)) < 1000
    assert load_examples(IMDB, path, on_bad_row="skip").skipped == 1


@pytest.mark.parametrize(
    ("task", "row", "name"),
    [
        (IMDB, {"text": "good \ud83d film with words", "label": 1}, "prompt"),
        (IMDB, {"text": "a film with words \udc00", "label": 1}, "a reference"),
        (COMMON_GEN, {"concepts": ["dog\ud800"], "references": []}, "prompt"),
        (COMMON_GEN, {"concepts": ["dog"], "references": ["fine", "\udfff"]}, "a reference"),
    ],
)
def test_half_a_surrogate_pair_is_refused(task, row, name, tmp_path):
    path = write(tmp_path / "halves.jsonl", [row])  # JSON can spell one
    with pytest.raises(ValueError, match=rf"halves\.jsonl, line 1: {name} has '.*' at character \d+, half of a surr"):
        load_examples(task, path)


def test_whole_surrogate_pairs_are_characters(tmp_path):
    (tmp_path / "whole.jsonl").write_text('{"text": "a \\ud83d\\ude00 b c", "label": 1}\n')
    assert load_examples(IMDB, tmp_path / "whole.jsonl")[0].prompt == "a \U0001f600"


@pytest.mark.parametrize("texts", [{"prompt": 3}, {"prompt": "a", "references": ["b", 5]}, {"prompt": b"a"}])
def test_examples_hold_texts(texts):
    with pytest.raises(ValueError, match="must be a text, got"):
        Example(**texts)


def test_long_values_are_shortened_in_messages(tmp_path):
    path = write(tmp_path / "long.jsonl", [{"text": "a b", "label": "x" * 100_000}])
    with pytest.raises(ValueError, match=r"line 1: label must be 1 .*x+ … x+") as error:
        load_examples(IMDB, path)
    assert len(str(error.value)) < 1000


def test_a_repeated_column_of_csv_is_refused(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("text,label,text\na b,1,c d\n")
    with pytest.raises(ValueError, match=r"twice\.csv, line 1: the column 'text' occurs twice"):
        load_examples(IMDB, path)


PUBLISHED = [
    {"concept_set_idx": 0, "concepts": ["dog", "run"], "target": "A dog runs."},
    {"concept_set_idx": 0, "concepts": ["run", "dog"], "target": "Dogs run."},
    {"concept_set_idx": 1, "concepts": ["cat"], "target": ""},
]


@pytest.mark.parametrize("ending", ["jsonl", "json", "tsv.gz", "csv", "parquet"])
def test_published_columns_are_read_from_files(ending, tmp_path):
    """As `datasets` saves the public data set: one row for each reference, under other names."""
    path = write(tmp_path / f"train.{ending}", PUBLISHED)
    for dataset in (path, tmp_path):
        examples = load_examples(COMMON_GEN, dataset)
        assert [example.references for example in examples] == [("A dog runs.", "Dogs run."), ()]


def test_published_columns_are_read_from_objects():
    table = datasets.Dataset.from_list(PUBLISHED)
    for dataset in (table, datasets.DatasetDict(train=table)):
        assert [len(example.references) for example in load_examples(COMMON_GEN, dataset)] == [2, 0]


def test_lists_under_the_published_name_of_a_column(tmp_path):
    row = {"concepts": ["dog", "run"], "target": ["A dog runs.", "Dogs run."]}
    path = write(tmp_path / "lists.csv", [row, {"concepts": ["cat"], "target": []}])
    assert [example.references for example in load_examples(COMMON_GEN, path)] == [("A dog runs.", "Dogs run."), ()]


@pytest.mark.parametrize("column", [None, {"references": "target"}])
def test_lists_as_python_prints_them_are_refused(column):
    row = {"concepts": ["dog"], "target": "['A dog runs.', 'Dogs run.']"}
    with pytest.raises(ValueError, match=r"references must be a list of texts \(in CSV a JSON list.*'Dogs run\.'"):
        load_examples(COMMON_GEN, [row], column=column)
    text = {"concepts": ["dog"], "target": "[dog] It runs."}
    assert load_examples(COMMON_GEN, [text], column=column)[0].references == ("[dog] It runs.",)


def test_both_names_of_a_column_are_in_the_message(tmp_path):
    path = write(tmp_path / "neither.jsonl", [{"concepts": ["dog"], "sentence": "A dog."}])
    with pytest.raises(ValueError, match=r"no column 'references' \(or 'target'\); found concepts, sentence"):
        load_examples(COMMON_GEN, path)


def test_malformed_csv(tmp_path):
    path = tmp_path / "some.csv"
    path.write_text('text,label\n"a\nb",1\nc d,0,9\n')
    with pytest.raises(ValueError, match="line 4: a row must have 2 cells"):
        load_examples(IMDB, path)
    assert load_examples(IMDB, path, on_bad_row="skip").skipped == 1
    path.write_text("text\na b\n")
    with pytest.raises(ValueError, match="no column 'label'; found text, and imdb has text, label"):
        load_examples(IMDB, path)
    path.write_bytes(b"text,label\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="not CSV in UTF-8"):
        load_examples(IMDB, path)
    path.write_text('concepts,references\ndog run,"[""A dog.""]"\n')
    with pytest.raises(ValueError, match=r"line 2: concepts must be a list of texts \(in CSV a JSON list"):
        load_examples(COMMON_GEN, path)


# ---- the hub; `datasets.load_dataset` reads folders of Parquet files in its place


def hub(tmp_path, **splits):
    for split, rows in splits.items():
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / f"{split}.parquet")
    return f"hub:{tmp_path}"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    sources._from_hub.cache_clear()


def test_hub_columns_are_renamed_and_rows_joined(tmp_path):
    rows = [
        {"concept_set_idx": 0, "concepts": ["dog", "run"], "target": "A dog runs."},
        {"concept_set_idx": 0, "concepts": ["run", "dog"], "target": "Dogs run."},
        {"concept_set_idx": 1, "concepts": ["cat"], "target": ""},
    ]
    examples = load_examples(COMMON_GEN, hub(tmp_path, train=rows, validation=rows[:1]))
    assert [example.prompt for example in examples] == ["concepts: dog run. sentence:", "concepts: cat. sentence:"]
    assert [example.references for example in examples] == [("A dog runs.", "Dogs run."), ()]
    assert len(load_examples(COMMON_GEN, f"hub:{tmp_path}", split="validation")) == 1


def test_hub_without_a_validation_split_holds_some_out(tmp_path):
    rows = [{"text": f"word{i} b c d", "label": i % 2} for i in range(300)]
    name = hub(tmp_path, train=rows, test=rows[:5])
    train, validation = load_examples(IMDB, name), load_examples(IMDB, name, split="validation")
    assert len(train) + len(validation) == 300
    assert 10 < len(validation) < 60
    assert not {example.prompt for example in train} & {example.prompt for example in validation}
    assert len(load_examples(IMDB, name, split="test")) == 5
    assert load_examples(IMDB, name) is train


def test_a_missing_hub_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"could not load .*nowhere.* from the Hugging Face hub"):
        load_examples(IMDB, f"hub:{tmp_path}/nowhere")
    with pytest.raises(ValueError, match="no split 'test'; it has train"):
        load_examples(IMDB, hub(tmp_path, train=REVIEWS), split="test")


def test_hub_alone_is_the_repository_of_the_task(monkeypatch):
    asked = []

    def from_hub(reader, repository, split):
        asked.append((repository, split))

    monkeypatch.setattr(sources, "_from_hub", from_hub)
    for task in (IMDB, COMMON_GEN, TLDR, HH):
        load_examples(task, "hub", split="test")
    assert asked == [
        ("stanfordnlp/imdb", "test"),
        ("allenai/common_gen", "test"),
        ("vwxyzjn/summarize_from_feedback_tldr_3_filtered", "test"),
        ("Anthropic/hh-rlhf", "test"),
    ]


def test_hold_out_depends_on_the_prompt_alone():
    examples = [Example(f"prompt {i}") for i in range(500)]
    train, validation = hold_out(examples)
    assert 20 < len(validation) < 90
    assert sorted(example.prompt for example in train + validation) == sorted(example.prompt for example in examples)
    backwards = hold_out(examples[::-1])
    assert [example.prompt for example in backwards[1]] == [example.prompt for example in validation[::-1]]


class TestParts:
    """A hash of the prompt decides in which part of the data an example is."""

    ROWS: ClassVar = [{"text": f"film {i} was good", "label": 1} for i in range(1000)]

    def examples(self):
        return load_examples(IMDB, self.ROWS)

    def test_parts_divide_the_examples_by_their_shares(self):
        whole = self.examples()
        parts = [part_of(whole, shares) for shares in ((0.0, 0.7), (0.7, 1.0))]
        assert sorted(example.prompt for part in parts for example in part) == sorted(whole.prompts())
        assert len(parts[0]) == pytest.approx(700, abs=45)  # three standard errors
        assert part_of(whole, (0, 1)) is not whole
        assert len(part_of(whole, (0, 1))) == 1000
        assert part_of(whole, None) is whole

    def test_examples_of_one_prompt_are_in_one_part(self):
        doubled = load_examples(IMDB, [*self.ROWS, *self.ROWS])
        first, second = (set(part_of(doubled, shares).prompts()) for shares in ((0.0, 0.5), (0.5, 1.0)))
        assert first.isdisjoint(second)

    def test_a_part_is_made_once(self):
        """So its prompts are tokenised once, however many environments have it."""
        assert part_of(self.examples(), (0.2, 0.4)) is part_of(self.examples(), [0.2, 0.4])

    def test_the_share_of_a_part_does_not_depend_on_what_is_held_out(self):
        kept = [prompt for prompt in self.examples().prompts() if not is_held_out(prompt)]
        part = set(part_of(self.examples(), (0.0, 0.5)).prompts())
        assert sum(prompt in part for prompt in kept) / len(kept) == pytest.approx(0.5, abs=0.05)  # of about 900

    @pytest.mark.parametrize("part", [(0.5, 0.5), (0.7, 0.2), (-0.1, 1), (0, 1.1), (0.5,), 0.5, "ab", ("0", "1")])
    def test_wrong_shares(self, part):
        with pytest.raises(ValueError, match=r"part must be two shares, 0 ≤ start < stop ≤ 1"):
            part_of(self.examples(), part)

    def test_an_empty_part(self):
        with pytest.raises(ValueError, match=r"part \(0.0, 1e-09\) of the 1000 examples of the list of rows is empty"):
            part_of(self.examples(), (0.0, 1e-9))
