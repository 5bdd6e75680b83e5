"""Config fields: their bounds are one rule for Python and the command line, and no number is NaN or infinite."""

import ast
import math
import re
import typing
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from tril_gym.agents.tiny import TinySettings
from tril_gym.cli import main
from tril_gym.experiment.algorithms import ALGORITHMS, agent_type
from tril_gym.reward_model.config import RewardModelConfig
from tril_gym.utils.config_fields import check_bounds, config_field, describe_bounds

CONFIGS = {name: agent_type(name).config_type for name in ALGORITHMS} | {
    "reward-model": RewardModelConfig,
    "tiny": TinySettings,
}
REQUIRED = {"reward-model": {"dataset": "pairs.jsonl"}}  # fields without a default


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """One field for each kind of rule."""

    free: float = config_field(0.5, "any number")
    least: int = config_field(4, "a lower bound", minimum=1)
    most: float = config_field(0.5, "an upper bound", maximum=1)
    above: float = config_field(0.5, "an exclusive lower bound", above=0)
    below: float = config_field(0.5, "an exclusive upper bound", below=1)
    closed: float = config_field(0.5, "an interval", minimum=0, maximum=1)
    half_open: float = config_field(0.5, "an interval", minimum=0, below=1)
    optional: float | None = config_field(None, "an interval, or nothing", above=0, maximum=1)
    pair: tuple[float, float] = config_field((0.1, 0.2), "two numbers", minimum=0, below=1)
    plain: float = 3.0
    flag: bool = config_field(False, "no number")
    name: str = config_field("x", "no number")
    way: Literal["a", "b"] = config_field("a", "no number")
    table: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_bounds(self)


RULES = {
    "free": "",
    "least": "at least 1",
    "most": "at most 1",
    "above": "above 0",
    "below": "below 1",
    "closed": "in [0, 1]",
    "half_open": "in [0, 1)",
    "optional": "in (0, 1]",
    "pair": "in [0, 1)",
}


@pytest.mark.parametrize(("name", "rule"), RULES.items(), ids=RULES)
def test_bounds_in_words(name, rule):
    assert describe_bounds(Numbers.__dataclass_fields__[name].metadata) == rule


@pytest.mark.parametrize(
    "numbers",
    [
        {"least": 1},
        {"most": 1.0},
        {"above": 1e-300},
        {"below": 0.999},
        {"closed": 0.0},
        {"closed": 1},
        {"half_open": 0},
        {"optional": 1.0},
        {"optional": None},
        {"pair": (0.0, 0.5)},
        {"free": -1e300, "plain": -1.0},
    ],
    ids=str,
)
def test_values_on_and_within_the_bounds_are_allowed(numbers):
    Numbers(**numbers)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"least": 0}, "least must be at least 1, got 0; the usual value is 4"),
        ({"most": 1.1}, "most must be at most 1, got 1.1; the usual value is 0.5"),
        ({"above": 0.0}, "above must be above 0, got 0.0; the usual value is 0.5"),
        ({"below": 1}, "below must be below 1, got 1; the usual value is 0.5"),
        ({"closed": -0.1}, "closed must be in [0, 1], got -0.1; the usual value is 0.5"),
        ({"closed": 1.1}, "closed must be in [0, 1], got 1.1; the usual value is 0.5"),
        ({"half_open": 1.0}, "half_open must be in [0, 1), got 1.0"),
        ({"optional": 0.0}, "optional must be in (0, 1], got 0.0"),
        ({"pair": (0.5, 1.0)}, "pair must be in [0, 1), got (0.5, 1.0); the usual value is (0.1, 0.2)"),
        ({"above": "1e-5"}, "above must be a number, got '1e-5'; write 1.0e-05; the usual value is 0.5"),
    ],
)
def test_values_outside_the_bounds_are_refused(numbers, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Numbers(**numbers)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [*RULES, "plain"])
def test_numbers_are_finite_with_and_without_bounds(name, value):
    given = (0.1, value) if name == "pair" else value
    with pytest.raises(ValueError, match=f"^{name} must be finite.*, got "):
        Numbers(**{name: given})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"least": 1.5}, "least must be a whole number, got 1.5; the usual value is 4"),
        ({"least": True}, "least must be a whole number, got True"),
        ({"free": False}, "free must be a number, got False"),
        ({"free": None}, "free must be a number, got None"),
        ({"flag": "no"}, "flag must be True or False, got 'no'; write False; the usual value is False"),
        ({"flag": "Yes"}, "flag must be True or False, got 'Yes'; write True"),
        ({"flag": "perhaps"}, "flag must be True or False, got 'perhaps'; the usual"),
        ({"least": "8"}, "least must be a whole number, got '8'; write 8"),
        ({"least": "8.5"}, "least must be a whole number, got '8.5'; the usual"),
        ({"free": "3e-4"}, "free must be a number, got '3e-4'; write 0.0003"),
        ({"optional": " .5 "}, "optional must be a number, got ' .5 '; write 0.5"),
        ({"free": "nan"}, "free must be a number, got 'nan'; the usual"),
        ({"free": "much"}, "free must be a number, got 'much'; the usual"),
        ({"flag": 1}, "flag must be True or False, got 1"),
        ({"name": 3}, "name must be a text that is not empty, got 3"),
        ({"name": " "}, "name must be a text that is not empty, got ' '"),
        ({"way": "c"}, "way must be one of a, b, got 'c'; the usual value is a"),
        ({"pair": (0.1, "0.2")}, "pair must be numbers, got (0.1, '0.2')"),
        ({"pair": 0.1}, "pair must be numbers, got 0.1"),
        ({"plain": 10**400}, "plain must be at most 9007199254740992, got 1000"),
        ({"least": 2**60}, "least must be at least 1 and at most 9007199254740992, got 1152921504606846976"),
        ({"free": np.float32(0.5), "least": np.int64(3), "plain": 2}, None),
    ],
)
def test_values_of_another_type_are_refused(values, message):
    if message is None:
        Numbers(**values)
        return
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Numbers(**values)


