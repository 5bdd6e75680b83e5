"""Prompts and rewards of an environment for TRL's trainers, such as GRPO.

dataset, functions = prompt_dataset(env), reward_functions(env)
GRPOTrainer(model, reward_funcs=functions, train_dataset=dataset, args=GRPOConfig(reward_weights=reward_weights(env)))
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from tril_gym.rewards.text.shaping import EndBonus
from tril_gym.utils.stop_strings import StopStrings
from tril_gym.utils.tokenization import after_prompt, drops_first_space, without_own_bos
from tril_gym.wrappers.reward_term import Term, terms
from tril_gym.wrappers.vector import base_attribute

if TYPE_CHECKING:
    from datasets import Dataset

RewardFunction = Callable[..., list[float]]


def prompt_dataset(env: gym.Env | VectorEnv) -> Dataset:
    """Return the examples of an environment with the columns `prompt`, `references` and `extras` (as JSON).

    Prompts are those of its infos, so a chat is one text, rendered by the template of the environment; without a BOS
    that TRL's tokenizer puts before every text.

    Raises:
        ValueError: the environment has no examples.
    """
    from datasets import Dataset

    shown_examples = base_attribute(env, "shown_examples")
    if shown_examples is None:
        raise ValueError(f"{env} has no examples, whose prompts a data set could hold")
    examples, tokenizer = shown_examples(), base_attribute(env, "tokenizer")
    prompts = [example.prompt for example in examples]
    if tokenizer is not None:
        prompts = without_own_bos(tokenizer, prompts)
    return Dataset.from_list(
        [
            {"prompt": prompt, "references": list(example.references), "extras": _as_json(example.all_extras)}
            for prompt, example in zip(prompts, examples, strict=True)
        ]
    )


def reward_functions(env: gym.Env | VectorEnv) -> list[RewardFunction]:
    """Return the terms of an environment's reward, unweighted, as functions that TRL calls by keyword.

    They read the columns of `prompt_dataset`. Completions may be strings or conversations, of which the last message
    counts; each is read up to a stop string of the environment, and with the space before its first word, as its infos
    have it.

    Raises:
        ValueError: the environment pays no term, or one that asks how a text ended, which TRL does not say.
    """
    found = terms(env)
    if not found:
        raise ValueError(f"{env} has no reward term; make the environment with reward=, or wrap it in TextReward")
    if any(isinstance(term.score, EndBonus) for term in found):
        raise ValueError(
            "end_bonus reads how a text ended, which TRL does not tell reward functions; make the environment without"
            " it (TRL's mask_truncated_completions leaves texts that did not end out)"
        )
    text, tokenizer = env.metadata["text"], base_attribute(env, "tokenizer")
    stop = StopStrings(text.get("stop", ()), tokenizer)
    # TRL decodes completions on their own, where such a tokenizer drops the space that the policy wrote.
    joiner = text.get("joiner", "") if tokenizer is not None and drops_first_space(tokenizer) else ""
    return [_reward_function(term, stop, joiner) for term in found]


def reward_weights(env: gym.Env | VectorEnv) -> list[float]:
    """Return the weight of each of `reward_functions`."""
    return [float(term.weight) for term in terms(env)]


def _reward_function(term: Term, stop: StopStrings, joiner: str) -> RewardFunction:
    def reward(
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        references: Sequence[Sequence[str]] | None = None,
        extras: Sequence[str] | None = None,
        **columns: Any,
    ) -> list[float]:
        infos = [
            {
                "prompt": _text(prompt),
                "completion": stop.cut(after_prompt(joiner, _text(completion))),
                "references": list(references[row]) if references is not None else [],
                "extras": json.loads(extras[row]) if extras is not None else {},
            }
            for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        return term(infos).tolist()  # type: ignore[no-any-return]

    reward.__name__ = term.name  # TRL logs it
    return reward


def _text(text: Any) -> str:
    """Return a string, or the text of a conversation's last message: "" without one, as of a call of a tool."""
    if isinstance(text, str):
        return text
    content = text[-1]["content"] if text else None
    if isinstance(content, list):  # in parts, of which some may be images
        return "".join(part["text"] for part in content if part.get("type") == "text")
    return "" if content is None else str(content)


def _as_json(extras: Mapping[str, Any]) -> str:
    """Return extras as JSON, with numpy's numbers and arrays as plain ones."""
    try:
        return json.dumps(extras, default=_as_plain)
    except TypeError as error:
        raise ValueError(f"the extras of an example must be data that JSON can hold: {error}") from error


def _as_plain(value: Any) -> Any:
    """Return numpy's numbers and arrays as JSON has them."""
    try:
        return value.tolist()
    except AttributeError:
        raise TypeError(f"{value!r} is of type {type(value).__name__}; make it a number or a text") from None
