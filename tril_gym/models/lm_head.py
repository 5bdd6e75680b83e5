"""A language model's head on chosen states: what it says of tokens, without all their logits in memory at once.

N states, each before one token; D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tril_gym.functional.sampling import entropy, logprobs_of
from tril_gym.models.texts import Texts

CHUNK = 2**24  # logits that stand in memory at once; 64 MiB in float32

Entropies = Literal["none", "numbers", "gradient"]  # not computed, as plain numbers, to learn from
Warp = Callable[[Tensor, Tensor], Tensor]  # logits (n, V) and the states that they belong to (n,) -> logits


class Head:
    """The last layer of a language model: (…, D) -> (…, V)."""

    def __init__(self, layer: nn.Module, scale: float) -> None:
        self.layer, self.scale = layer, scale

    def __call__(self, hidden: Tensor) -> Tensor:
        """The logits of hidden states."""
        return self.layer(hidden if self.scale == 1.0 else hidden * self.scale)  # type: ignore[no-any-return]


def find_head(model: Any, backbone: Any) -> Head | None:
    """The head of a model, or None where its logits are more than a layer on the scaled last hidden state.

    Found by reading one text with the model: what its last layer was given and gave is compared with the body's hidden
    state and the model's logits, bit by bit. T5 scales, Gemma bends the logits afterwards, BART adds to them.
    """
    layer = model.get_output_embeddings()
    device = next(model.parameters()).device
    ids = torch.arange(2, device=device).unsqueeze(0).clamp(max=layer.weight.shape[0] - 1)
    text = Texts(ids, torch.ones_like(ids, dtype=torch.bool), ids, torch.ones_like(ids, dtype=torch.bool))
    seen: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _, given, gave: seen.append((given[0], gave.clone())))
    try:
        with torch.no_grad():
            logits = backbone.logits(model, text)
            hidden = backbone.hidden(model, text.without_last())
    finally:
        hook.remove()
    given, gave = (part[:, -hidden.shape[1] :] for part in seen[-1])
    if not torch.equal(gave, logits):
        return None
    scales = (1.0, hidden.shape[-1] ** -0.5)
    return next((Head(layer, scale) for scale in scales if torch.equal(given, hidden * scale)), None)


def score_states(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    tokens: Tensor,
    warp: Warp,
    *,
    vocab_size: int,
    entropies: Entropies = "none",
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of tokens, in chunks whose logits are made again for the backward pass.

    Args:
        head:       (n, D) -> (n, V).
        states:     (N, D) the state before each token.
        tokens:     (N,)
        warp:       from logits to those of the distribution that is written from.
        vocab_size: V.
        entropies:  none of them, as numbers, or with a gradient.

    Returns:
        log-probabilities and entropies, both (N,) in nats; entropies that were not asked for are 0.
    """

    def score(part: Tensor, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = warp(head(part), rows)  # (n, V)
        logprobs = logprobs_of(logits, ids)
        if entropies == "none":
            return logprobs, torch.zeros_like(logprobs)
        return logprobs, entropy(logits if entropies == "gradient" else logits.detach())

    rows, size = torch.arange(len(tokens), device=tokens.device), max(1, CHUNK // vocab_size)
    if len(tokens) <= size:
        return score(states, tokens, rows)
    chunks = zip(states.split(size), tokens.split(size), rows.split(size), strict=True)
    if torch.is_grad_enabled():
        parts = [checkpoint(score, *chunk, use_reentrant=False) for chunk in chunks]
    else:
        parts = [score(*chunk) for chunk in chunks]
    logprobs, found = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(found)
