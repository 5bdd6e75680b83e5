"""The configuration of a text environment: examples, tokenised prompts, sizes, and the contents of infos.

Any number of environments can share a `TextEnvConfig`.

n texts, P prompt tokens, T new tokens, V words in the vocabulary, m the advised minimum of new tokens.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from gymnasium.spaces import Box, Discrete

from tril_gym.data.example import Example
from tril_gym.data.examples import Examples
from tril_gym.data.sources import load_examples
from tril_gym.data.splits import part_of
from tril_gym.data.task import Task, with_template
from tril_gym.data.tokenizers import describe, resolve_tokenizer
from tril_gym.envs.arrays import Floats, Ids, Mask
from tril_gym.envs.lengths import measured_lengths, warn_of_cut_chats, warn_of_cut_references
from tril_gym.envs.prompts import NO_CHAT, PromptTable, prompt_table
from tril_gym.utils.chats import ChatFormat
from tril_gym.utils.config_fields import check_choice, check_flag, check_integer
from tril_gym.utils.no_copy import NoCopy
from tril_gym.utils.stop_strings import StopStrings, check_stop
from tril_gym.utils.templates import literals
from tril_gym.utils.tokenization import after_joiner, decode_after_text, encode, has_chat_template, number_of_ids

logger = logging.getLogger(__name__)

# (prompts (n, P), completions (n, T), lengths (n,), has_ended (n,)) -> (n,) reward of the last token of each text
RewardFunction = Callable[[Ids, Ids, Ids, Mask], Floats]

# Beyond these an array of a few texts does not fit into memory.
MAX_LENGTH = 1_000_000  # tokens of a prompt, and of a completion
MAX_VOCABULARY = 10_000_000  # tokens

# The string between prompt and completion where a reference is tokenised; chat templates have their own.
JOINER = " "


class TextEnvConfig:
    """The data and the settings of an environment; immutable.

    Attributes:
        prompts: the tokenised prompts of the examples.
        is_eos: (V,) True on the actions that end a text.
        reward_fn: the reward of the environment itself; None where rewards are left to wrappers.
        reward_missing: whether nothing rewards the texts, since the task has no reward and none was named.
        dense_reward: whether `reward_fn` rewards single tokens before the end.
    """

    def __init__(
        self,
        examples: Examples,
        tokenizer: Any,
        *,
        max_prompt_length: int,
        max_new_tokens: int,
        min_new_tokens: int = 0,
        prompt_truncation_side: str = "right",
        vocab_size: int | None = None,
        eos_token_ids: Sequence[int] | None = None,
        prompt_eos: bool = True,
        stop: Sequence[str] | str | None = None,
        chat: ChatFormat = NO_CHAT,
        turn_marks: Sequence[str] = (),
        train_examples: Callable[[], Sequence[Example]] | None = None,
        reward_fn: RewardFunction | None = None,
        dense_reward: bool = False,
    ) -> None:
        if not examples:
            raise ValueError(f"an environment needs one example or more, found none in {examples.source}")
        self.examples, self.tokenizer = examples, tokenizer
        self._load_train_examples = train_examples
        self.reward_fn, self.dense_reward, self.reward_missing = reward_fn, dense_reward, False
        self.max_prompt_length = check_integer("max_prompt_length", max_prompt_length, 1, MAX_LENGTH)
        self.max_new_tokens = check_integer("max_new_tokens", max_new_tokens, 1, MAX_LENGTH)
        self.min_new_tokens = check_integer("min_new_tokens", min_new_tokens, 0)
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens must be at most max_new_tokens = {max_new_tokens}, got {min_new_tokens}")
        check_choice("prompt_truncation_side", prompt_truncation_side, ("left", "right"))
        self.vocab_size = check_vocab_size(tokenizer, vocab_size)
        self.stop = StopStrings(check_stop(stop, tokenizer), tokenizer)
        check_flag("prompt_eos", prompt_eos)
        self.eos_token_ids = check_eos_ids(eos_token_ids, tokenizer, self.vocab_size)
        self.is_eos = np.zeros(self.vocab_size, dtype=bool)
        self.is_eos[self.eos_token_ids] = True
        self.prompts = prompt_table(
            examples,
            tokenizer,
            max_prompt_length=self.max_prompt_length,
            truncation_side=prompt_truncation_side,
            vocab_size=self.vocab_size,
            keeps_eos=prompt_eos,
            chat=chat,
            turn_marks=tuple(turn_marks),
        )
        self.chat, self.joiner = chat, joiner_of(tokenizer, chat)

    def __deepcopy__(self, memo: dict[int, Any]) -> TextEnvConfig:
        return self  # immutable

    def without_reward(self) -> TextEnvConfig:
        """Return the same configuration with reward 0, so that only wrappers give rewards."""
        config = copy.copy(self)
        config.reward_fn, config.dense_reward = None, False
        return config

    def with_missing_reward(self) -> TextEnvConfig:
        """Return the same configuration, with metadata that say that no reward was named."""
        config = copy.copy(self)
        config.reward_missing = True
        return config

    def train_examples(self) -> Sequence[Example]:
        """Return the examples of the train split, which are loaded on the first call."""
        return self.examples if self._load_train_examples is None else self._load_train_examples()

    def shown(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Return examples with their prompts as infos show them: chats are rendered."""
        return _shown_once(NoCopy(examples), NoCopy(self.prompts)) if self.chat.is_used else examples

    def examples_to_fit(self) -> Sequence[Example]:
        """Return the train examples as rewards read them: chats are rendered, their pairs begin after the joiner."""
        shown = self.shown(self.train_examples())
        return _pairs_after_joiner(NoCopy(shown), self.joiner) if self.chat.is_used and self.joiner else shown

    def metadata(self, restart: str) -> dict[str, Any]:
        """Return `metadata["text"]`, the whole contract for agents, as plain data that the caller owns."""
        return {
            "max_prompt_length": self.max_prompt_length,
            "max_new_tokens": self.max_new_tokens,
            "min_new_tokens": self.min_new_tokens,
            "vocab_size": self.vocab_size,
            "eos_token_ids": list(self.eos_token_ids),
            "stop": list(self.stop.strings),
            "num_examples": len(self.examples),
            "dense_reward": self.dense_reward,
            "restart": restart,
            "joiner": self.joiner,
            "chat": self.chat.is_used,
            "prompt_eos": self.prompts.ends_in_eos,
            **({"reward_missing": True} if self.reward_missing else {}),
        }

    def observation_space(self) -> Box:
        """Return the space of one observation: P prompt tokens, T completion tokens, -1 where there is none."""
        return Box(-1, self.vocab_size - 1, (self.max_prompt_length + self.max_new_tokens,), np.int64)

    def action_space(self) -> Discrete:
        """Return the space of one action, a token id."""
        return Discrete(self.vocab_size)

    def action_masks(self, lengths: Ids) -> Mask:
        """Return the advised actions, (n,) -> (n, V): EOS is False while a completion is shorter than m."""
        masks = np.ones((len(lengths), self.vocab_size), dtype=bool)
        masks[:, self.eos_token_ids] = (lengths >= self.min_new_tokens)[:, None]
        return masks

    def reset_info(self, index: int) -> dict[str, Any]:
        """Return the info of a reset to an example; the caller owns the data and may change them."""
        example = self.prompts.shown(self.examples[index])
        extras = copy_plain_data(example.all_extras)
        return {"example": index, "prompt": example.prompt, "references": list(example.references), "extras": extras}

    def end_info(self, index: int, tokens: list[int]) -> dict[str, Any]:
        """Return the info of the step that ends a text."""
        return self.reset_info(index) | {
            "completion": self.completion(tokens),
            "tokens": tokens,
            "finish_reason": self.finish_reason(tokens),
            "scores": {},
        }

    def finish_reason(self, tokens: Sequence[int]) -> str:
        """Return "stop" for a text that ended with EOS or at a stop string, "length" for one that reached T tokens."""
        return "stop" if self.is_eos[tokens[-1]] or self.stop.are_in(tokens) else "length"

    def completion(self, tokens: Sequence[int]) -> str:
        """Return tokens as text up to a stop string, without special tokens and ids beyond the tokenizer.

        It begins with a space where the tokens do, whether or not the tokenizer drops one at the start of a text.
        """
        return self.stop.cut(decode_after_text(self.tokenizer, tokens))


