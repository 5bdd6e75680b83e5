import math

import pytest
import torch

from tril_gym.functional.losses import policy_loss
from tril_gym.functional.policy_losses import (
    apa_loss,
    awr_loss,
    cispo_loss,
    gspo_loss,
    length_weights,
    reference_kl_loss,
    text_clip_fraction,
)

LEARN = torch.tensor([[True, True, True], [True, False, False]])
RATIOS = torch.tensor([[1.25, 1.5, 0.5], [0.9, 1.0, 1.0]], dtype=torch.float64)
ADVANTAGES = torch.tensor([[1.0, 1.0, 1.0], [-2.0, 0.0, 0.0]], dtype=torch.float64)


def inputs():
    logprobs = (RATIOS.log() - 1.0).requires_grad_()
    return logprobs, torch.full_like(RATIOS, -1.0)


def per_token(loss, of):
    """Return the loss's gradient where it is wanted."""
    return torch.autograd.grad(loss, of)[0]


def test_higher_clip_by_hand():
    logprobs, old = inputs()
    # ε .2, ε_high .28: gains min(1.25, 1.25), min(1.5, 1.28), min(.5, .8), and for A = −2 min(−1.8, −1.8).
    loss = policy_loss(logprobs, old, ADVANTAGES, LEARN, clip_range=0.2, clip_range_high=0.28)
    assert loss.item() == pytest.approx(-(1.25 + 1.28 + 0.5 - 1.8) / 4)
    # The control: without a clip of its own above, 1.5 is clipped at 1.2.
    own = policy_loss(logprobs, old, ADVANTAGES, LEARN, clip_range=0.2)
    assert own.item() == pytest.approx(-(1.2 + 1.2 + 0.5 - 1.8) / 4)


@pytest.mark.parametrize(
    ("norm", "count", "expected"),
    [
        ("token", 4, (1 + 1 + 1 - 2) / 4),
        ("text", 2, (1 - 2) / 2),
        ("constant", 2, (3 / 3 - 2 / 3) / 2),
        ("sum", 2, (3 - 2) / 2),
    ],
)
def test_length_norms_by_hand(norm, count, expected):
    logprobs = torch.full((2, 3), -1.0, dtype=torch.float64)
    weights = length_weights(LEARN, norm, max_length=3)
    loss = policy_loss(logprobs, logprobs, ADVANTAGES, LEARN, clip_range=0.2, weights=weights, count=count)
    assert loss.item() == pytest.approx(-expected)


def test_unknown_length_norm_is_refused():
    with pytest.raises(ValueError, match=r"length_norm must be one of token, text, constant, sum, got 'mean'"):
        length_weights(LEARN, "mean", max_length=3)


def test_gspo_clips_whole_texts_by_hand():
    logprobs, old = inputs()
    # First text: s = (1.25 · 1.5 · .5)^(1/3) = .9375^(1/3) = .9787; second s = .9, A = −2: min(−1.8, −2 · .95) = −1.9.
    s = 0.9375 ** (1 / 3)
    loss = gspo_loss(logprobs, old, ADVANTAGES, LEARN, clip_range=0.05)
    assert loss.item() == pytest.approx(-(s - 1.9) / 2)
    # Every token of a text has the same share of its gradient, whatever its own ratio is.
    gradient = per_token(loss, logprobs)
    assert gradient[0].tolist() == pytest.approx([-s / 3 / 2] * 3)
    assert gradient[1].tolist() == [0.0, 0.0, 0.0]  # clipped


def test_cispo_clips_the_weight_not_the_gradient():
    logprobs, old = inputs()
    # −sg[min(ρ, 1.3)] A / 4: the token of ρ = 1.5 keeps a gradient, that of 1.3; under PPO's clip it has none.
    gradient = per_token(cispo_loss(logprobs, old, ADVANTAGES, LEARN, clip_range_high=0.3), logprobs)
    assert gradient[LEARN].tolist() == pytest.approx([-1.25 / 4, -1.3 / 4, -0.5 / 4, 1.8 / 4])
    control = per_token(policy_loss(logprobs, old, ADVANTAGES, LEARN, clip_range=0.3), logprobs)
    assert control[0, 1] == 0.0


