import math

import pytest
import torch
from tabular import IS_TOKEN, REWARDS, N, logprobs, table
from tabular import text_logprobs as exact_text_logprobs

from tril_gym.functional.pair_losses import (
    dpo_loss,
    hinge_loss,
    ipo_loss,
    p3o_loss,
    pairs_in_groups,
    rebel_loss,
    text_logprobs,
)

MARGINS = torch.tensor([0.5, -1.0, 3.0], dtype=torch.float64)
GAPS = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def slopes(loss, of):
    return torch.autograd.grad(loss, of)[0]


def test_text_logprobs_sum_and_count_eos(garbage):
    # The second text is EOS alone, whose id may be that of padding: masks are from lengths.
    values = torch.tensor([[-1.0, -2.0, garbage], [-4.0, garbage, garbage]])
    learn = torch.tensor([[True, True, False], [True, False, False]])
    assert text_logprobs(values, learn).tolist() == [-3.0, -4.0]
    assert text_logprobs(values, learn, per_token=True).tolist() == [-1.5, -4.0]


def test_pairs_are_within_groups():
    assert pairs_in_groups(torch.tensor([7, 3, 7, 3, 7])).tolist() == [[0, 2], [0, 4], [1, 3], [2, 4]]
    assert pairs_in_groups(torch.arange(3)).shape == (0, 2)


def test_losses_by_hand():
    sigma = [1 / (1 + math.exp(-0.1 * m)) for m in (0.5, -1.0, 3.0)]
    assert dpo_loss(MARGINS, beta=0.1).item() == pytest.approx(-sum(map(math.log, sigma)) / 3)
    noisy = -sum(0.9 * math.log(s) + 0.1 * math.log(1 - s) for s in sigma) / 3
    assert dpo_loss(MARGINS, beta=0.1, label_smoothing=0.1).item() == pytest.approx(noisy)
    assert ipo_loss(MARGINS, beta=0.25).item() == pytest.approx((1.5**2 + 3**2 + 1**2) / 3)
    assert hinge_loss(MARGINS, gamma=0.5).item() == pytest.approx((0.75 + 1.5 + 0) / 3)
    assert rebel_loss(MARGINS, GAPS, eta=2.0).item() == pytest.approx((1.5**2 + 3**2 + 2**2) / 3)


def test_parts_of_a_batch_add_up():
    for loss in (
        lambda rows, count: dpo_loss(MARGINS[rows], beta=0.1, count=count),
        lambda rows, count: rebel_loss(MARGINS[rows], GAPS[rows], eta=1.0, count=count),
        lambda rows, count: p3o_loss(
            MARGINS[rows], -MARGINS[rows], GAPS[rows], clip_range=0.2, clip="separate", count=count
        ),
    ):
        parts = loss(slice(1), 3) + loss(slice(1, 3), 3)
        assert parts.item() == pytest.approx(loss(slice(3), 3).item())
        assert loss(slice(1), None) + loss(slice(1, 3), None) != pytest.approx(loss(slice(3), None).item())


class TestDPO:
    def test_value_at_the_reference_and_when_swapped(self):
        assert dpo_loss(torch.zeros(4), beta=0.3).item() == pytest.approx(math.log(2))
        h = 0.3 * MARGINS
        difference = dpo_loss(-MARGINS, beta=0.3) - dpo_loss(MARGINS, beta=0.3)
        assert difference.item() == pytest.approx(h.mean().item())  # −log σ(−h) + log σ(h) = h

    @pytest.mark.parametrize("beta", [0.1, 1.0])
    def test_gradient_is_that_of_the_paper(self, beta):
        policy, reference = table(), table(1)
        won, lost = 1, 4
        text = exact_text_logprobs(policy)
        shift = (text - exact_text_logprobs(reference)).detach()
        moved = text_logprobs(torch.where(IS_TOKEN, logprobs(policy) - logprobs(reference), 0.0), IS_TOKEN)
        found = slopes(dpo_loss((moved[won] - moved[lost]).view(1), beta=beta), policy)
        # −β σ(−h) (∇Λ_w − ∇Λ_l)
        weight = -beta * torch.sigmoid(-beta * (shift[won] - shift[lost]))
        assert torch.allclose(found, weight * slopes(text[won] - text[lost], policy), atol=1e-15)

    def test_small_beta_has_the_limit_of_half_the_difference(self):
        margins = MARGINS.clone().requires_grad_()
        assert torch.allclose(
            slopes(dpo_loss(margins, beta=1e-8, count=1), margins) / 1e-8, torch.tensor(-0.5).double()
        )

    def test_shared_beginning_has_no_gradient(self):
        policy, rows = table(), [2, 3]  # (1, 1) and (1, 2) begin with the same token
        text = text_logprobs(logprobs(policy), IS_TOKEN)
        gradient = slopes(dpo_loss((text[rows[0]] - text[rows[1]]).view(1), beta=0.5), policy)
        assert gradient[0].abs().max() < 1e-15  # the first state's row
        assert gradient[1].abs().max() > 1e-2

    @pytest.mark.parametrize(("off", "is_stationary"), [(0.0, True), (0.1, False)])
    def test_population_loss_is_stationary_at_the_tilted_reference(self, off, is_stationary):
        """All 16² texts of two tokens, preferences of Bradley and Terry: the optimum is π_ref e^{r/β} / Z."""
        generator, beta, n = torch.Generator().manual_seed(0), 0.4, 256
        reward, ref = (torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(2))
        ref = ref.log_softmax(0)
        logits = (ref + (1 + off) * reward / beta).requires_grad_()
        moved = logits.log_softmax(0) - ref
        margins = moved.unsqueeze(1) - moved  # (n, n): of i over j
        flat = margins.detach().reshape(-1).requires_grad_()
        slope = slopes(dpo_loss(flat, beta=beta, count=1), flat).view(n, n)
        wins = torch.sigmoid(reward.unsqueeze(1) - reward)  # i is preferred to j
        weights = (ref.unsqueeze(1) + ref).exp() * wins
        gradient = float(slopes((margins * weights * slope).sum(), logits).abs().max())
        assert (gradient < 1e-15) is is_stationary
        assert is_stationary or gradient > 5e-5


