"""`tril/Text-v0`: rows of one's own, lengths that are measured, chats, and the reward that must be named."""

import json
import logging

import gymnasium as gym
import numpy as np
import pandas
import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import tril_gym  # noqa: F401  registers the environments
from tril_gym.data import Example
from tril_gym.envs import lengths
from tril_gym.envs.text import TEXT
from tril_gym.envs.toy import toy_tokenizer
from tril_gym.rewards import load

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "say hello"}]
TEMPLATE = (
    "{% for message in messages %}<start> {{ message['role'] }} {{ message['content'] }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<start> assistant{% endif %}"
)


def chat_tokenizer():
    words = ["<pad>", "<eos>", "<start>", "<unk>", "system", "user", "assistant", "be", "brief", "say", "hello"]
    inner = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens=["<start>"],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


class TestRows:
    def test_all_other_columns_are_extras(self):
        row = {"prompt": "2 + 2 =", "references": ["4", "four"], "answer": 4, "level": "easy"}
        assert TEXT.read(row) == Example("2 + 2 =", ("4", "four"), extras={"answer": 4, "level": "easy"})

    def test_extras_of_several_kinds_reach_the_reward_as_they_are(self):
        answers, seen = [3, 2.5, "x", None, [1]], []

        def reward(completions, extras):
            seen.extend(extra["answer"] for extra in extras)
            return [0.0] * len(completions)

        rows = [{"prompt": f"question {i}", "answer": answer} for i, answer in enumerate(answers)]
        sizes = {"max_prompt_length": 8, "max_new_tokens": 1}
        envs = gym.make_vec("tril/Text-v0", num_envs=5, dataset=rows, reward=reward, **sizes)
        envs.reset(options={"example": np.arange(5)})
        envs.step(np.full(5, 7))
        assert seen == answers

    @pytest.mark.parametrize(
        ("columns", "references"),
        [
            ({}, ()),
            ({"completion": "a"}, ("a",)),
            ({"completion": 11}, ("11",)),
            ({"completion": np.int64(-3)}, ("-3",)),
            ({"completion": [{"role": "assistant", "content": "a"}]}, ("a",)),
            ({"references": '["a", "b"]'}, ("a", "b")),
            ({"completion": "b", "references": ["a", "b"]}, ("b", "a")),
            ({"completion": "", "references": None}, ()),
            ({"chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]}, ("a",)),
        ],
    )
    def test_references_and_completion(self, columns, references):
        example = TEXT.read({"prompt": "say", **columns})
        assert example.references == references
        assert example.extras == ({"rejected": "b"} if "rejected" in columns else {})

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"prompt": ""}, "prompt must be a text that is not empty, got ''"),
            ({"prompt": 3}, "prompt must be a text that is not empty, got 3"),
            ({"prompt": []}, "prompt must have one message or more"),
            ({"prompt": [{"role": "user"}]}, "got {'role': 'user'} as message 0"),
            ({"prompt": [*CHAT, {"role": "assistant", "content": "hello"}]}, "must not be the assistant's.*completion"),
            ({"prompt": "a", "completion": ["b"]}, r"completion must be a text or a whole number, got \['b'\]"),
            ({"prompt": "a", "completion": True}, "completion must be a text or a whole number, got True"),
            ({"prompt": "a", "completion": float("nan")}, "completion must be a text or a whole number, got nan"),
            ({"prompt": "a", "references": "b"}, "--column completion=NAME"),
            ({"prompt": "a", "finish_reason": "b"}, "rename the column"),
            ({"prompt": "a", "prompt_messages": "b"}, "rename the column"),
        ],
    )
    def test_other_values_are_refused(self, row, message):
        with pytest.raises(ValueError, match=message):
            TEXT.read(row)


def make(data, **keywords):
    lengths._measure_once.cache_clear()
    return gym.make("tril/Text-v0", **{"dataset": data, "tokenizer": toy_tokenizer(16), "reward": None} | keywords)


def sizes(env):
    return [env.metadata["text"][name] for name in ("max_prompt_length", "max_new_tokens")]


