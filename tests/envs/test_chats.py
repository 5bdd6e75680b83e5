"""Prompts that are chats: the tokenizer's template or another one, a system prompt, and where completions begin."""

import json
import logging

import gymnasium as gym
import numpy as np
import pytest
import torch
from instruct_model import COLOURS, END, SPECIAL, TEMPLATE, TURN, instruct_model, instruct_tokenizer, question

import tril_gym  # noqa: F401  registers the environments
from tril_gym.agents import BC, LMPolicy, Plan, ReferenceTokens, TextLayout, collect
from tril_gym.data import Example
from tril_gym.data.examples import Examples
from tril_gym.data.splits import SPLITS
from tril_gym.envs import config
from tril_gym.envs.text import TEXT
from tril_gym.utils.chats import ChatFormat, read_template

CHATS = [TEXT.read({"prompt": question(thing), "completion": colour}) for thing, colour in COLOURS.items()]
TEXTS = [Example(f"What is the colour of {thing}?", (colour,)) for thing, colour in COLOURS.items()]
SYSTEM = "You are a colour expert."
ASKED = "<|im_start|>user\nWhat is the colour of grass?<|im_end|>\n<|im_start|>assistant\n"
OTHER = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
WITH_SPACE = OTHER.replace("[{{ m['role'] }}] {{ m['content'] }}", "[{{ m['role'] }}] {{ m['content'] }}<|im_end|>")
TOKENIZER = instruct_tokenizer()


def make(data=CHATS, **settings):
    return gym.make("tril/Text-v0", **{"dataset": data, "tokenizer": TOKENIZER, "reward": None} | settings)


def prompt(env, example=0):
    """Return the prompt of an example as its info and its observation show it."""
    observation, info = env.reset(options={"example": example})
    shown = env.metadata["text"]["max_prompt_length"]
    ids = [token for token in observation[:shown].tolist() if token >= 0]
    assert TOKENIZER.decode(ids) == info["prompt"]
    return info["prompt"]


class TestPrompts:
    def test_a_chat_is_rendered_up_to_where_the_assistant_writes(self):
        assert prompt(make()) == ASKED
        assert make().metadata["text"]["chat"]

    def test_a_system_prompt_stands_first(self):
        system = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        assert prompt(make(system_prompt=SYSTEM)) == system + ASKED
        own = [{"role": "system", "content": "You are a sky"}, *question("grass")]
        assert prompt(make([TEXT.read({"prompt": own})], system_prompt=SYSTEM)).count("system") == 1
        assert "You are a sky" in prompt(make([TEXT.read({"prompt": own})], system_prompt=SYSTEM))

    def test_rewards_get_the_messages(self):
        _, info = make(system_prompt=SYSTEM).reset(options={"example": 0})
        messages = [{"role": "system", "content": SYSTEM}, *question("grass")]
        assert info["extras"] == {"prompt_messages": messages}
        env = make(TEXTS, system_prompt=SYSTEM)
        assert env.unwrapped.shown_examples()[0].all_extras == {"prompt_messages": messages}
        assert make(TEXTS).reset(options={"example": 0})[1]["extras"] == {}

    def test_texts_are_messages_of_a_user_where_a_chat_is_asked_for(self):
        assert prompt(make(TEXTS, system_prompt=SYSTEM)) == prompt(make(system_prompt=SYSTEM))
        assert prompt(make(TEXTS, chat_template=TEMPLATE)) == ASKED
        assert prompt(make([*CHATS[:1], *TEXTS[1:]]), example=1) == ASKED.replace("grass", "sky")

    def test_texts_stay_texts(self):
        """The negative control."""
        assert prompt(make(TEXTS)) == TEXTS[0].prompt
        assert not make(TEXTS).metadata["text"]["chat"]

    def test_another_environment_asks_in_a_chat(self):
        env = gym.make("tril/CommonGen-v0", tokenizer=TOKENIZER, system_prompt=SYSTEM, max_prompt_length=300)
        _, info = env.reset(seed=0)
        assert info["prompt"].startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nconcepts:")

    def test_a_template_in_a_file(self, tmp_path):
        (tmp_path / "chat.jinja").write_text(OTHER)
        for template in (OTHER, str(tmp_path / "chat.jinja"), tmp_path / "chat.jinja"):
            assert prompt(make(chat_template=template)) == "[user] What is the colour of grass?[assistant]"
        assert read_template(tmp_path / "chat.jinja") == OTHER

    def test_a_tokenizer_without_a_template_says_what_to_do(self):
        plain = instruct_tokenizer(template=None)
        for settings in ({}, {"system_prompt": SYSTEM}):
            with pytest.raises(ValueError, match=r"no chat template.*chat_template=FILE or --chat-template FILE"):
                make(tokenizer=plain, **settings)
        assert make(tokenizer=plain, chat_template=TEMPLATE).metadata["text"]["chat"]

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (
                {"chat_template": "no/such/file.jinja"},
                "a template in Jinja or a file with one, got 'no/such/file.jinja'",
            ),
            ({"chat_template": ""}, "chat_template must be a text that is not empty"),
            ({"system_prompt": ""}, "system_prompt must be a text that is not empty"),
            ({"system_prompt": 3}, "system_prompt must be a text that is not empty, got 3"),
            ({"chat_template": "{{ raise_exception('no') }}"}, "the chat template of the tokenizer refuses"),
            ({"chat_template": "{% if %}"}, "the chat template of the tokenizer refuses"),
        ],
    )
    def test_wrong_settings_are_refused(self, settings, words):
        with pytest.raises(ValueError, match=words):
            make(**settings)

    def test_one_chat_makes_chats_of_all(self):
        assert prompt(make([*TEXTS[:2], *CHATS[2:3]])) == ASKED

    def test_a_part_has_the_chats_of_the_whole(self):
        """Not of its first prompt: training and held-out prompts would be read in two ways."""
        mixed = Examples([*CHATS[:1], *TEXTS[1:]], source="a mixture")
        part = mixed.select([False, True, True, False, False], source="a part")
        assert prompt(make(part)) == ASKED.replace("grass", "sky")
        assert mixed.select([True, False, False, False, False], source="a part").has_chats

    @pytest.mark.parametrize("number", [2, 20_001])
    def test_packed_examples_know_their_chats(self, number):
        assert Examples([*TEXTS[:1] * number, *CHATS[:1]], source="many").has_chats
        assert not Examples(TEXTS[:1] * (number + 1), source="many").has_chats

    def test_a_split_of_texts_is_asked_as_the_chats_of_the_train_split(self, tmp_path):
        for split, rows in (("train", [{"prompt": question("grass")}]), ("validation", [{"prompt": TEXTS[0].prompt}])):
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = {"tokenizer": TOKENIZER, "reward": None, "max_new_tokens": 3}
        asked = [prompt(gym.make("tril/Text-v0", dataset=tmp_path, split=split, **settings)) for split in SPLITS[:2]]
        assert asked == [ASKED, ASKED]

    def test_a_template_that_loses_the_system_prompt_is_refused(self):
        without = TEMPLATE.replace("in messages %}", "in messages if message['role'] != 'system' %}")
        with pytest.raises(ValueError, match=r"leaves system messages out, and so system_prompt='You are a colour"):
            make(chat_template=without, system_prompt=SYSTEM)
        assert prompt(make(chat_template=without)) == ASKED

    def test_references_end_as_the_template_ends_a_message(self):
        """Gemma's and Phi 3's tokenizers have another EOS, at which texts end, too."""
        tokenizer = instruct_tokenizer()
        tokenizer.eos_token = SPECIAL[END]
        ends = {"tokenizer": tokenizer, "reward": None, "num_envs": 1, "eos_token_ids": [END, TURN]}
        for data, end in ((CHATS, TURN), (TEXTS, END)):
            layout = TextLayout.of(gym.make_vec("tril/Text-v0", dataset=list(data), **ends))
            assert {*layout.eos_token_ids} == {END, TURN}
            assert ReferenceTokens(layout)("green")[-1] == end