def test_apa_and_awr_by_hand():
    logprobs, old = inputs()
    # λ = 2: (log ρ − A/2)² averaged over the four tokens.
    by_hand = [(math.log(r) - 0.5) ** 2 for r in (1.25, 1.5, 0.5)] + [(math.log(0.9) + 1) ** 2]
    assert apa_loss(logprobs, old, ADVANTAGES, LEARN, temperature=2.0).item() == pytest.approx(sum(by_hand) / 4)
    by_hand = [-math.exp(0.5) * (math.log(r) - 1) for r in (1.25, 1.5, 0.5)] + [-math.exp(-1) * (math.log(0.9) - 1)]
    assert awr_loss(logprobs, ADVANTAGES, LEARN, temperature=2.0).item() == pytest.approx(sum(by_hand) / 4)


def test_apa_minimum_needs_weights_that_sum_to_one():
    """With A of mean e^{A/λ} = 1 the normalised target is stationary; else it is not: the bias that the docs state."""
    anchor = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)

    def slope(advantages):
        target = (anchor.log() + advantages).log_softmax(-1).requires_grad_()
        policy = target.log_softmax(-1)
        return per_token(apa_loss(policy, anchor.log(), advantages, anchor > 0, temperature=1.0), target).abs().max()

    advantages = torch.tensor([[1.0, -0.5, 0.3]], dtype=torch.float64)
    centred = advantages - (anchor * advantages.exp()).sum().log()
    assert slope(centred) < 1e-12
    assert slope(advantages) > 1e-2


def test_kl_in_the_loss_by_hand():
    logprobs, ref = inputs()
    # π_ref/π − 1 − log π_ref/π, with π_ref/π the inverse ratio.
    by_hand = [1 / r - 1 + math.log(r) for r in (1.25, 1.5, 0.5, 0.9)]
    loss = reference_kl_loss(logprobs, ref, LEARN)
    assert loss.item() == pytest.approx(sum(by_hand) / 4)
    assert per_token(loss, logprobs)[LEARN].tolist() == pytest.approx([(1 - 1 / r) / 4 for r in (1.25, 1.5, 0.5, 0.9)])


LOSSES = {
    "clip": lambda p, o, a, m: policy_loss(p, o, a, m, clip_range=0.2, clip_range_high=0.3),
    "gspo": lambda p, o, a, m: gspo_loss(p, o, a, m, clip_range=0.2),
    "cispo": lambda p, o, a, m: cispo_loss(p, o, a, m, clip_range_high=0.2),
    "apa": lambda p, o, a, m: apa_loss(p, o, a, m, temperature=0.5),
    "awr": lambda p, o, a, m: awr_loss(p, a, m, temperature=0.5),
    "kl": lambda p, o, a, m: reference_kl_loss(p, o, m),
}


@pytest.mark.parametrize("name", LOSSES)
def test_padding_is_never_read(name, pad):
    logprobs, old = (tensor.detach() for tensor in inputs())
    padded = pad(logprobs).requires_grad_()
    loss = LOSSES[name](padded, pad(old), pad(ADVANTAGES), pad(LEARN))
    own = logprobs.clone().requires_grad_()
    plain = LOSSES[name](own, old, ADVANTAGES, LEARN)
    assert loss.item() == pytest.approx(plain.item(), abs=1e-12)
    gradient = per_token(loss, padded)
    assert torch.allclose(gradient[:, :3], per_token(plain, own), atol=1e-12)
    assert gradient[:, 3:].count_nonzero() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_no_tokens_no_loss(name):
    logprobs, old = inputs()
    loss = LOSSES[name](logprobs, old, ADVANTAGES, torch.zeros_like(LEARN))
    assert loss.item() == 0.0
    assert per_token(loss, logprobs).count_nonzero() == 0


def test_share_of_clipped_texts_by_hand():
    # Geometric means of the ratios: (1.25 · 1.5 · .5)^(1/3) = .979, and .9.
    assert text_clip_fraction(*inputs(), LEARN, clip_range=0.05, clip_range_high=0.01) == 0.5
    assert text_clip_fraction(*inputs(), LEARN, clip_range=0.01, clip_range_high=0.05) == 1.0
    assert text_clip_fraction(*inputs(), LEARN, clip_range=math.inf, clip_range_high=0.0) == 0.0
