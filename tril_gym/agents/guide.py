"""Guides: fixed writers that start or finish the policy's texts.

A guide may be a language model with sampling settings of its own, or the references. The policy never reads a
guide's logits, only its tokens.
"""

from __future__ import annotations

from typing import Any

from gymnasium.vector import VectorEnv
from torch import Tensor

from tril_gym.agents.decoding import Decoding
from tril_gym.agents.layout import TextLayout
from tril_gym.agents.policy import LMPolicy, LMWriter
from tril_gym.agents.references import References
from tril_gym.agents.trajectories import Infos, Texts


class Guide:
    """A language model that writes and does not learn.

    Args:
        policy: the model; it is never changed. Training a policy with itself as guide needs `policy.frozen_copy()`.
        temperature, top_k, top_p: how the guide samples; the paper's guides use top_p 0.92.
        min_new_tokens: no EOS before so many tokens; by default the environment's advice.
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

    def start(self, prompts: Tensor, completions: Tensor, infos: Infos, layout: TextLayout) -> LMWriter:
        """Take up texts where they stand; see `Actor`."""
        texts = Texts.of(prompts, completions).to(self.policy.device)
        shortest = layout.min_new_tokens if self.min_new_tokens is None else self.min_new_tokens
        return LMWriter(self.policy, texts, layout, shortest)

    def check(self, layout: TextLayout) -> None:
        """Refuse an environment that this guide cannot write in."""
        try:
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
    def default(envs: VectorEnv, *, kind: str = "causal", **settings: Any) -> Guide:
        """The tiny policy of this environment, trained longer, nucleus 0.92; see `tiny.tiny_guide`."""
        from tril_gym.agents.tiny import tiny_guide

        return tiny_guide(envs, kind=kind, **settings)

    @staticmethod
    def references() -> References:
        """The references of each prompt: an oracle, for rolling in only."""
        return References()
