"""Statistical rejection sampling: from texts of a proposal to texts of a policy tilted by their rewards."""

import torch
from torch import Tensor

from tril_gym.functional.group_advantages import are_tied


def accept(rewards: Tensor, draws: Tensor, *, beta: float, want: int) -> Tensor:
    """Return the rows of accepted candidates, in the order of acceptance: (m,) int64, m at most `want`.

    In rounds over those not accepted yet, each is accepted with probability exp((r − r_max)/β), r_max the largest
    reward among them. So a round accepts at least one. Of many candidates, those accepted in the first round follow
    π_ref e^{r/β} / Z; a constant added to all rewards changes nothing.

    Liu et al. 2024 (RSO), algorithm 1: https://arxiv.org/abs/2309.06657

    Args:
        rewards: (N,) of the candidates of one prompt.
        draws:   (n, N) uniforms in [0, 1), one per round and candidate; `want` rounds are enough.
        beta:    β, reward per nat; large accepts all, small only the best.
        want:    number of candidates to accept.
    """
    assert draws.shape[1:] == rewards.shape, (draws.shape, rewards.shape)
    remaining, accepted = torch.arange(len(rewards)), torch.zeros(0, dtype=torch.int64)
    for row in draws:
        if len(accepted) >= want or not len(remaining):
            break
        left = rewards[remaining]
        passes = row[remaining] < ((left - left.max()) / beta).exp()
        accepted, remaining = torch.cat([accepted, remaining[passes]]), remaining[~passes]
    return accepted[:want]


def best_of(rewards: Tensor, count: int = 1) -> Tensor:
    """Return the rows of the best candidates, ties in their order: (N,) -> (count,) int64."""
    return rewards.argsort(descending=True, stable=True)[:count]


def first_round_pairs(accepted: Tensor, rewards: Tensor) -> Tensor:
    """Return neighbours among the accepted as pairs, the better one first; no ties: (m,), (N,) -> (n, 2) int64."""
    ordered, differ = _matches(accepted, rewards)
    return ordered[differ]


def tournament_pairs(accepted: Tensor, rewards: Tensor) -> Tensor:
    """Return the matches of a tournament among the accepted, the better one first; no ties: (m,), (N,) -> (n, 2) int64.

    In each round neighbours are paired, and the better text of each pair enters the next round, until one is left; the
    last of an odd number enters it unpaired. There are m − 1 pairs.

    Liu et al. 2024 (RSO), section 3.2: https://arxiv.org/abs/2309.06657
    """
    left, pairs = accepted, [accepted.new_zeros((0, 2))]
    while len(left) > 1:
        ordered, differ = _matches(left, rewards)
        pairs.append(ordered[differ])
        left = torch.cat([ordered[:, 0], left[2 * len(ordered) :]])
    return torch.cat(pairs)


def _matches(rows: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Return neighbours, the better one first, and whether their rewards differ: (m,) -> (m // 2, 2), (m // 2,)."""
    pairs = rows[: len(rows) // 2 * 2].view(-1, 2)
    left, right = rewards[pairs].unbind(1)
    return torch.where((left >= right).unsqueeze(1), pairs, pairs.flip(1)), ~are_tied(left, right)
