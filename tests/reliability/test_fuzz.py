"""Random input: readers, rows, options of `reset`, results of rewards, settings. A ValueError, or a right result.

The examples that hypothesis draws are the same in each run.
"""

import gzip
import json
import math
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import tril_gym  # noqa: F401  registers the environments
from tril_gym.cli.options import parse_value
from tril_gym.data import Example
from tril_gym.data.preferences import PAIRS
from tril_gym.data.rows import to_example
from tril_gym.data.sources import load_examples
from tril_gym.envs.common_gen import COMMON_GEN
from tril_gym.envs.hh import HH
from tril_gym.envs.imdb import IMDB
from tril_gym.envs.text import TEXT
from tril_gym.envs.tldr import TLDR
from tril_gym.experiment.config import RunConfig
from tril_gym.rewards.base import as_numbers

TASKS = (IMDB, COMMON_GEN, TLDR, HH, TEXT, PAIRS)
GOOD = {
    IMDB: {"text": "a good film", "label": 1},
    COMMON_GEN: {"concepts": ["dog", "run"], "references": ["A dog runs."]},
    TLDR: {"post": "I fell.", "subreddit": "tifu", "title": "A fall", "summary": "fell"},
    HH: {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Hello.", "rejected": "No."},
    TEXT: {"prompt": "a b", "references": ["c", "d"], "answer": "c"},
    PAIRS: {"prompt": "Say hi:", "chosen": "hi there", "rejected": "no"},
}
T, V, EXAMPLES = 5, 16, 6

fast = settings(derandomize=True, database=None, deadline=None, max_examples=80)

texts = st.text(max_size=12) | st.text(alphabet=st.characters(categories=["Cs", "Lu"]), max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def result_or_refusal(function, *errors):
    """Return (what the function gives, None), or (None, the message) where it raises one of these errors."""
    try:
        return function(), None
    except errors as error:
        return None, str(error) or "no message"


def is_example(task, example):
    """Only pairs may have no prompt: a reward model may read completions alone."""
    has_prompt = example.prompt.encode() or task is PAIRS
    return isinstance(example, Example) and has_prompt and all(map(str.encode, example.references))


def load(content, ending):
    """Return the examples of a file with this content, None where it is refused by a message that names the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"data{ending}"
        path.write_bytes(content)
        for on_bad_row in ("raise", "skip"):
            examples, message = result_or_refusal(lambda: load_examples(IMDB, path, on_bad_row=on_bad_row), ValueError)  # noqa: B023
            if message is None:
                return examples
            assert str(path) in message
            assert len(message) < 2000
    return None


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".csv", ".parquet"])
@fast
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(ending, content):
    examples = load(content, ending)
    assert examples is None or all(is_example(IMDB, example) for example in examples)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".csv"])
@fast
@given(place=st.integers(0, 10_000), byte=st.integers(1, 255), cut=st.booleans())
def test_damaged_files_are_refused_or_lose_only_their_damaged_rows(ending, place, byte, cut):
    rows = [{"text": f"film {i} was good", "label": i % 2} for i in range(30)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if ending == ".csv":
        content = b"text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows).encode()
    packed = bytearray(gzip.compress(content, mtime=0) if ending.endswith(".gz") else content)
    place %= len(packed)
    damaged = (
        bytes(packed[:place]) if cut else bytes(packed[:place]) + bytes([packed[place] ^ byte]) + packed[place + 1 :]
    )
    examples = load(damaged, ending)
    assert examples is None or all(is_example(IMDB, example) for example in examples)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@fast
@given(changes=st.dictionaries(st.sampled_from(sorted({key for row in GOOD.values() for key in row})), json_values))
def test_any_row_is_an_example_or_refused(task, changes):
    example, message = result_or_refusal(lambda: to_example(task, GOOD[task] | changes), ValueError)
    assert message or is_example(task, example)


def ids(elements):
    """Token ids of all kinds: lists, arrays, ragged, nested, no numbers."""
    lists = st.lists(elements, max_size=T + 2)
    return (
        lists
        | lists.map(np.array)
        | st.lists(lists, max_size=4)
        | st.lists(lists.filter(len), min_size=1, max_size=4).map(lambda rows: np.array([row[:1] * T for row in rows]))
        | arrays.arrays(np.int64, st.tuples(st.just(3), st.just(T)), elements=st.integers(-1, V - 1))
        | arrays.arrays(st.sampled_from([np.int8, np.uint64, np.float32, np.bool_]), st.integers(0, T))
        | st.none() | st.text(max_size=2) | st.floats() | st.integers()
    )  # fmt: skip


options = st.fixed_dictionaries(
    {}, optional={"example": ids(st.integers(-3, EXAMPLES + 1)), "completion": ids(st.integers(-3, V + 2))}
)
TOY = {"max_new_tokens": T, "vocab_size": V, "num_examples": EXAMPLES, "rule": "count"}


@fast
@given(chosen=options)
def test_any_options_of_reset_begin_there_or_are_refused(chosen):
    env = gym.make("tril/Toy-v0", **TOY).unwrapped
    env.reset(seed=1)
    begun, message = result_or_refusal(lambda: env.reset(options=chosen), ValueError)
    if message:
        assert "options['" in message
        assert env.step(3)[0][4] == 3, "the text before continues"
        return
    observation, info = begun
    assert env.observation_space.contains(observation)
    completion = [token for token in observation[4:].tolist() if token >= 0]
    wanted = chosen.get("completion")
    assert completion == ([] if wanted is None else [int(token) for token in np.asarray(wanted).ravel() if token != -1])
    if np.ndim(chosen.get("example")) == 0 and chosen.get("example") is not None and chosen["example"] != -1:
        assert info["example"] == chosen["example"]
    assert not env.step(3)[2] or len(completion) == T - 1


@fast
@given(
    chosen=options,
    mask=st.none() | arrays.arrays(np.bool_, 3) | arrays.arrays(np.int64, 3) | st.lists(st.booleans(), max_size=4),
)
def test_any_options_of_a_vector_reset_begin_there_or_are_refused(chosen, mask):
    envs = gym.make_vec("tril/Toy-v0", num_envs=3, autoreset_mode="Disabled", **TOY)
    before, _ = envs.reset(seed=1)
    given_options = dict(chosen) if mask is None else chosen | {"reset_mask": mask}
    # TypeError: as Gymnasium's own, of a mask.
    begun, message = result_or_refusal(lambda: envs.reset(options=given_options), ValueError, TypeError)
    if message:
        assert "options['" in message
        after = envs.step(np.full(3, 3))[0]
        assert (after[:, :4] == before[:, :4]).all(), "the texts before continue"
        assert (after[:, 4] == 3).all()
        return
    observations, _ = begun
    assert envs.observation_space.contains(observations)
    kept = np.zeros(3, bool) if mask is None else ~mask
    assert (observations[kept] == before[kept]).all()
    wanted = chosen.get("completion")
    if wanted is not None:
        rows = np.asarray(wanted)
        padded = np.full((3, T), -1)
        padded[:, : rows.shape[1]] = rows
        assert (observations[~kept, 4:] == padded[~kept]).all()


def test_numbers_beyond_int64_are_no_padding():
    env = gym.make("tril/Toy-v0", **TOY).unwrapped
    with pytest.raises(ValueError, match=r"options\['completion'\] must hold integers below 2\*\*63"):
        env.reset(options={"example": 0, "completion": np.array([2**64 - 1], np.uint64)})


def test_a_reset_with_options_is_needed_before_a_mask():
    envs = gym.make_vec("tril/Toy-v0", num_envs=3, **TOY)
    with pytest.raises(ResetNeeded, match="reset"):
        envs.reset(options={"reset_mask": np.array([True, False, False])})


@fast
@given(values=json_values | arrays.arrays(st.sampled_from([np.float16, np.int32, np.complex64, "U2"]), (3,)))
def test_any_result_of_a_reward_is_numbers_or_refused(values):
    found, message = result_or_refusal(lambda: as_numbers(values, 3), ValueError)
    if message:
        assert "one number per text is needed" in message
        return
    assert found.shape == (3,)
    assert found.dtype == np.float64


NAMES = [name for name in RunConfig.__dataclass_fields__ if name not in ("algorithm", "env_args", "hyperparameters")]


@fast
@given(chosen=st.dictionaries(st.sampled_from(NAMES), json_values, max_size=2))
def test_any_setting_is_valid_or_refused(chosen):
    config, message = result_or_refusal(lambda: RunConfig(algorithm="ppo", **chosen), ValueError)
    for name in () if message else chosen:
        value = getattr(config, name)
        assert not isinstance(value, float) or math.isfinite(value)


@fast
@given(text=texts | st.floats().map(str))
def test_any_value_of_an_option_is_parsed(text):
    parse_value(text)


def test_python_s_names_are_its_values():
    assert [parse_value(text) for text in ("True", "False", "None", "true", "TRUE")] == [
        True,
        False,
        None,
        True,
        "TRUE",
    ]


def test_a_deep_value_of_an_option_is_a_text():
    assert parse_value("[" * 100_000) == "[" * 100_000
    assert parse_value("1" * 5_000) == "1" * 5_000  # more digits than Python reads
