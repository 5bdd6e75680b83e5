"""Discriminators of tokens: a logit for each token after those before it, positive where a reference's is more likely.

They read from left to right, so that a logit is one of a state and an action, as in GAIL: later tokens change nothing.

B texts, P prompt tokens, T new tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.learners.discriminator import AdapterDiscriminator, Discriminator, TrainedWhole, whole_ids
from tril_gym.functional.sampling import at_least_float32
from tril_gym.models.noise import disable_dropout
from tril_gym.models.texts import Texts
from tril_gym.utils.seeding import seeded


class TokenClassifier(TrainedWhole):
    """A tiny untrained GPT-2 with one logit for each token of the environment's ids."""

    def __init__(self, layout: TextLayout, *, width: int = 64, seed: int = 0) -> None:
        from transformers import GPT2Config, GPT2ForTokenClassification

        config = GPT2Config(
            vocab_size=layout.vocab_size,
            n_positions=layout.max_prompt_length + layout.max_new_tokens,
            n_embd=width,
            n_layer=1,
            n_head=4,
            initializer_range=0.1,  # larger than GPT-2's, so that tokens affect the logit from the first step on
            num_labels=1,  # type: ignore[call-arg]
        )
        with seeded(seed):
            self.model = disable_dropout(GPT2ForTokenClassification(config))

    def logits(self, texts: Texts) -> Tensor:
        """Return logits (B, T), 0 on padding; differentiable."""
        device = next(self.model.parameters()).device
        found = self.model(**{name: ids.to(device) for name, ids in whole_ids(texts).items()}).logits[..., 0]  # (B, L)
        columns = texts.is_prompt.sum(1, keepdim=True) + torch.arange(texts.tokens.shape[1])
        logits = found.gather(1, columns.clamp(max=found.shape[1] - 1).to(device))
        return torch.where(texts.is_token.to(device), at_least_float32(logits), 0.0)


class TokenAdapter(AdapterDiscriminator):
    """An adapter on the policy's base model and a linear head on the hidden state after each token."""

    def logits(self, texts: Texts) -> Tensor:
        """Return logits (B, T)."""
        return self.reader(texts)[:, 1:]


def make_token_discriminator(name: str, policy: LMPolicy, layout: TextLayout) -> Discriminator:
    """Return a new discriminator of tokens: "tiny" or "adapter".

    Raises:
        ValueError: another name.
    """
    if name == "adapter":
        return TokenAdapter(policy)
    if name != "tiny":
        raise ValueError(
            f"discriminator_level token needs the discriminator tiny or adapter, which read the policy's tokens, got"
            f" {name!r}; use discriminator_level text for a sequence classifier"
        )
    discriminator = TokenClassifier(layout)
    discriminator.model.to(policy.device)
    return discriminator