def text_env_config(
    task: Task,
    *,
    dataset: Any = "embedded",
    split: str | None = None,
    part: Sequence[float] | None = None,
    on_bad_row: str = "raise",
    column: Mapping[str, str] | None = None,
    prompt_template: str | None = None,
    tokenizer: Any = "embedded",
    max_prompt_length: int | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int = 0,
    prompt_truncation_side: str | None = None,
    vocab_size: int | None = None,
    eos_token_ids: Sequence[int] | None = None,
    prompt_eos: bool = True,
    stop: Sequence[str] | str | None = None,
    chat_template: str | Path | None = None,
    system_prompt: str | None = None,
) -> TextEnvConfig:
    """Return the configuration of a task on a data set.

    Args:
        task: it also gives the lengths, the truncation side and the stop strings where they are None.
        dataset: "embedded", "hub", "hub:owner/name", a folder with train|validation|test.*, one file, or objects; see
            `load_examples`.
        split: "train" (the default), "validation" or "test", where the data set has splits.
        part: two shares, such as (0.0, 0.7) and (0.7, 1.0): only the examples whose prompts a hash puts between them.
            Tokenizer and rewards are fitted to the whole train split.
        on_bad_row: "raise", or "skip" to leave malformed rows out.
        column: names in the data by the task's names of columns, where they differ.
        prompt_template: format of a prompt, in CommonGen such as "generate a sentence with: {concepts}."; None takes
            the task's own. Examples that are given as such keep their prompts.
        tokenizer: "embedded", "fit" (at most 4,000 tokens, fitted to the train examples), "fit:N" (at most N), a name,
            a folder, or a tokenizer.
        max_prompt_length: P; for chats, and where the task has none, the 95th percentile of the prompts, at most 512.
        max_new_tokens: T; where the task has none, the 95th percentile of the references and
            rejected texts, at most 128.
        min_new_tokens: m, advice only.
        prompt_truncation_side: the side on which a prompt that is too long is cut; a chat loses its beginning.
        vocab_size: V, by default the tokenizer's length.
        eos_token_ids: the ids of which each ends a text; by default the tokenizer's EOS.
        prompt_eos: whether a prompt ends in EOS where the tokenizer puts one there, as encoders expect it; False for
            decoder-only models.
        stop: strings at which a text ends, besides EOS; its completion is the text before. None takes those of the
            task, of which most have none.
        chat_template: a template in Jinja, or a file with one, in place of the tokenizer's; prompts that are texts then
            are messages of a user.
        system_prompt: the first message of prompts that have no system message; texts are messages of a user.
    """
    task = with_template(task, prompt_template)
    learning_part = dataset.learning_part if isinstance(dataset, Examples) else None
    train_examples = learning_part or functools.partial(
        load_examples, task, dataset, on_bad_row=on_bad_row, column=column
    )
    tokenizer = resolve_tokenizer(tokenizer, task.name, train_examples)
    examples = part_of(load_examples(task, dataset, split=split, on_bad_row=on_bad_row, column=column), part)
    has_chats = _has_chats(examples, tokenizer, train_examples)
    chat = ChatFormat.of(chat_template, system_prompt, has_chats=has_chats)
    chat.check(tokenizer)
    usual = None if chat.is_used else task.max_prompt_length  # a template makes prompts longer than the task's
    P = usual if max_prompt_length is None else max_prompt_length  # noqa: N806
    T = task.max_new_tokens if max_new_tokens is None else max_new_tokens  # noqa: N806
    if P is None or T is None:
        joiner = joiner_of(tokenizer, chat)
        P, T = measured_lengths(train_examples(), tokenizer, (P, T), joiner=joiner, keeps_eos=prompt_eos, chat=chat)  # noqa: N806
    if prompt_template is not None:
        check_room(prompt_template, tokenizer, P)
    config = TextEnvConfig(
        examples,
        tokenizer,
        max_prompt_length=P,
        max_new_tokens=T,
        min_new_tokens=min_new_tokens,
        prompt_truncation_side=task.prompt_truncation_side
        if prompt_truncation_side is None
        else prompt_truncation_side,
        vocab_size=vocab_size,
        eos_token_ids=eos_token_ids,
        prompt_eos=prompt_eos,
        stop=task.stop if stop is None else stop,
        chat=chat,
        turn_marks=task.turn_marks,
        train_examples=train_examples,
    )
    if chat.is_used:
        end = chat.end_of_turn(tokenizer)
        config.eos_token_ids.sort(key=lambda token: token != end)  # references end as the template ends a message
        warn_of_other_end(tokenizer, end, tuple(config.eos_token_ids))
        if max_prompt_length is not None:  # `measured_lengths` says what it chooses
            warn_of_cut_chats(examples, tokenizer, max_prompt_length=P, chat=chat)
    if split in (None, "train") and not (task.cuts_references or config.examples.held_out):
        warn_of_cut_references(
            config.examples, config.tokenizer, max_new_tokens=config.max_new_tokens, joiner=config.joiner
        )
    return config