class TestLengths:
    def test_they_hold_95_percent(self, caplog):
        # Prompts of 1 … 20 tokens: 19 hold 19 of 20. References of 1 … 20 words have one token more, EOS.
        data = [Example(" ".join(["w3"] * count), (" ".join(["w4"] * count),)) for count in range(1, 21)]
        with caplog.at_level(logging.WARNING):
            assert sizes(make(data)) == [19, 20]
            assert sizes(make(data[:19])) == [19, 20], "18 of 19 are less than 95 %"
        said = caplog.records[0].getMessage()
        assert "max_prompt_length=19 holds 95 % of the prompts, max_new_tokens=20 holds 95 % of the references" in said

    def test_what_is_given_is_kept(self, caplog):
        data = [Example("w3 w3", ("w4",))]
        with caplog.at_level(logging.WARNING):
            assert sizes(make(data, max_prompt_length=7)) == [7, 2]
        assert "max_prompt_length" not in caplog.text
        assert sizes(make(data, max_new_tokens=9)) == [2, 9]
        with pytest.raises(ValueError, match=r"max_prompt_length must be a whole number .*, got 0"):
            make(data, max_prompt_length=0)

    def test_of_many_prompts_some_are_measured(self, monkeypatch):
        monkeypatch.setattr(lengths, "PLAIN", 10)
        data = [Example(" ".join(["w3"] * (1 + number % 3)), ("w4",)) for number in range(100)]
        assert len(lengths.evenly_spaced(data)) == 10
        assert sizes(make(data)) == [3, 2]

    def test_all_splits_have_those_of_the_train_split(self, tmp_path):
        for split, prompt in (("train", "w3 w3 w3"), ("validation", "w3")):
            (tmp_path / f"{split}.jsonl").write_text(json.dumps({"prompt": prompt, "completion": prompt}))
        assert sizes(make(tmp_path, split="validation")) == sizes(make(tmp_path)) == [3, 4]

    def test_they_have_limits(self, caplog):
        data = [Example(" ".join(["w3"] * 600), (" ".join(["w4"] * 200),))]
        assert sizes(make(data)) == [512, 128]
        with caplog.at_level(logging.WARNING):
            assert sizes(make([Example("w3")])) == [1, 128]
        assert "max_new_tokens=128 as there are no references" in caplog.text


class TestChats:
    def test_the_template_renders_them(self):
        tokenizer = chat_tokenizer()
        example = TEXT.read({"prompt": CHAT})
        env = make([example], tokenizer=tokenizer)
        observation, info = env.reset(seed=0)
        rendered = "<start> system be brief <eos> <start> user say hello <eos> <start> assistant"
        assert info["prompt"] == rendered
        assert observation[: -env.metadata["text"]["max_new_tokens"]].tolist() == [
            2, 4, 7, 8, 1, 2, 5, 9, 10, 1, 2, 6,
        ]  # fmt: skip
        assert sizes(env)[0] == 12

    def test_names_of_markers_in_a_message_stay_text(self):
        env = make(
            [TEXT.read({"prompt": [{"role": "user", "content": "say <eos> hello"}]})], tokenizer=chat_tokenizer()
        )
        observation, _ = env.reset(seed=0)
        prompt = observation[observation >= 0].tolist()
        assert prompt.count(1) == 1, "only the template's own"
        assert prompt[2:4] == [9, 3]
        assert prompt[-4:] == [10, 1, 2, 6]

    def test_json_in_a_cell_is_a_chat(self):
        example = TEXT.read({"prompt": '[{"role": "user", "content": "say"}]'})
        assert example.messages == ({"role": "user", "content": "say"},)
        indented = json.dumps([{"role": "user", "content": "say"}], indent=2)
        assert TEXT.read({"prompt": indented}).messages == example.messages
        assert TEXT.read({"prompt": '[{"role": 1'}).messages == ()
        assert TEXT.read({"prompt": "[{1: 2}]"}).messages == ()

    def test_a_completion_may_be_a_message_in_a_cell(self):
        answer = [{"role": "assistant", "content": "yes"}]
        for cell in (answer, json.dumps(answer), json.dumps(answer, indent=2)):
            assert TEXT.read({"prompt": "say", "completion": cell}).references == ("yes",)
        for text in ('[{"role": 1', "[{1: 2}]", '[{"a": 1}]', "[x] yes"):
            assert TEXT.read({"prompt": "say", "completion": text}).references == (text,)
        for several in (answer * 2, json.dumps(answer * 2)):
            with pytest.raises(ValueError, match="completion must be a text"):
                TEXT.read({"prompt": "say", "completion": several})

    def test_a_chat_as_python_prints_it_is_refused(self):
        words = r"a chat in a cell must be JSON, as json.dumps writes it.*'role': 'user'"
        for row in ({"prompt": str(CHAT)}, {"prompt": "say", "completion": str(CHAT)}):
            with pytest.raises(ValueError, match=words):
                TEXT.read(row)

    def test_a_tokenizer_without_template_is_refused(self):
        with pytest.raises(ValueError, match=r"no chat template.*instruct model"):
            make([TEXT.read({"prompt": CHAT})])


