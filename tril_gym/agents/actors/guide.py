"""Guides: fixed writers that start or finish the policy's texts.

A guide may be a language model with sampling settings of its own, the references, or a function of texts. The policy
never reads a guide's logits, only its tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from tril_gym.agents.actors.lm_writer import LMWriter
from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.actors.references import References
from tril_gym.agents.actors.text_guide import CallableGuide, CrossTokenizerBridge, TextFunction, TextWriter
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Writer
from tril_gym.agents.collection.trajectories import Infos
from tril_gym.functional.sampling import Decoding
from tril_gym.models.texts import Texts


class Guide:
    """A language model that writes and does not learn.

    One whose tokenizer is another than the environment's meets the policy as text: it reads what stands in its own
    tokens, and what it writes is tokenised for the policy. It ends a text after 2 T tokens of its own at the latest.

    Args:
        policy: the model; it is never changed. Training a policy with itself as guide needs `policy.frozen_copy()`.
        temperature, top_k, top_p: how the guide samples; the paper's guides use top_p 0.92.
        min_new_tokens: no EOS before so many tokens, of the guide's own; by default the environment's advice.
    """

    def __init__(
        self,
        policy: LMPolicy,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_new_tokens: int | None = None,
    ) -> None:
        self.policy = policy.with_decoding(Decoding(temperature=temperature, top_k=top_k, top_p=top_p))
        self.min_new_tokens = min_new_tokens
        self._compared: tuple[Any, bool] = (None, False)  # a tokenizer, and whether its tokens are others

    def start(self, prompts: Tensor, completions: Tensor, infos: Infos, layout: TextLayout) -> Writer:
        """Take up texts where they stand; see `Actor`."""
        if self.reads_text(layout):
            continue_texts = partial(CrossTokenizerBridge(self.policy, layout).continue_texts, self)
            return TextWriter(continue_texts, prompts, completions, infos, layout)
        texts = Texts.of(prompts, completions).to(self.policy.device)
        shortest = layout.min_new_tokens if self.min_new_tokens is None else self.min_new_tokens
        return LMWriter(self.policy, texts, layout, shortest)

    def reads_text(self, layout: TextLayout) -> bool:
        """Whether its tokens are others than the environment's; see `ReadsText`."""
        own, other = self.policy.tokenizer, layout.tokenizer
        if own is None or other is None:
            return False
        if self._compared[0] is not other:
            self._compared = (other, own is not other and own.get_vocab() != other.get_vocab())
        return self._compared[1]

    def check(self, layout: TextLayout) -> None:
        """Refuse an environment that this guide cannot write in."""
        try:
            if self.reads_text(layout):
                CrossTokenizerBridge(self.policy, layout)
            else:
                self.policy.check(layout)
        except ValueError as error:
            raise ValueError(f"the guide does not fit the environment: {error}") from None

    def settings(self) -> dict[str, Any]:
        """The keywords that make this guide again from its policy."""
        decoding = self.policy.decoding
        return {
            "temperature": decoding.temperature,
            "top_k": decoding.top_k,
            "top_p": decoding.top_p,
            "min_new_tokens": self.min_new_tokens,
        }

    @staticmethod
    def references() -> References:
        """The references of each prompt: an oracle, for rolling in only."""
        return References()

    @staticmethod
    def from_callable(f: TextFunction, *, retries: int = 2, pause: float = 1.0) -> CallableGuide:
        """A function of texts as guide: a template, a program, a service.

        Args:
            f: called once for a whole batch, `f(prompts, completions)`, two lists of strings: the prompts, and what
                stands of each completion, "" where none is begun. Returns one string for each: the rest of its text.
            retries: how many more times it is called when it raises.
            pause: seconds before the second call; each further pause is twice as long.
        """
        return CallableGuide(f, retries=retries, pause=pause)
