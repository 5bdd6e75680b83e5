"""HH: dialogues and answers, raw rows, left truncation at a turn, the stop string, the hub read by folder."""

import gzip
import json
from dataclasses import replace
from operator import itemgetter

import datasets
import gymnasium as gym
import numpy as np
import paths
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

import tril_gym  # noqa: F401 - registers the environments
from tril_gym.data import Example, Examples, sources
from tril_gym.data.preferences import load_pairs
from tril_gym.data.sources import load_examples
from tril_gym.envs.hh import ASSISTANT, HH, HUMAN
from tril_gym.envs.prompts import PromptTable
from tril_gym.rewards.neural.preference_fit import pair_texts

REAL = paths.DATA / "preferences" / "hh.jsonl.gz"
PROMPT = f"{HUMAN} Hi{ASSISTANT} Hello{HUMAN} A word?{ASSISTANT}"
ROW = {"prompt": PROMPT, "chosen": "Tree.", "rejected": "No.", "kind": "helpful"}


def test_a_row_is_a_dialogue_with_two_answers():
    expected = Example(
        PROMPT, references=("Tree.",), extras={"rejected": "No.", "kind": "helpful"}, suffix="\n\nAssistant:"
    )
    assert HH.read(ROW) == expected
    assert HH.read(ROW | {"prompt": PROMPT + " ", "chosen": " Tree.\n"}) == expected
    assert HH.read({name: ROW[name] for name in ("prompt", "chosen", "rejected")}).extras == {"rejected": "No."}


def test_dialogues_are_split_where_their_answers_differ():
    """The answers begin alike, too; the prompt ends before them."""
    raw = {"chosen": f"{PROMPT} A tree.", "rejected": f"{PROMPT} A stone."}
    example = HH.read(raw)
    assert (example.prompt, example.references, example.extras) == (PROMPT, ("A tree.",), {"rejected": "A stone."})


def test_an_answer_ends_before_a_further_turn():
    example = HH.read(ROW | {"chosen": f"Tree.{HUMAN} Thanks.{ASSISTANT} Bye.", "rejected": f"No.{HUMAN} Why?"})
    assert (example.references, example.extras["rejected"]) == (("Tree.",), "No.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"prompt": "A word?"},
            "prompt must be a dialogue that ends in .*Assistant:.*Text-v0 takes prompts of any form",
        ),
        ({"prompt": None}, "without a column prompt, chosen and rejected must be dialogues that are the same up to"),
        ({"chosen": f"{HUMAN} Again."}, "chosen must be a text that is not empty"),
        ({"rejected": "Tree. "}, "chosen and rejected must differ"),
        ({"kind": 3}, "kind must be a text"),
        ({"prompt": 5}, "prompt must be a text"),
    ],
)
def test_other_rows_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        HH.read(ROW | change)


def test_chats_are_rendered_by_a_template():
    chat = [{"role": "user", "content": "A word?"}]
    example = HH.read(ROW | {"prompt": chat})
    assert (example.messages, example.references, example.suffix) == (tuple(chat), ("Tree.",), "")


class TestTruncation:
    """With a tokenizer of words, "H:" begins a turn of the person and "A:" one of the assistant."""

    WORDS = ("<pad>", "<eos>", "H:", "A:", *"abcdef")
    LONG = Example("H: a b A: c H: d e f A:", suffix=" A:")  # 10 tokens; turns begin at 0, 3, 5

    def row(self, max_prompt_length, *, side="left", marks=("H:", "A:"), example=LONG):
        inner = Tokenizer(WordLevel({word: i for i, word in enumerate(self.WORDS)}, unk_token="<pad>"))
        inner.pre_tokenizer = WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")
        table = PromptTable(
            Examples([example], source="here"),
            tokenizer,
            max_prompt_length=max_prompt_length,
            truncation_side=side,
            vocab_size=10,
            turn_marks=marks,
        )
        return " ".join(self.WORDS[token] for token in table.rows(np.array([0]))[0] if token >= 0)

    @pytest.mark.parametrize(
        ("length", "kept"),
        [
            (10, "H: a b A: c H: d e f A:"),
            (9, "A: c H: d e f A:"),  # not "a b A: c …", which would fit as well
            (7, "A: c H: d e f A:"),
            (6, "H: d e f A:"),
            (5, "H: d e f A:"),
            (4, "H: e f A:"),  # the last turn alone is too long: it keeps its mark
        ],
    )
    def test_a_dialogue_begins_with_a_whole_turn(self, length, kept):
        assert self.row(length) == kept

    def test_other_prompts_are_cut_anywhere(self):
        assert self.row(9, marks=()) == "a b A: c H: d e f A:"
        assert self.row(4, side="right") == "H: a b A:"

    def test_too_short_for_any_turn(self):
        with pytest.raises(
            ValueError, match=r"room for 2 tokens, and the end of the prompt that must be kept, 'H: A:'"
        ):
            self.row(2)