class TestCompletions:
    @pytest.mark.parametrize(("template", "joiner"), [(None, ""), (OTHER, " "), (WITH_SPACE, " ")])
    def test_a_reference_continues_the_prompt_as_the_template_does(self, template, joiner):
        """The ids of a chat with the answer begin with the prompt's and the reference's."""
        env = make(chat_template=template)
        text = env.metadata["text"]
        assert text["joiner"] == joiner
        envs = gym.make_vec(
            "tril/Text-v0", num_envs=1, dataset=CHATS, tokenizer=TOKENIZER, reward=None, chat_template=template
        )
        ids = ReferenceTokens(TextLayout.of(envs))("green")
        whole = [*question("grass"), {"role": "assistant", "content": "green"}]
        chosen = {} if template is None else {"chat_template": template}
        rendered = TOKENIZER.apply_chat_template(whole, tokenize=False, **chosen)
        prompt_ids = TOKENIZER(prompt(env), add_special_tokens=False)["input_ids"]
        expected = TOKENIZER(rendered, add_special_tokens=False)["input_ids"]
        assert ids[-1] == TURN
        assert expected[: len(prompt_ids) + len(ids) - 1] == [*prompt_ids, *ids[:-1]]

    def test_what_a_template_writes_around_a_completion(self):
        assert ChatFormat(is_used=True).around_completion(TOKENIZER) == ("", "<|im_end|>\n")
        assert ChatFormat(template=WITH_SPACE, is_used=True).around_completion(TOKENIZER) == (" ", "<|im_end|>")
        drops = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
        assert ChatFormat(template=drops, is_used=True).around_completion(TOKENIZER) == ("", "")

    def test_a_template_with_another_end_is_told(self, caplog):
        """As Qwen's base models have it, whose EOS ends no turn."""
        other = instruct_tokenizer()
        other.eos_token = SPECIAL[END]
        config._warn_once.cache_clear()
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                make(tokenizer=other, max_prompt_length=60)
        assert sum(r"ends the assistant's messages with <|im_end|>" in line for line in caplog.messages) == 1
        assert "eos_token_ids=[0, 2]" in caplog.text
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            make(tokenizer=other, eos_token_ids=[END, TURN], max_prompt_length=60)
            make(chat_template=OTHER, max_prompt_length=60)
            make(max_prompt_length=60)
        assert "ends the assistant's" not in caplog.text

    def test_a_text_ends_at_either_id(self):
        env = make(eos_token_ids=[TURN, END], vocab_size=len(TOKENIZER) + 5)
        for end in (TURN, END):
            env.reset(seed=0)
            *_, terminated, _, info = env.step(end)
            assert terminated
            assert (info["finish_reason"], info["completion"]) == ("stop", "")

    def test_a_marker_as_stop_string_says_what_to_write(self):
        with pytest.raises(ValueError, match=r"'<\|im_start\|>' is a special token.*eos_token_ids=\[2, 1\]"):
            make(stop=["<|im_start|>"])
        other = instruct_tokenizer()
        other.eos_token = SPECIAL[END]  # the end of a turn is then no special token by name
        with pytest.raises(ValueError, match=r"'<\|im_end\|>' is a special token.*eos_token_ids=\[0, 2\]"):
            make(tokenizer=other, stop=[SPECIAL[TURN]])


