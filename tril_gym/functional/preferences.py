"""The likelihood of preferences between two completions of a prompt.

B pairs of a batch.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def preference_loss(chosen: Tensor, rejected: Tensor, *, center_coef: float = 0.0) -> Tensor:
    """Return the negative log-likelihood of the preferences: their mean, in nats.

        L = mean −log σ(r(x, y) − r(x, z)) + c · (r(x, y) + r(x, z))²

    Stiennon et al. 2020, section 3.3: https://arxiv.org/abs/2009.01325. The first term leaves the rewards of a prompt
    undetermined up to a constant, which the second one settles (Eisenstein et al. 2023:
    https://arxiv.org/abs/2312.09244).

    Args:
        chosen: (B,) rewards r(x, y) of the preferred completions.
        rejected: (B,) rewards r(x, z) of the others.
        center_coef: c; 0 leaves the term out.
    """
    assert chosen.shape == rejected.shape, (chosen.shape, rejected.shape)
    loss = -functional.logsigmoid(chosen - rejected)  # (B,)
    return (loss + center_coef * (chosen + rejected).square()).mean()