@pytest.fixture(scope="module")
def env():
    return gym.make("tril/HH-v0", reward="length_bonus", split="validation")


class TestEnvironment:
    def write(self, env, text):
        env.reset(seed=3)
        for token in env.unwrapped.tokenizer(text, add_special_tokens=False)["input_ids"]:
            _, _, terminated, _, info = env.step(token)
            if terminated:
                break
        return terminated, info

    def test_lengths_and_stop(self, env):
        text = env.metadata["text"]
        assert (text["max_prompt_length"], text["max_new_tokens"], text["stop"]) == (256, 128, ["\n\nHuman:"])

    def test_a_text_ends_where_it_writes_a_turn_of_the_person(self, env):
        terminated, info = self.write(env, f" First, water it.{HUMAN} Thanks.")
        assert terminated
        assert (info["completion"], info["finish_reason"]) == (" First, water it.", "stop")
        assert env.unwrapped.tokenizer.decode(info["tokens"]).endswith(HUMAN)  # its tokens were actions
        assert info["extras"]["kind"] in ("helpful", "harmless")

    def test_stop_strings_can_be_left_out(self):
        env = gym.make("tril/HH-v0", reward=None, stop=[])
        terminated, _ = self.write(env, f" First, water it.{HUMAN} Thanks.")
        assert not terminated


class TestHub:
    """`datasets.load_dataset` reads a folder of this machine with the layout of the public repository."""

    @pytest.fixture
    def task(self, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        sources._from_hub.cache_clear()
        for folder in HH.hub.folders:
            (tmp_path / folder).mkdir()
            for split, number in (("train", 40), ("test", 2)):
                rows = [
                    {name: f"{HUMAN} {folder} {split} {i}?{ASSISTANT} {name}" for name in ("chosen", "rejected")}
                    for i in range(number)
                ]
                with gzip.open(tmp_path / folder / f"{split}.jsonl.gz", "wt") as file:
                    file.write("".join(json.dumps(row) + "\n" for row in rows))
        datasets.disable_progress_bars()
        return replace(HH, hub=replace(HH.hub, repository=str(tmp_path)))

    def test_every_folder_is_read_and_gives_its_kind(self, task):
        test = load_examples(task, "hub", split="test")
        assert len(test) == 2 * len(HH.hub.folders)
        for example in test:
            folder, kind = example.prompt.split()[1], example.extras["kind"]
            assert kind == folder.partition("-")[0]
            assert (example.references, example.extras["rejected"]) == (("chosen",), "rejected")

    def test_a_part_of_the_train_split_is_held_out(self, task):
        train, held_out = (load_examples(task, "hub", split=split) for split in ("train", "validation"))
        assert len(train) + len(held_out) == 40 * len(HH.hub.folders)
        assert 0 < len(held_out) < 40
        assert {example.extras["kind"] for example in train} == {"helpful", "harmless"}

    def test_one_folder_can_be_named(self, task, monkeypatch):
        asked = []
        monkeypatch.setattr(
            datasets, "get_dataset_split_names", lambda name, *, data_dir: asked.append((name, data_dir)) or ["test"]
        )
        load = datasets.load_dataset
        monkeypatch.setattr(datasets, "load_dataset", lambda name, **keywords: load(task.hub.repository, **keywords))
        test = load_examples(HH, "hub:Anthropic/hh-rlhf/harmless-base", split="test")
        assert asked == [("Anthropic/hh-rlhf", "harmless-base")]
        assert [example.extras["kind"] for example in test] == ["harmless"] * 2


def test_embedded_pairs_are_those_of_a_reward_model():
    data = load_pairs("embedded", task=HH)
    assert (len(data.train), len(data.held_out)) == (2000, 200)
    first = load_examples(HH)[0]
    assert data.train[0].chosen == " " + first.references[0]
    assert pair_texts([first] * 20, "{prompt}{completion}")[0][0] == data.train[0].prompt + data.train[0].chosen


@pytest.mark.skipif(not REAL.is_file(), reason=f"no real data at {REAL}")
def test_real_dialogues():
    examples = load_examples(HH, REAL)
    assert len(examples) == 1500
    assert all(example.prompt.startswith(HUMAN) and example.references for example in examples)
    env = gym.make("tril/HH-v0", dataset=str(REAL), tokenizer="fit", reward=None)
    info = env.reset(options={"example": 7})[1]
    assert itemgetter("prompt", "references")(info) == (examples[7].prompt, list(examples[7].references))