def test_a_policy_learns_to_answer():
    """Behaviour cloning on five chats; greedy answers are then the references."""
    settings = {"vocab_size": len(TOKENIZER) + 5, "eos_token_ids": [TURN, END], "system_prompt": SYSTEM}
    envs = gym.make_vec(
        "tril/Text-v0", num_envs=20, dataset=CHATS, tokenizer=TOKENIZER, autoreset_mode="Disabled", **settings
    )
    policy = LMPolicy(instruct_model(TOKENIZER), TOKENIZER)
    from tril_gym.agents import BCConfig

    agent = BC(policy, envs, BCConfig(learning_rate=5e-3))
    agent.learn(80)
    chats = [[{"role": "system", "content": SYSTEM}, *question(thing)] for thing in COLOURS]
    assert policy.generate(chats, greedy=True, max_new_tokens=4) == list(COLOURS.values())
    assert policy.generate(chats[0], greedy=True, max_new_tokens=4) == "green"
    texts = collect(envs, Plan(rollout=policy), episodes=20, generator=torch.Generator().manual_seed(0))
    assert sum(info["completion"] in info["references"] for info in texts.infos) >= 15
    assert SPECIAL[TURN] not in "".join(info["completion"] for info in texts.infos)


SYSTEM = "You are a colour expert, and answer in one sentence that has all of the given words."
TOKENIZER = instruct_tokenizer()


def shown(env):
    """Return the first prompt as its info and as its observation has it."""
    observation, info = env.reset(options={"example": 0})
    ids = observation[: env.metadata["text"]["max_prompt_length"]]
    return info["prompt"], TOKENIZER.decode(ids[ids >= 0].tolist())


@pytest.mark.parametrize("env_id", ["tril/CommonGen-v0", "tril/TLDR-v0", "tril/IMDB-v0"])
def test_chats_have_room_in_every_environment(env_id):
    """The words of the template and of the system message count, too: P is no longer that of the task's texts."""
    env = gym.make(env_id, tokenizer=TOKENIZER, system_prompt=SYSTEM, reward=None)
    whole, read = shown(env)
    assert read.endswith("<|im_start|>assistant\n")
    assert whole.endswith(read)
    prompts = [env.reset(options={"example": example}) for example in range(100)]
    size = env.metadata["text"]["max_prompt_length"]
    fit = [TOKENIZER.decode(ids[:size][ids[:size] >= 0].tolist()) == info["prompt"] for ids, info in prompts]
    assert np.mean(fit) > 0.8 or size == 512


@pytest.mark.parametrize(("side", "length"), [("left", 12), ("right", 13)])  # a message comes once
def test_a_chat_that_is_cut_keeps_where_the_assistant_writes(side, length, caplog):
    rows = [{"prompt": "What is the colour of grass?"}]
    settings = {"system_prompt": SYSTEM, "prompt_truncation_side": side, "reward": None}
    with caplog.at_level(logging.WARNING):
        env = gym.make("tril/Text-v0", dataset=rows, tokenizer=TOKENIZER, max_prompt_length=length, **settings)
    whole, read = shown(env)
    assert len(read) < len(whole)
    assert whole.endswith(read)
    (message,) = [it for it in caplog.messages if "lose their beginning" in it]
    assert message.startswith(f"100 % of the chats of the list of rows are longer than max_prompt_length={length} ")
    fitting = int(message.rpartition("max_prompt_length=")[2].split()[0])
    whole, read = shown(
        gym.make("tril/Text-v0", dataset=rows, tokenizer=TOKENIZER, max_prompt_length=fitting, **settings)
    )
    assert read == whole


def test_chats_that_fit_give_no_message(caplog):
    """The negative control."""
    with caplog.at_level(logging.WARNING):
        settings = {"tokenizer": TOKENIZER, "system_prompt": "A grass", "reward": None}
        gym.make("tril/Text-v0", dataset=[{"prompt": "a b"}], max_prompt_length=60, **settings)
    assert not [it for it in caplog.messages if "lose their beginning" in it]
