"""The attributes that the single and the vector environment share."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from gymnasium.envs.registration import EnvSpec

from tril_gym.data.example import Example
from tril_gym.data.examples import Examples
from tril_gym.envs.config import TextEnvConfig
from tril_gym.utils.no_copy import wrap_no_copy


class TextEnvMixin:
    """Attributes of an environment with a `TextEnvConfig`.

    Gymnasium deep-copies `spec`, so its keywords are stored as plain data or in a `NoCopy`.
    """

    config: TextEnvConfig
    _spec: EnvSpec | None = None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the prompts."""
        return self.config.tokenizer

    @property
    def examples(self) -> Examples:
        """The examples that `reset` draws from."""
        return self.config.examples

    def train_examples(self) -> Sequence[Example]:
        """Return the train examples."""
        return self.config.train_examples()

    def examples_to_fit(self) -> Sequence[Example]:
        """Return the train examples that a reward may fit on, in the form in which it will read their texts."""
        return self.config.examples_to_fit()

    def shown_examples(self) -> Sequence[Example]:
        """Return the examples that `reset` draws from, with their prompts as infos show them."""
        return self.config.shown(self.config.examples)

    def attribute(self, name: str) -> Any:
        """Return an attribute, None if it is missing.

        For `AsyncVectorEnv.call("attribute", "tokenizer")`: its own `get_attr` calls whatever is callable, as a
        tokenizer is.
        """
        return getattr(self, name, None)

    def sizes(self) -> str:
        """Return the sizes of the environment in words."""
        config = self.config
        return (
            f"prompts of {config.max_prompt_length} tokens, {config.max_new_tokens} new tokens,"
            f" {config.vocab_size:,} ids, {len(config.examples):,} examples"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{'' if self.spec is None else f' {self.spec.id}'}: {self.sizes()}>"

    __str__ = __repr__  # Gymnasium's wrappers show it

    @property
    def spec(self) -> EnvSpec | None:
        """The specification from which `gym.make` made this environment."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec.kwargs = {key: spec_keyword(value) for key, value in spec.kwargs.items()}
        self._spec = spec


def spec_keyword(value: Any) -> Any:
    """Return a keyword in the form in which a specification stores it."""
    return value.value if isinstance(value, Enum) else wrap_no_copy(value)
