"""The distribution of the next token: one for sampling and for scoring.

Logits go through the same steps wherever they are used: EOS excluded while the text is too short, temperature, and in
sampling top-k and top-p, which scoring leaves out. The results are logits again, −inf on excluded tokens; `sample`,
`logprobs_of` and `entropy` use their softmax.

B texts, V words in the vocabulary; "…" any shape in front. Half-precision logits are converted to float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

EXCLUDED = float("-inf")
BLOCK = 64  # tokens of the vocabulary whose probabilities are summed together in sampling


def at_least_float32(logits: Tensor) -> Tensor:
    """Convert half precision to float32; leave other precisions."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def exclude_eos(logits: Tensor, positions: Tensor, *, eos_token_ids: Sequence[int], min_new_tokens: int) -> Tensor:
    """Exclude EOS while the text is too short: (…, V), (…) -> (…, V).

    Args:
        logits:         (…, V)
        positions:      (…) the number of tokens already written, so the index of the token that the logits predict.
        eos_token_ids:  the tokens that end a text.
        min_new_tokens: minimum number of tokens before EOS.
    """
    assert positions.shape == logits.shape[:-1], (positions.shape, logits.shape)
    if min_new_tokens == 0 or not eos_token_ids:
        return logits
    ids = torch.tensor(list(eos_token_ids)).to(logits.device, non_blocking=True)  # a step must not wait for the device
    too_short = (positions < min_new_tokens).unsqueeze(-1)  # (…, 1)
    # Only the columns of EOS are changed.
    return logits.index_copy(-1, ids, logits.index_select(-1, ids).masked_fill(too_short, EXCLUDED))


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Exclude all but the k most probable tokens; ties with the k-th are kept."""
    threshold = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]  # (…, 1)
    return logits.masked_fill(logits < threshold, EXCLUDED)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Exclude all but the nucleus: the smallest set of tokens whose probability reaches p, at least one.

    Ties are ordered by id. Holtzman et al. 2020: https://arxiv.org/abs/1904.09751
    """
    descending, order = logits.sort(descending=True, stable=True)
    mass = descending.softmax(-1).cumsum(-1)
    mass_before = mass.roll(1, dims=-1)
    mass_before[..., 0] = 0.0  # the first token is always kept
    keep = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, mass_before < top_p)
    return torch.where(keep, logits, EXCLUDED)


