"""A policy that is a table, in a world small enough to list every text: exact expectations, by enumeration.

Two words and EOS, at most two tokens: 7 texts. A state is what has been written; its row of the table are logits.
"""

from collections.abc import Callable

import torch
from torch import Tensor

WORDS, LENGTH = 3, 2  # token 0 is EOS
TEXTS = [[0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]]
TOKENS = torch.tensor([text + [0] * (LENGTH - len(text)) for text in TEXTS])
IS_TOKEN = torch.tensor([[t < len(text) for t in range(LENGTH)] for text in TEXTS])
STATES = torch.tensor([[0, text[0]] for text in TEXTS])  # row of the table before each token
N = len(TEXTS)
REWARDS = torch.tensor([0.3, 1.0, -0.5, 0.2, 0.8, 0.2, -1.0], dtype=torch.float64)


def table(seed: int = 0) -> Tensor:
    """Return random logits with gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(WORDS, WORDS, generator=generator, dtype=torch.float64).requires_grad_()


def logprobs(policy: Tensor) -> Tensor:
    """Return log π(token) of every text, (7, 2); garbage where there is no token."""
    every = policy.log_softmax(-1)[STATES, TOKENS]
    return torch.where(IS_TOKEN, every, float("nan"))


def text_logprobs(policy: Tensor) -> Tensor:
    """Return Λ of every text, (7,)."""
    return torch.where(IS_TOKEN, policy.log_softmax(-1)[STATES, TOKENS], 0.0).sum(1)


def policy_gradient(policy: Tensor, rewards: Tensor) -> Tensor:
    """Return the gradient of the expected reward."""
    return torch.autograd.grad((text_logprobs(policy).exp() * rewards).sum(), policy)[0]


def expected_gradient(policy: Tensor, loss: Callable[[Tensor], Tensor], *, texts: int) -> Tensor:
    """Return the expectation of a loss's gradient over batches of one text, or of a pair, that the policy wrote.

    Args:
        policy: the table.
        loss:   maps rows of a batch, (texts,) indices, to a scalar.
        texts:  1 or 2.
    """
    probabilities = text_logprobs(policy).detach().exp()
    total = torch.zeros_like(policy)
    for rows in torch.cartesian_prod(*[torch.arange(N)] * texts).view(-1, texts):
        (gradient,) = torch.autograd.grad(loss(rows), policy)
        total = total + probabilities[rows].prod() * gradient
    return total