class TestREBEL:
    def test_loss_is_zero_at_the_exact_mirror_step(self):
        eta, old = 0.7, table()
        pairs = torch.combinations(torch.arange(N))
        before = exact_text_logprobs(old).detach()
        tilted = (before + eta * REWARDS).log_softmax(0)  # π_t e^{ηr} / Z over texts
        moved = tilted - before
        gaps = REWARDS[pairs[:, 0]] - REWARDS[pairs[:, 1]]
        assert rebel_loss(moved[pairs[:, 0]] - moved[pairs[:, 1]], gaps, eta=eta) < 1e-28
        assert rebel_loss(moved[pairs[:, 0]] - moved[pairs[:, 1]], gaps, eta=eta * 1.1) > 1e-3

    def test_iterated_steps_are_one_longer_step(self):
        before = exact_text_logprobs(table()).detach()
        after = before
        for _ in range(3):
            after = (after + 0.7 * REWARDS).log_softmax(0)
        moved = after - before
        gaps = REWARDS.unsqueeze(1) - REWARDS
        assert rebel_loss((moved.unsqueeze(1) - moved).flatten(), gaps.flatten(), eta=2.1) < 1e-28

    def test_with_labels_it_is_ipo(self):
        ones = torch.ones_like(MARGINS)  # r − r' of labels ±1/2
        assert rebel_loss(MARGINS, ones, eta=1 / (2 * 0.25)).equal(ipo_loss(MARGINS, beta=0.25))


@pytest.mark.parametrize("clip", ["separate", "joint"])
class TestP3O:
    def loss(self, first, second, gaps, clip):
        return p3o_loss(first, second, gaps, clip_range=0.2, clip=clip, count=1)

    def test_exchanging_the_texts_changes_nothing(self, clip):
        first, second = MARGINS, MARGINS.flip(0)
        swapped = self.loss(second, first, -GAPS, clip)
        assert self.loss(first, second, GAPS, clip).item() == pytest.approx(swapped.item())
        assert self.loss(second, first, GAPS, clip).item() != pytest.approx(swapped.item())

    def test_first_gradient_is_the_unclipped_one(self, clip):
        first, second = (torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
        gradients = torch.autograd.grad(self.loss(first, second, GAPS, clip), (first, second))
        assert torch.allclose(gradients[0], -GAPS / 2)
        assert torch.allclose(gradients[1], GAPS / 2)

    def test_texts_far_beyond_the_clip_stay_finite(self, clip):
        far = torch.tensor([400.0, -1000.0, 800.0], dtype=torch.float64, requires_grad=True)
        loss = self.loss(far, -far, GAPS, clip)
        assert torch.isfinite(loss)
        assert torch.isfinite(slopes(loss, far)).all()

    def test_equal_rewards_have_no_gradient(self, clip):
        first = MARGINS.clone().requires_grad_()
        assert slopes(self.loss(first, MARGINS, torch.zeros_like(GAPS), clip), first).count_nonzero() == 0


def test_p3o_clips_by_hand():
    # D = (log 1.5, log .9), gap 1. Apart: y₁ has min(.9 · 1.5, .9 · 1.2) = 1.08, y₂ min(−1.5 · .9, −1.5 · .9) = −1.35.
    first, second, gap = (torch.tensor([x], dtype=torch.float64) for x in (math.log(1.5), math.log(0.9), 1.0))
    apart = p3o_loss(first, second, gap, clip_range=0.2, clip="separate", count=1)
    assert apart.item() == pytest.approx(-0.5 * (1.08 - 1.35))
    # Jointly: weight 1.35, d = log(1.5/.9) = .511, clipped to .2.
    joint = p3o_loss(first, second, gap, clip_range=0.2, clip="joint", count=1)
    assert joint.item() == pytest.approx(-0.5 * 1.35 * 0.2)