def _has_chats(examples: Examples, tokenizer: Any, train_examples: Callable[[], Examples]) -> bool:
    """Return whether prompts are chats: where one of these is, or one of those to learn from.

    Policies read other prompts as those that they learned from. Without a chat template there are none.
    """
    return examples.has_chats or (has_chat_template(tokenizer) and train_examples().has_chats)


@functools.lru_cache(maxsize=4)
def _shown_once(examples: NoCopy, prompts: NoCopy) -> Examples:
    whole, table = cast(Examples, examples.value), cast(PromptTable, prompts.value)
    return Examples(map(table.shown, whole), source=whole.source, held_out=whole.held_out)


@functools.lru_cache(maxsize=4)
def _pairs_after_joiner(examples: NoCopy, joiner: str) -> Examples:
    def written(example: Example) -> Example:
        rejected = example.extras.get("rejected")
        if not isinstance(rejected, str):
            return example
        references = tuple(after_joiner(joiner, reference) for reference in example.references)
        extras = dict(example.extras) | {"rejected": after_joiner(joiner, rejected)}
        return replace(example, references=references, extras=extras)

    whole = cast(Examples, examples.value)
    return Examples(map(written, whole), source=whole.source, held_out=whole.held_out)


def check_room(template: str, tokenizer: Any, max_prompt_length: int) -> None:
    """Raise ValueError where the fixed words of a prompt leave no room for what stands between them."""
    fixed = sum(len(encode(tokenizer, text)) for text in literals(template) if text)
    if fixed >= max_prompt_length:
        raise ValueError(
            f"max_prompt_length must be above the {fixed} tokens that the fixed words of prompt_template take with the"
            f" tokenizer {describe(tokenizer)}, got {max_prompt_length}; {2 * fixed} leaves room"
        )