class TestReward:
    def test_a_reward_that_must_be_named_is_in_the_metadata(self):
        assert make([Example("w3")], reward="default").metadata["text"]["reward_missing"]
        for reward in (None, "length_bonus", lambda completions: np.zeros(len(completions))):
            assert "reward_missing" not in make([Example("w3")], reward=reward).metadata["text"]
        assert "reward_missing" not in gym.make("tril/Toy-v0").metadata["text"]

    def test_agents_that_need_one_are_refused(self):
        from tril_gym.agents import BC, GAIL, PPO, tiny_policy

        envs = gym.make_vec("tril/Text-v0", num_envs=2)
        policy = tiny_policy(envs, samples=0, width=8, heads=2, layers=1)
        with pytest.raises(ValueError, match=r"ppo learns from rewards.*--reward.*reward=None"):
            PPO(policy, envs)
        assert BC(policy, envs).layout.reward_missing
        assert GAIL(policy, envs).layout.reward_missing
        assert not PPO(policy, gym.make_vec("tril/Text-v0", num_envs=2, reward=None)).layout.reward_missing


def test_embedded_prompts():
    env = gym.make("tril/Text-v0", reward=None)
    assert len(env.unwrapped.examples) == 200
    assert all(example.references and example.extras["answer"] for example in env.unwrapped.examples)
    assert sizes(env) == [20, 4]


def test_a_part_of_the_examples_has_the_tokenizer_and_the_lengths_of_all():
    rows = [{"prompt": f"say word{i} " + "again " * (i % 7), "references": [f"word{i}"]} for i in range(30)]
    whole, part = (
        gym.make("tril/Text-v0", dataset=rows, tokenizer="fit:400", reward=None, part=part).unwrapped
        for part in (None, (0.0, 0.3))
    )
    assert 0 < len(part.examples) < len(whole.examples) == 30
    assert part.tokenizer is whole.tokenizer
    for name in ("max_prompt_length", "max_new_tokens"):
        assert getattr(part.config, name) == getattr(whole.config, name)


@pytest.mark.parametrize("column", ["references", "completion"])
def test_an_array_is_refused_in_words(column):
    with pytest.raises(ValueError, match=rf"{column} must be a (list of texts|text)"):
        TEXT.read({"prompt": "a", column: np.array(["x", "y"])})


def test_columns_may_have_numbers_for_names():
    table = pandas.DataFrame({"prompt": ["a"], 0: [1], "x": [2]})
    with pytest.raises(ValueError, match="there is no column 'answer', which column="):
        gym.make("tril/Text-v0", dataset=table, tokenizer="fit", reward=None, column={"completion": "answer"})
    score = load("exact_match", against="answer")
    with pytest.raises(ValueError, match="a text has 0, x"):
        score(["a"], ["b"], [[]], [{0: 1, "x": 2}])


@pytest.mark.parametrize("as_chats", [False, True])
def test_columns_of_pairs_may_have_other_names(as_chats):
    def text(content):
        return [*CHAT, {"role": "assistant", "content": content}] if as_chats else content

    prompts = [{} if as_chats else {"prompt": f"say {number}"} for number in range(3)]
    rows = [prompt | {"win": text("yes"), "lose": text("no")} for prompt in prompts]
    keywords = {"chat_template": TEMPLATE} if as_chats else {}
    column = {"chosen": "win", "rejected": "lose"}
    env = gym.make("tril/Text-v0", dataset=rows, column=column, reward=None, **keywords)
    example = env.unwrapped.examples[0]
    assert (list(example.references), example.extras["rejected"]) == (["yes"], "no")
    assert not {"win", "lose"} & example.extras.keys()
