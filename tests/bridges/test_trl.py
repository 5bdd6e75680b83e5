"""Prompts and rewards of an environment in the form that TRL's trainers take."""

import datetime
import json

import gymnasium as gym
import numpy as np
import pytest
from instruct_model import TEMPLATE, instruct_tokenizer, question
from text_doubles import TOKENIZERS
from tokenizers import processors

from tril_gym.bridges import prompt_dataset, reward_functions, reward_weights
from tril_gym.data import Example
from tril_gym.utils.text_codec import TextCodec
from tril_gym.utils.tokenization import decode, encode

EXAMPLES = [
    Example("name a dog", references=["rex", "a rex"], extras={"level": np.int64(2)}),
    Example("name a cat", references=["tom"], label=1),
]


def envs(**keywords):
    return gym.make_vec("tril/CommonGen-v0", num_envs=2, dataset=EXAMPLES, tokenizer="fit:300", **keywords)


def test_the_data_set_has_every_example():
    rows = prompt_dataset(envs(reward=None))
    assert rows["prompt"][:] == ["name a dog", "name a cat"]
    assert rows["references"][:] == [["rex", "a rex"], ["tom"]]
    assert [json.loads(extras) for extras in rows["extras"]] == [{"level": 2}, {"label": 1}]


def test_extras_that_are_no_json_are_refused():
    example = Example("name a dog", extras={"born": datetime.date(2020, 1, 1)})
    with pytest.raises(ValueError, match=r"datetime.date\(2020, 1, 1\) is of type date; make it a number or a text"):
        prompt_dataset(gym.make("tril/Text-v0", dataset=[example], reward=None))


def test_a_chat_is_the_text_that_the_environment_shows():
    """Given by its messages, and by a system prompt of the environment."""
    chat = Example("user: What?", references=["a dog"], messages=({"role": "user", "content": "What?"},))
    for example, settings in ((chat, {}), (EXAMPLES[0], {"system_prompt": "You are"})):
        env = gym.make("tril/Text-v0", dataset=[example], tokenizer=instruct_tokenizer(), reward=None, **settings)
        (prompt,) = prompt_dataset(env)["prompt"][:]
        assert prompt == env.reset(seed=0)[1]["prompt"]
        assert prompt.endswith("<|im_start|>assistant\n")


def test_a_chat_has_one_bos_where_trl_tokenises_it():
    tokenizer = instruct_tokenizer("{{ bos_token }}" + TEMPLATE)
    tokenizer.bos_token = bos = "<|endoftext|>"
    pair = {"single": f"{bos} $A", "special_tokens": [(bos, tokenizer.bos_token_id)]}
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(**pair)
    env = gym.make("tril/Text-v0", dataset=[{"prompt": question("grass")}], tokenizer=tokenizer, reward=None)
    observation, _ = env.reset(seed=0)
    (prompt,) = prompt_dataset(env)["prompt"][:]
    ids = tokenizer(prompt)["input_ids"]
    assert ids == [token for token in observation.tolist() if token >= 0]
    assert ids.count(tokenizer.bos_token_id) == 1


def test_how_a_text_ended_is_not_known():
    with pytest.raises(ValueError, match="end_bonus reads how a text ended, which TRL does not tell"):
        reward_functions(envs(reward={"exact_match": 1.0, "end_bonus": 0.1}))


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("rex", 1),
        ([{"role": "assistant", "content": "rex"}], 1),
        ([{"role": "assistant", "content": [{"type": "text", "text": "rex"}, {"type": "image"}]}], 1),
        ([{"role": "assistant", "content": None}], 0),  # a call of a tool
        ([], 0),
    ],
)
def test_completions_of_all_forms_are_read(completion, reward):
    (function,) = reward_functions(envs(reward="exact_match"))
    assert function(prompts=["a"], completions=[completion], references=[["rex", "None"]]) == [reward]


def test_functions_are_called_by_keyword_with_the_columns_of_the_data_set():
    made = envs(reward={"rouge_l": 0.5, "length_bonus": 2.0})
    rows = prompt_dataset(made)
    found = reward_functions(made)
    assert [function.__name__ for function in found] == ["rouge_l", "length_bonus"]
    assert reward_weights(made) == [0.5, 2.0]
    columns = {name: rows[name][:] for name in rows.column_names if name != "prompt"}
    scores = found[0](prompts=rows["prompt"][:], completions=["rex", "rex"], completion_ids=[[1], [1]], **columns)
    assert scores == [1.0, 0.0]


def test_a_completion_ends_at_a_stop_string():
    (function,) = reward_functions(envs(reward="rouge_l", stop=["\n"]))
    assert function(prompts=["name a cat"], completions=["tom\nand jerry"], references=[["tom"]]) == [1.0]
    (function,) = reward_functions(envs(reward="rouge_l"))
    assert function(prompts=["name a cat"], completions=["tom\nand jerry"], references=[["tom"]])[0] < 1.0


@pytest.mark.parametrize("name", TOKENIZERS)
def test_completions_begin_as_in_the_environment(name):
    """Trainers decode completions on their own, where some tokenizers drop the first space."""
    seen, tokenizer = [], TOKENIZERS[name]()
    made = gym.make(
        "tril/Text-v0",
        dataset=EXAMPLES,
        tokenizer=tokenizer,
        reward=lambda completion: float(len(seen.append(completion) or "")),
        max_new_tokens=8,
    )
    (function,) = reward_functions(made)
    texts = ["the dog", " the dog", ".", ""]
    decoded = [decode(tokenizer, encode(tokenizer, f" {text}" if text else "")) for text in texts]
    function(prompts=["name a dog"] * 4, completions=decoded)
    made.reset(seed=0)
    for token in [*TextCodec(tokenizer).ids(" the dog"), tokenizer.eos_token_id]:
        made.step(token)
    assert seen[0] == seen[-1] == " the dog"
    assert [text[:1] for text in seen] == [" ", " ", " ", "", " "]


def test_a_reward_reads_what_it_reads_in_the_environment():
    """Conversations are read by their last message."""
    seen = []

    def reads(prompts, completions, references, extras):
        seen.append((prompts, completions, references, extras))
        return [0.0] * len(prompts)

    made = envs(reward=reads)
    (function,), rows = reward_functions(made), prompt_dataset(made)
    columns = {name: rows[name][:] for name in ("references", "extras")}
    function(prompts=rows["prompt"][:], completions=["rex", "tom"], **columns)
    texts = ["name a dog", "name a cat"], ["rex", "tom"]
    assert seen.pop() == (*texts, [["rex", "a rex"], ["tom"]], [{"level": 2}, {"label": 1}])
    prompts, completions = (
        [[{"role": "system", "content": "answer"}, {"role": "user", "content": text}] for text in column]
        for column in texts
    )
    function(prompts=prompts, completions=completions)
    assert seen.pop() == (*texts, [[], []], [{}, {}])


def test_an_environment_without_terms_or_examples_is_refused():
    with pytest.raises(ValueError, match="has no reward term"):
        reward_functions(envs(reward=None))
    with pytest.raises(ValueError, match="has no examples"):
        prompt_dataset(gym.make("CartPole-v1"))