def joiner_of(tokenizer: Any, chat: ChatFormat) -> str:
    """Return the string between prompt and completion where a reference is tokenised."""
    return chat.around_completion(tokenizer)[0] if chat.is_used else JOINER


def warn_of_other_end(tokenizer: Any, end: int | None, eos_token_ids: tuple[int, ...]) -> None:
    """Log, once, that a chat template ends the assistant's messages with a token at which texts do not end."""
    if end is not None and end not in eos_token_ids:
        _warn_once(tokenizer.convert_ids_to_tokens(end), end, eos_token_ids)


@functools.lru_cache(maxsize=16)
def _warn_once(name: str, end: int, eos_token_ids: tuple[int, ...]) -> None:
    logger.warning(
        "the chat template ends the assistant's messages with %s, at which texts do not end; if the model writes it,"
        " set eos_token_ids=%s",
        name,
        [*eos_token_ids, end],
    )


def check_vocab_size(tokenizer: Any, vocab_size: int | None) -> int:
    """Return V: the tokenizer's length, or a larger number for a policy that has more logits."""
    least = max(number_of_ids(tokenizer), int(tokenizer.eos_token_id) + 1)
    if vocab_size is None:
        return least
    if check_integer("vocab_size", vocab_size, 1, MAX_VOCABULARY) < least:
        raise ValueError(
            f"vocab_size must cover the tokenizer {describe(tokenizer)} of {least} tokens, got {vocab_size}; if that is"
            f" the number of a model's logits, extend it: model.resize_token_embeddings({least})"
        )
    return int(vocab_size)


def check_eos_ids(ids: Sequence[int] | int | None, tokenizer: Any, vocab_size: int) -> list[int]:
    """Return the ids that end a text, the tokenizer's EOS first. A single id may be a number.

    Raises:
        ValueError: there are none, or one is no action.
    """
    own = int(tokenizer.eos_token_id)
    if ids is None:
        return [own]
    found: list[Any] = list(ids) if isinstance(ids, Sequence) and not isinstance(ids, str) else [ids]
    are_integers = all(isinstance(token, int | np.integer) and not isinstance(token, bool) for token in found)
    if not (found and are_integers and all(0 <= token < vocab_size for token in found)):
        raise ValueError(
            f"eos_token_ids must be ids of 0 to {vocab_size - 1}, one at least, got {ids!r}; write a list such as"
            f" [{own}], the tokenizer's"
        )
    return sorted({int(token) for token in found}, key=lambda token: (token != own, token))


def copy_plain_data(x: Any) -> Any:
    """Return a copy of plain data with new dictionaries, lists and arrays."""
    if isinstance(x, dict):
        return {key: copy_plain_data(value) for key, value in x.items()}
    if isinstance(x, list):
        return [copy_plain_data(item) for item in x]
    return x.copy() if isinstance(x, np.ndarray) else x
