"""A language model's head, applied to selected hidden states: log-probabilities without all logits in memory at once.

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

CHUNK = 2**24  # logits in memory at once; 64 MiB in float32

EntropyMode = Literal["none", "detached", "gradient"]  # not computed; computed without gradient, or with
Warp = Callable[[Tensor, Tensor], Tensor]  # logits (n, V), positions of their tokens (n,) -> logits (n, V)


class Head:
    """The last layer of a language model: (…, D) -> (…, V)."""

    def __init__(self, layer: nn.Module, scale: float) -> None:
        self.layer, self.scale = layer, scale

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states."""
        return self.layer(hidden if self.scale == 1.0 else hidden * self.scale)  # type: ignore[no-any-return]


def find_head(backbone: Any) -> Head | None:
    """Return the head of a model, or None if its logits are more than a layer on the scaled last hidden state.

    Found by a probe: input and output of the last layer are compared bit by bit with the body's hidden state and the
    model's logits. T5 scales the state, Gemma caps the logits afterwards, BART adds to them.
    """
    model = backbone.model
    layer = model.get_output_embeddings()
    text = smallest_text(model)
    calls: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output.clone())))
    try:
        with torch.no_grad():
            logits = backbone.logits(text)
            hidden = backbone.hidden(text.without_last())
    finally:
        hook.remove()
    layer_input, layer_output = (part[:, -hidden.shape[1] :] for part in calls[-1])
    if not torch.equal(layer_output, logits):
        return None
    scales = (1.0, hidden.shape[-1] ** -0.5)
    return next((Head(layer, scale) for scale in scales if torch.equal(layer_input, hidden * scale)), None)


def smallest_text(model: Any) -> Texts:
    """Return a prompt and a completion of two tokens each, on the model's device, to find out about the model."""
    device = next(model.parameters()).device
    ids = torch.arange(2, device=device).unsqueeze(0).clamp(max=model.get_output_embeddings().weight.shape[0] - 1)
    return Texts(ids, torch.ones_like(ids, dtype=torch.bool), ids, torch.ones_like(ids, dtype=torch.bool))


def score_states(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    tokens: Tensor,
    positions: Tensor,
    warp: Warp | None,
    *,
    vocab_size: int,
    entropies: EntropyMode = "none",
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and entropies of tokens, in chunks whose logits the backward pass recomputes.

    Args:
        head:       (n, D) -> (n, V).
        states:     (N, D) the state before each token.
        tokens:     (N,)
        positions:  (N,) the index of each token in its text, for `warp`.
        warp:       from logits to those of the distribution that is sampled; None: unchanged.
        vocab_size: V.
        entropies:  whether they are computed, and with or without gradient.

    Returns:
        log-probabilities and entropies, both (N,) in nats; entropies are 0 if not computed.
    """

    def score(states: Tensor, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(states) if warp is None else warp(head(states), positions)  # (n, V)
        logprobs = logprobs_of(logits, tokens)
        if entropies == "none":
            return logprobs, torch.zeros_like(logprobs)
        return logprobs, entropy(logits if entropies == "gradient" else logits.detach())

    size = max(1, CHUNK // vocab_size)
    if len(tokens) <= size:
        return score(states, tokens, positions)
    chunks = zip(states.split(size), tokens.split(size), positions.split(size), strict=True)
    if torch.is_grad_enabled():
        parts = [checkpoint(score, *chunk, use_reentrant=False) for chunk in chunks]
    else:
        parts = [score(*chunk) for chunk in chunks]
    logprobs, entropies_found = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropies_found)
