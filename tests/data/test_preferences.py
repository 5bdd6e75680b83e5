"""Preference pairs: files, the held-out part, and the metrics on it."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import paths
import pytest
from preference_pairs import polite_pairs, write_pairs

from tril_gym.data.preferences import (
    PAIRS,
    Pair,
    agreement,
    is_right,
    length_margins,
    load_pairs,
    mean_and_error,
    read,
)
from tril_gym.data.sources import load_examples
from tril_gym.envs.hh import HH
from tril_gym.envs.text import TEXT

DATA = paths.DATA / "preferences"

QUESTION = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi?"}]
ANSWERS = [[{"role": "assistant", "content": text}] for text in ("Hello.", "Go away.")]


class TestFigures:
    def test_right_and_wrong(self):
        assert is_right(np.array([0.1, 0.0, -3.0])).tolist() == [1.0, 0.5, 0.0]

    def test_mean_and_error_by_hand(self):
        # 1, 1, 0, 0: mean 1/2, variance 4 · (1/4) / 3 = 1/3, standard error √(1/3 / 4)
        found = mean_and_error(np.array([1.0, 1.0, 0.0, 0.0]))
        assert found == {"mean": 0.5, "standard_error": pytest.approx(math.sqrt(1 / 12)), "pairs": 4}
        assert mean_and_error(np.array([1.0])) == {"mean": 1.0, "standard_error": None, "pairs": 1}
        assert mean_and_error(np.array([])) == {"mean": None, "standard_error": None, "pairs": 0}

    def test_beside_a_length_only_scorer(self):
        pairs = [Pair("", "long", "s"), Pair("", "s", "long"), Pair("", "same", "size"), Pair("", "s", "long")]
        assert length_margins(pairs).tolist() == [3.0, -3.0, 0.0, -3.0]
        found = agreement(np.array([1.0, 1.0, 1.0, -1.0]), pairs)
        assert {name: figure["mean"] for name, figure in found.items()} == {
            "reward_model": 3 / 4,
            "longer_is_better": (1 + 0 + 1 / 2 + 0) / 4,
            "difference": (0 + 1 + 1 / 2 + 0) / 4,
            "chosen_is_shorter": 1 / 2,
        }
        assert found["chosen_is_shorter"]["pairs"] == 2


class TestPairs:
    def test_a_prompt_stands_on_one_side(self, tmp_path):
        pairs = [Pair(f"prompt {number % 50}", f" a{number}", f" b{number}") for number in range(300)]
        data = load_pairs(write_pairs(tmp_path / "pairs.jsonl", pairs))
        assert not {pair.prompt for pair in data.train} & {pair.prompt for pair in data.held_out}
        assert sorted(map(repr, (*data.train, *data.held_out))) == sorted(map(repr, pairs))
        assert data.held_out == load_pairs(tmp_path / "pairs.jsonl").held_out
        assert f"{len(data.held_out)} of the 300 pairs" in data.source

    def test_about_a_tenth_is_held_out(self, tmp_path):
        data = load_pairs(write_pairs(tmp_path / "pairs.jsonl", polite_pairs(1000)))
        assert 70 < len(data.held_out) < 130  # 100 ± 9.5

    def test_every_kind_of_file(self, tmp_path):
        import pyarrow
        import pyarrow.parquet

        rows = [{"prompt": f"p, {n}", "chosen": f'"c"\n{n}', "rejected": f"r{n}"} for n in range(60)]
        with (tmp_path / "pairs.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
            writer.writeheader()
            writer.writerows(rows)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "pairs.parquet")
        write_pairs(tmp_path / "pairs.jsonl", [Pair(**row) for row in rows])
        found = [load_pairs(tmp_path / f"pairs.{ending}") for ending in ("csv", "parquet", "jsonl")]
        assert found[0].train == found[1].train == found[2].train
        assert found[0].held_out == found[1].held_out == found[2].held_out

    def test_chats_in_cells_of_csv(self, tmp_path):
        rows = [
            {
                "prompt": [{"role": "user", "content": f"say {n}"}],
                "chosen": [{"role": "assistant", "content": f'"c"\n{n}'}],
                "rejected": [{"role": "assistant", "content": f"r{n}"}],
            }
            for n in range(40)
        ]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with (tmp_path / "pairs.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
            writer.writeheader()
            writer.writerows({name: json.dumps(cell) for name, cell in row.items()} for row in rows)
        found, expected = (load_pairs(tmp_path / f"pairs.{ending}") for ending in ("csv", "jsonl"))
        assert (found.train, found.held_out) == (expected.train, expected.held_out)
        assert found.train[0].rejected in {f"r{n}" for n in range(40)}

    def test_a_folder_with_both_parts_and_one_without(self, tmp_path):
        pairs = polite_pairs(40)
        write_pairs(tmp_path / "train.jsonl", pairs)
        whole = load_pairs(tmp_path)
        assert len(whole.train) + len(whole.held_out) == 40
        write_pairs(tmp_path / "validation.jsonl", polite_pairs(5, seed=1))
        parts = load_pairs(tmp_path)
        assert (list(parts.train), list(parts.held_out)) == (pairs, polite_pairs(5, seed=1))

    @pytest.mark.parametrize("prompt", [{}, {"prompt": "Hi?"}, {"prompt": QUESTION}])
    @pytest.mark.parametrize("spell", [lambda chat: chat, json.dumps])
    @pytest.mark.parametrize("task", [PAIRS, TEXT, HH])
    def test_both_texts_may_be_whole_chats(self, task, spell, prompt):
        """As UltraFeedback has them, and TRL's pairs without a prompt."""
        row = prompt | {
            name: spell(QUESTION + text) for name, text in zip(("chosen", "rejected"), ANSWERS, strict=True)
        }
        (example,) = load_examples(task, [row])
        assert list(example.messages) == QUESTION
        assert (example.references, example.extras["rejected"]) == (("Hello.",), "Go away.")

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (
                {"prompt": "a", "choosen": "b", "rejected": "c"},
                r"line 41: there is no column 'chosen'; found .*choosen",
            ),
            ({"prompt": "a", "chosen": "", "rejected": "c"}, r"line 41: chosen must be a text that is not empty"),
            ({"prompt": 3, "chosen": "b", "rejected": "c"}, r"line 41: prompt must be a text, got 3"),
            (
                {"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "c"},
                r"line 41: a completion that is a message must be the assistant's, with a text, got {'role': 'user'",
            ),
            ({"prompt": "a", "chosen": [{"content": None}], "rejected": "c"}, r"line 41: .* with a text, got"),
            ({"prompt": "a", "chosen": [{}, {}], "rejected": "c"}, r"line 41: chosen must be a text"),
            (
                {"chosen": [*QUESTION, *ANSWERS[0]], "rejected": [*QUESTION[:0], *ANSWERS[0], *ANSWERS[1]]},
                r"line 41: chosen and rejected are chats, so they must differ only in their last messages",
            ),
            (
                {"prompt": "a", "chosen": "b", "rejected": "b"},
                r"line 41: chosen and rejected must differ, got 'b' twice",
            ),
        ],
    )
    def test_a_bad_row_is_named(self, tmp_path, row, message):
        path = Path(write_pairs(tmp_path / "pairs.jsonl", polite_pairs(40)))
        path.write_text(path.read_text() + json.dumps(row) + "\n")
        with pytest.raises(ValueError, match=message):
            load_pairs(path)
        skipped = load_pairs(path, on_bad_row="skip")
        assert len(skipped.train) + len(skipped.held_out) == 40

    @pytest.mark.parametrize(
        ("prompt", "chosen", "rejected", "space"),
        [
            ("TL;DR:", "yes", "no", " "),
            ("TL;DR:", " yes", " no", ""),
            ("TL;DR:", "yes", " no", ""),  # both orders are possible
            ("TL;DR:\n", "yes", "no", ""),
            ("", "yes", "no", ""),
        ],
    )
    def test_completions_begin_as_policies_begin_them(self, prompt, chosen, rejected, space):
        example = read({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        assert (example.prompt, example.references) == (prompt, (space + chosen,))
        assert example.extras == {"rejected": space + rejected}

    @pytest.mark.parametrize("number", [1, 8])
    def test_too_few(self, tmp_path, number):
        pairs = [Pair("always the same", f"a{index}", f"b{index}") for index in range(number)]
        with pytest.raises(ValueError, match=r"too few pairs in .*: \d to learn from and \d held out"):
            load_pairs(write_pairs(tmp_path / "pairs.jsonl", pairs))

    @pytest.mark.parametrize("name", ["embedded", "hub", "hub:", "nothing.jsonl"])
    def test_nothing_there(self, name):
        with pytest.raises(ValueError, match=r"there is no file or folder .*hub:owner/name"):
            load_pairs(name)

    @pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}")
    @pytest.mark.parametrize(("name", "number", "longer"), [("hh", 1500, 0.61), ("tldr", 463, 0.70)])
    def test_real_pairs(self, name, number, longer):
        data = load_pairs(DATA / f"{name}.jsonl.gz")
        whole = [*data.train, *data.held_out]
        assert len(whole) == number
        assert is_right(length_margins(whole)).mean() == pytest.approx(longer, abs=0.01)