def warp(logits: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Apply temperature, top-k, then top-p, as transformers orders them: (…, V) -> (…, V), −inf on excluded tokens."""
    logits = at_least_float32(logits)
    if temperature != 1.0:
        logits = logits / temperature
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None and top_p < 1.0:  # at 1 the set is everything, but rounding might say otherwise
        logits = keep_top_p(logits, top_p)
    return logits


def keep_best(logits: Tensor) -> Tensor:
    """Exclude all but the most probable token; of ties, the one with the lowest id is kept."""
    best = logits.argmax(-1, keepdim=True)
    ids = torch.arange(logits.shape[-1], device=logits.device)
    return torch.where(ids == best, logits, EXCLUDED)


def sample(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row by inverse CDF: (B, V), (B,) in [0, 1] -> (B,) int64, and its log-probabilities in nats.

    The first token whose cumulative probability exceeds the uniform. There is one uniform per text and token, drawn
    beforehand, so rows that leave the batch do not change the randomness of others.

    A token of probability 0 is never drawn, also for a uniform of exactly 0 or 1. Probabilities are summed in float64:
    a float32 sum moves in steps of 6e-8 near 1, and most of the tokens that are less probable than that could never be
    drawn. What remains is the softmax's own limit: float32 probabilities under 1e-45 are 0.

    A row with NaN in it, or with every token excluded, has no distribution: its token is 0, its log-probability NaN.
    (To refuse it here would make every step wait for the device.)
    """
    assert uniforms.shape == logits.shape[:1], (uniforms.shape, logits.shape)
    probabilities = at_least_float32(logits).softmax(-1)  # (B, V)
    spare = -probabilities.shape[1] % BLOCK
    blocks = pad(probabilities, (0, spare)).unflatten(1, (-1, BLOCK))  # (B, V / BLOCK, BLOCK)
    # First which block, then which token in it: so little has to be summed up, and in float64.
    masses = blocks.sum(-1, dtype=torch.float64)
    mass_before, targets = masses.cumsum(-1) - masses, uniforms * masses.sum(-1)
    block = _first_above(masses, targets)  # (B,)
    inside = blocks.gather(1, block.view(-1, 1, 1).expand(-1, 1, BLOCK)).squeeze(1).double()  # (B, BLOCK)
    left = (targets - _at(mass_before, block)).clamp_(min=0.0)
    tokens = block * BLOCK + _first_above(inside, left)
    return tokens, _at(probabilities, tokens).log()


def _at(values: Tensor, columns: Tensor) -> Tensor:
    """Return one value of each row: (B, n), (B,) column indices -> (B,)."""
    return values.gather(1, columns.unsqueeze(1)).squeeze(1)


def _first_above(masses: Tensor, targets: Tensor) -> Tensor:
    """Return the first column whose cumulative mass exceeds the target, else the last with mass: (B, n), (B,) -> (B,).

    Never a column without mass. Targets are not negative.
    """
    # A parallel sum may differ by rounding between neighbours, even where the mass between them is 0: filled.
    cumulative = masses.cumsum(-1).masked_fill_(masses == 0, 0.0)
    total = cumulative.amax(-1)
    targets = torch.minimum(targets, torch.nextafter(total, torch.zeros_like(total)))
    return (cumulative > targets.unsqueeze(-1)).view(torch.uint8).argmax(-1)  # the first 1


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probability of each token, in nats: (…, V), (…) -> (…), −inf where it was excluded."""
    assert tokens.shape == logits.shape[:-1], (tokens.shape, logits.shape)
    logits = at_least_float32(logits)
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy in nats: (…, V) -> (…). Excluded tokens add 0 to it and to its gradient."""
    logits = at_least_float32(logits)
    if not logits.requires_grad:
        return torch.special.entr(logits.softmax(-1)).sum(-1)  # −p log p, 0 at p = 0
    logprobs = logits.log_softmax(-1)
    # 0 · −inf is NaN; filled before the product, so that the gradient has no NaN either.
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == EXCLUDED, 0.0)).sum(-1)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an actor turns logits into the distribution that it samples from."""

    temperature: float = 1.0
    top_k: int | None = None  # tokens
    top_p: float | None = None  # probability
    greedy: bool = False  # always the most probable token

    def __post_init__(self) -> None:
        for name, value in (("temperature", self.temperature), ("top_p", self.top_p)):
            if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
                raise ValueError(f"{name} must be a number, got {value!r}")
        if not 0.0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be above 0 and finite, got {self.temperature}; for 0 use greedy=True")
        if self.top_k is not None and (not isinstance(self.top_k, int) or self.top_k < 1):
            raise ValueError(f"top_k must be a whole number of at least 1, got {self.top_k!r}; None keeps all tokens")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}; None or 1.0 keeps all tokens, 0.92 is usual")
        if self.greedy and (self.temperature, self.top_k, self.top_p) != (1.0, None, None):
            raise ValueError(
                f"greedy=True takes the most probable token, so temperature={self.temperature}, top_k={self.top_k} and "
                f"top_p={self.top_p} would have no effect; leave them out, or greedy"
            )

    def __str__(self) -> str:
        if self.greedy:
            return "greedy"
        shown = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return ", ".join(f"{name} {value:g}" for name, value in shown.items() if value is not None)

    @property
    def scored(self) -> Decoding:
        """The decoding whose log-probabilities count: without top-k and top-p, which only decide what is drawn."""
        return self if self.greedy else replace(self, top_k=None, top_p=None)

    @property
    def truncates(self) -> bool:
        """Whether tokens with a probability under the model may be excluded."""
        return self.greedy or self.top_k is not None or (self.top_p is not None and self.top_p < 1.0)

    def apply(self, logits: Tensor, positions: Tensor, *, eos_token_ids: Sequence[int], min_new_tokens: int) -> Tensor:
        """Return the logits of the distribution that is sampled: (…, V), (…) -> (…, V), −inf on excluded tokens.

        EOS is excluded first: after top-k or top-p no token might be left.
        """
        logits = exclude_eos(logits, positions, eos_token_ids=eos_token_ids, min_new_tokens=min_new_tokens)
        if self.greedy:
            return keep_best(at_least_float32(logits))
        return warp(logits, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
