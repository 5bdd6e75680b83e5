import math

import pytest
import torch
from tabular import IS_TOKEN, REWARDS, logprobs, table, text_logprobs

from tril_gym.functional.divergences import divergence_loss, token_divergences
from tril_gym.functional.text_losses import a_lol_loss, a_star_loss, optimal_value, positive_advantages

VARIANTS = ("ratio", "ref_free", "token_ratio", "kl")


def gradient(variant, advantages, *, reference=None, **settings):
    """Return the gradient of the loss on all texts of the world."""
    policy = table()
    ref = logprobs(table(1) if reference is None else reference).detach()
    loss = a_lol_loss(logprobs(policy), ref, advantages, IS_TOKEN, variant=variant, **settings)
    return torch.autograd.grad(loss, policy)[0]


def of_texts(weights):
    """Return the gradient of the weighted mean log-probability."""
    policy = table()
    return torch.autograd.grad((weights * text_logprobs(policy)).mean(), policy)[0]


class TestALoL:
    def test_ref_free_is_weighted_likelihood(self):
        assert torch.allclose(gradient("ref_free", REWARDS), -of_texts(REWARDS), atol=1e-15)
        ones = torch.ones_like(REWARDS)  # V = 0 and R = 1: the negative log-likelihood
        assert torch.allclose(gradient("ref_free", ones), -of_texts(ones), atol=1e-15)

    def test_kl_variant_is_ref_free_with_less_advantage(self):
        assert torch.allclose(gradient("kl", REWARDS, kl_coef=0.4), gradient("ref_free", REWARDS - 0.4), atol=1e-15)
        assert not torch.allclose(gradient("kl", REWARDS, kl_coef=0.4), gradient("ref_free", REWARDS), atol=1e-3)

    def test_gradient_of_the_ratio_is_that_of_the_weighted_return(self):
        policy, ref = table(), text_logprobs(table(1)).detach()
        weighted = (-REWARDS * (text_logprobs(policy) - ref).exp()).mean()
        right = torch.autograd.grad(weighted, policy)[0]
        assert torch.allclose(gradient("ratio", REWARDS, clip_range=1e9), right, atol=1e-12)
        assert not torch.allclose(gradient("ratio", REWARDS, clip_range=0.1), right, atol=1e-3)  # control: clipped

    def test_token_ratios_differ_from_those_of_texts(self):
        assert not torch.allclose(gradient("token_ratio", REWARDS), gradient("ratio", REWARDS), atol=1e-3)
        same = table()
        assert torch.allclose(
            gradient("token_ratio", REWARDS, reference=same), gradient("ratio", REWARDS, reference=same), atol=1e-12
        )

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_equal_rewards_move_nothing(self, variant):
        advantages = torch.zeros_like(REWARDS)  # a constant R, less its mean
        assert gradient(variant, advantages).count_nonzero() == 0
        assert len(positive_advantages(advantages)) == 0

    def test_one_filter_for_all_variants(self):
        # In the published code one variant kept negative advantages.
        assert positive_advantages(REWARDS).tolist() == [0, 1, 3, 4, 5]

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_padding_is_never_read(self, variant, pad):
        policy = table()
        ref = logprobs(table(1)).detach()
        padded = a_lol_loss(pad(logprobs(policy)), pad(ref), REWARDS, pad(IS_TOKEN), variant=variant, kl_coef=0.1)
        assert torch.allclose(
            torch.autograd.grad(padded, policy)[0], gradient(variant, REWARDS, kl_coef=0.1), atol=1e-12
        )

    def test_unknown_variant_is_refused(self):
        with pytest.raises(ValueError, match="the variant must be one of ratio, ref_free"):
            gradient("seq", REWARDS)


class TestAStar:
    def test_value_by_hand_and_in_its_limits(self):
        rewards = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
        assert optimal_value(rewards, beta=1.0).item() == pytest.approx(math.log(2.0))  # log (1 + 3)/2
        assert optimal_value(rewards, beta=1e6).item() == pytest.approx(math.log(3.0) / 2, abs=1e-5)
        assert optimal_value(rewards, beta=1e-3).item() == pytest.approx(math.log(3.0), abs=1e-3)

    def test_loss_is_zero_at_the_tilted_reference(self):
        beta, ref = 0.3, text_logprobs(table()).detach()
        value = beta * (ref + REWARDS / beta).logsumexp(0)  # the exact V*, of every text of π_ref
        tilted = (ref + REWARDS / beta).log_softmax(0)
        assert a_star_loss(tilted - ref, REWARDS - value, beta=beta) < 1e-28
        assert a_star_loss(tilted - ref, REWARDS - value - 0.1, beta=beta) > 1e-3


class TestDivergences:
    q, p = torch.tensor([[0.5, 0.5, 0.0]]).double(), torch.tensor([[0.25, 0.75, 0.0]]).double()

    def test_by_hand(self):
        q, p = self.q.log(), self.p.log()
        forward = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
        reverse = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
        assert token_divergences(q, p, form="forward").item() == pytest.approx(forward)
        assert token_divergences(q, p, form="reverse").item() == pytest.approx(reverse)
        # M = (.375, .625)
        first = 0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625)
        second = 0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625)
        assert token_divergences(q, p, form="jsd").item() == pytest.approx((first + second) / 2)

    @pytest.mark.parametrize("form", ["forward", "reverse", "jsd"])
    def test_zero_with_zero_gradient_where_both_agree(self, form):
        logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        own = logits.clone().requires_grad_()
        loss = divergence_loss(own, logits + 1.0, torch.ones(2, 3, dtype=torch.bool), form=form)
        assert abs(loss.item()) < 1e-15
        assert torch.autograd.grad(loss, own)[0].abs().max() < 1e-15

    def test_reverse_kl_is_a_policy_gradient_of_the_log_ratio(self):
        policy, teacher = table(), table(1).detach()
        found = torch.autograd.grad(token_divergences(policy, teacher, form="reverse").sum(), policy)[0]
        own, other = policy.log_softmax(-1), teacher.log_softmax(-1)
        reward = (other - own).detach()
        right = torch.autograd.grad((own.exp() * reward).sum(), policy)[0]
        assert torch.allclose(found, -right, atol=1e-15)

    def test_unknown_form_is_refused(self):
        with pytest.raises(ValueError, match="the divergence must be one of forward, reverse, jsd, got 'kl'"):
            token_divergences(self.q, self.p, form="kl")