@pytest.mark.parametrize("value", [1e30, 1e9])
@pytest.mark.parametrize("kind", CONFIGS)
def test_absurd_rates_and_coefficients_are_refused(kind, value):
    """The rates, temperatures and coefficients of every algorithm have a maximum."""
    names = [name for name in numbers_of(CONFIGS[kind]) if re.search(r"learning_rate|temperature|_coef|decay", name)]
    assert names
    for name in names:
        with pytest.raises(ValueError, match=rf"^{name} must be in [\[(].*, got 1"):
            CONFIGS[kind](**REQUIRED.get(kind, {}), **{name: value})


def numbers_of(config_type: type) -> list[str]:
    """Names of the fields that hold a number."""
    hints = typing.get_type_hints(config_type)
    kinds = {name: typing.get_args(hint) or (hint,) for name, hint in hints.items()}
    return [entry.name for entry in fields(config_type) if {int, float} & set(kinds[entry.name])]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", CONFIGS)
def test_no_config_takes_a_number_that_is_not_finite(kind, value):
    names = numbers_of(CONFIGS[kind])
    assert len(names) > 5
    for name in names:
        given = (0.9, value) if name == "adam_betas" else value
        with pytest.raises(ValueError, match=rf"^{name} must be finite"):
            CONFIGS[kind](**REQUIRED.get(kind, {}), **{name: given})


class TestCommandLine:
    """Options are made of the fields."""

    def test_help_shows_the_bounds(self):
        text = " ".join(CliRunner().invoke(main, ["train", "ppo", "--help"]).output.split())
        assert "Discount per token [in [0, 1]; default: 1.0]" in text
        assert "AdamW step size of the policy [in (0, 1]; default: 0.0003]" in text

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--gamma", "1.5"], "--gamma must be in [0, 1], got 1.5; the usual value is 1.0"),
            (["--learning-rate", "1e30"], "--learning-rate must be in (0, 1], got 1e+30; the usual value is 1e-05"),
            (["--learning-rate", "1e400"], "--learning-rate must be finite and in (0, 1], got inf"),
            (["--temperature", "1e-30"], "--temperature must be in [0.001, 100], got 1e-30"),
            (["--reward", "rouge_l:1e30"], "the weight in 'rouge_l:1e30' must be a number in [-1000000, 1000000]"),
            (["--reward", "rouge_l", "--reward", "rouge_l:2"], "the reward 'rouge_l' is given twice"),
            (["--num-envs", "100000000000"], "--num-envs must be in [1, 100000], got 100000000000"),
            (["--kl-gain", "nan"], "--kl-gain must be finite and in [0, 1000000], got nan"),
            (["--adam-betas", "0.9", "1"], "--adam-betas must be in [0, 1), got (0.9, 1.0)"),
        ],
    )
    def test_values_outside_the_bounds_are_usage_errors(self, arguments, message, tmp_path):
        result = CliRunner().invoke(main, ["train", "ppo", "--output-dir", str(tmp_path / "run"), *arguments])
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())


@pytest.mark.parametrize("text", ["1e-5", "3e-4", "1E+20", "7", "-2.50"])
def test_what_a_message_says_to_write_is_read_by_python_and_yaml(text):
    with pytest.raises(ValueError, match="write") as error:
        Numbers(free=text)
    written = re.search(r"write ([^;]+)", str(error.value))[1]
    assert ast.literal_eval(written) == yaml.safe_load(written) == float(text)
