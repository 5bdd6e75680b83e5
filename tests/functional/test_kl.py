import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from tril_gym.functional.kl import PIDKL, AdaptiveKL, FixedKL, ProportionalKL, kl_controller, kl_terms, nats_per_text

POLICY = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
KL = sum(p * math.log(p / q) for p, q in ((0.7, 0.1), (0.2, 0.3), (0.1, 0.6)))


def test_which_way_round_it_is():
    assert kl_divergence(Categorical(POLICY), Categorical(REFERENCE)).item() == pytest.approx(KL, rel=1e-12)
    assert kl_divergence(Categorical(REFERENCE), Categorical(POLICY)).item() != pytest.approx(KL, rel=0.05)


def test_estimators_by_hand():
    # l = log ½ − log ¼ = log 2: k1 = log 2, k2 = (log 2)² / 2, k3 = ½ − 1 + log 2.
    logprobs, ref_logprobs = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    expected = {"k1": math.log(2), "k2": math.log(2) ** 2 / 2, "k3": math.log(2) - 0.5}
    for estimator, value in expected.items():
        assert kl_terms(logprobs, ref_logprobs, estimator=estimator).item() == pytest.approx(value)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_unbiased_under_the_policys_own_tokens(estimator):
    terms = kl_terms(POLICY.log(), REFERENCE.log(), estimator=estimator)
    assert (POLICY * terms).sum().item() == pytest.approx(KL, rel=1e-12)
    # The control: with tokens of another distribution the estimate is biased.
    assert abs((REFERENCE * terms).sum().item() - KL) > 0.1
    # And with the two confused, another.
    swapped = kl_terms(REFERENCE.log(), POLICY.log(), estimator=estimator)
    assert abs((POLICY * swapped).sum().item() - KL) > 0.1


def test_k2_is_biased_but_right_for_small_moves():
    terms = kl_terms(POLICY.log(), REFERENCE.log(), estimator="k2")
    assert abs((POLICY * terms).sum().item() - KL) > 0.01
    near = POLICY + 1e-4 * torch.tensor([1.0, -1.0, 0.0])
    kl = (POLICY * (POLICY / near).log()).sum().item()
    assert (POLICY * kl_terms(POLICY.log(), near.log(), estimator="k2")).sum().item() == pytest.approx(kl, rel=1e-3)


def test_k2_and_k3_are_never_negative_and_k1_is():
    log_ratios = torch.linspace(-3, 3, 61)
    zeros = torch.zeros_like(log_ratios)
    assert (kl_terms(log_ratios, zeros, estimator="k2") >= 0).all()
    assert (kl_terms(log_ratios, zeros, estimator="k3") >= 0).all()
    assert (kl_terms(log_ratios, zeros, estimator="k1") < 0).any()


def test_nothing_moved_nothing_paid():
    logprobs = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    for estimator in ("k1", "k2", "k3"):
        assert (kl_terms(logprobs, logprobs, estimator=estimator) == 0).all()


def test_an_unknown_estimator_is_refused_by_name():
    with pytest.raises(ValueError, match=r"k1, k2, k3.*'k4'"):
        kl_terms(POLICY.log(), REFERENCE.log(), estimator="k4")


def test_nats_per_text_by_hand(garbage):
    # The policy wrote two tokens of the first text, one of the second, none of the third: (1 + 2) + (−.5) + 0 over 3.
    logprobs = torch.tensor([[-1.0, -1.0, garbage], [-2.0, garbage, garbage], [garbage] * 3])
    ref_logprobs = torch.tensor([[-2.0, -3.0, 0.0], [-1.5, garbage, garbage], [garbage, 0.0, 0.0]])
    wrote = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert nats_per_text(logprobs, ref_logprobs, wrote).item() == pytest.approx(2.5 / 3)
    assert nats_per_text(logprobs[:0], ref_logprobs[:0], wrote[:0]) == 0
    # The control: what the reference says of a token that the policy wrote does count.
    ref_logprobs[0, 0] += 0.3
    assert nats_per_text(logprobs, ref_logprobs, wrote).item() == pytest.approx(2.2 / 3)


def test_nats_per_text_average_to_the_kl_of_whole_texts():
    # Two tokens, drawn one after another from POLICY, all nine texts weighted by their probability: twice the KL.
    first, second = torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")
    tokens = torch.stack([first.flatten(), second.flatten()], dim=1)
    wrote = torch.ones(1, 2, dtype=torch.bool)
    total = sum(
        POLICY[text].prod() * nats_per_text(POLICY[text].log()[None], REFERENCE[text].log()[None], wrote)
        for text in tokens
    )
    assert total.item() == pytest.approx(2 * KL, rel=1e-12)


def test_fixed_stays():
    controller = FixedKL(0.3)
    controller.update(1e9, 64)
    assert controller.coef == 0.3


def test_adaptive_by_hand():
    # e = 6.6/6 − 1 = .1, half a horizon: × 1.05. Then e = −1 and e = 99 are clipped: × .9, × 1.1.
    controller = AdaptiveKL(1.0, target=6.0, horizon=100)
    controller.update(6.6, 50)
    assert controller.coef == pytest.approx(1.05)
    controller.update(0.0, 50)
    assert controller.coef == pytest.approx(1.05 * 0.9)
    controller.update(600.0, 50)
    assert controller.coef == pytest.approx(1.05 * 0.9 * 1.1)


@pytest.mark.parametrize(("kl", "factor"), [(7.2, 1.2), (7.3, 1.2), (60.0, 1.2), (4.8, 0.8), (1.0, 0.8), (6.3, 1.05)])
def test_adaptive_moves_by_a_fifth_at_most(kl, factor):
    # In a whole horizon: e = .2 and more are clipped alike, e = .05 is not.
    controller = AdaptiveKL(1.0, target=6.0, horizon=64)
    controller.update(kl, 64)
    assert controller.coef == pytest.approx(factor)


def test_adaptive_stops_at_0_in_an_iteration_longer_than_five_horizons():
    controller = AdaptiveKL(1.0, target=6.0, horizon=1)
    controller.update(0.0, 6)  # 1 − .2 · 6 is negative
    assert controller.coef == 0.0


def test_proportional_by_hand():
    # c = 1, K_p = .4: e = 1 → 1.4, e = −½ → 1.2, and e = −1 three times over, once more than there is: 0.
    controller = ProportionalKL(1.0, target=2.0, gain=0.4)
    for kl, coef in ((4.0, 1.4), (1.0, 1.2), (0.0, 0.8), (0.0, 0.4), (0.0, 0.0), (0.0, 0.0), (4.0, 0.4)):
        controller.update(kl, 8)
        assert controller.coef == pytest.approx(coef, abs=1e-12)


def test_pid_by_hand():
    # c_0 = 1, target 2, K = (.1, .01, .5).
    #   KL 4: e =  1, Σ = 1, Δ =   0 → 1 + .1 + .01           = 1.11
    #   KL 3: e = .5, Σ = 1.5, Δ = −.5 → 1 + .05 + .015 − .25 = .815
    #   KL 0: e = −1, Σ = .5, Δ = −1.5 → 1 − .1 + .005 − .75  = .155
    controller = PIDKL(1.0, target=2.0, gains=(0.1, 0.01, 0.5))
    for kl, coef in ((4.0, 1.11), (3.0, 0.815), (0.0, 0.155)):
        controller.update(kl, 8)
        assert controller.coef == pytest.approx(coef)


def test_pid_forgets_a_long_absence():
    controller = PIDKL(0.0, target=1.0, gains=(0.0, 1.0, 0.0), integral_limit=3.0)
    for _ in range(100):
        controller.update(2.0, 8)  # e = 1
    assert controller.coef == 3.0
    for _ in range(4):
        controller.update(0.0, 8)  # e = −1
    assert controller.coef == 0.0
    # The control: without the limit, a hundred iterations above the target are not undone by four below it.
    controller = PIDKL(0.0, target=1.0, gains=(0.0, 1.0, 0.0), integral_limit=1e9)
    for kl in [2.0] * 100 + [0.0] * 4:
        controller.update(kl, 8)
    assert controller.coef == 96.0


def test_the_integral_of_pid_is_limited_on_both_sides():
    # Long below the target, by e = −1: Σe stays at −3, so that three iterations above it bring the price back to c_0.
    controller = PIDKL(5.0, target=1.0, gains=(0.0, 1.0, 0.0), integral_limit=3.0)
    for _ in range(50):
        controller.update(0.0, 8)
    assert controller.coef == 2.0
    for _ in range(3):
        controller.update(2.0, 8)
    assert controller.coef == 5.0


def every_controller():
    return [
        kl_controller("fixed", coef=0.1),
        kl_controller("adaptive", coef=0.1, target=2.0, horizon=8),
        kl_controller("proportional", coef=0.1, target=2.0, gains=(0.05, 0.0, 0.0)),
        kl_controller("pid", coef=0.1, target=2.0, gains=(0.05, 0.04, 0.1)),
    ]


@pytest.mark.parametrize("index", range(4))
def test_never_negative_whatever_the_kl(index):
    controller = every_controller()[index]
    for kl in (-5.0, 0.0, -100.0, 0.0, 1e-3) * 20:
        controller.update(kl, 1000)
        assert controller.coef >= 0


@pytest.mark.parametrize("index", range(4))
def test_saved_and_loaded_is_never_stopped(index):
    straight, before, after = (every_controller()[index] for _ in range(3))
    for kl in (3.0, 1.0, 2.5):
        straight.update(kl, 4)
        before.update(kl, 4)
    after.load_state_dict(before.state_dict())
    for kl in (0.5, 4.0, 2.0):
        straight.update(kl, 4)
        after.update(kl, 4)
        assert after.coef == straight.coef


@pytest.mark.parametrize(("index", "arrives"), [(0, False), (1, True), (2, True), (3, True)])
def test_in_a_loop_the_kl_arrives_at_its_target(index, arrives):
    # A world where a price of c lets the policy stray by 4 exp(−2c) nats: 2 at c = ½ log 2.
    controller = every_controller()[index]
    for _ in range(400):
        controller.update(4 * math.exp(-2 * controller.coef), 4)
    assert (abs(controller.coef - math.log(2) / 2) < 0.01) is arrives


def test_the_factory_makes_what_it_is_asked_for():
    assert [type(c) for c in every_controller()] == [FixedKL, AdaptiveKL, ProportionalKL, PIDKL]
    assert [c.coef for c in every_controller()] == [0.1] * 4
    assert kl_controller("fixed", coef=0.0).coef == 0
    gains = (0.3, 0.2, 0.1)
    assert kl_controller("proportional", coef=0.1, target=2.0, gains=gains).gain == 0.3
    assert kl_controller("pid", coef=0.1, target=2.0, gains=gains).gains == gains
    adaptive = kl_controller("adaptive", coef=0.1, target=2.0, horizon=7.0)
    assert (adaptive.target, adaptive.horizon) == (2.0, 7.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "magic", "coef": 0.1}, "fixed, adaptive, proportional, pid.*'magic'"),
        ({"kind": "adaptive", "coef": 0.1}, "kl_target must be given"),
        ({"kind": "adaptive", "coef": 0.1, "target": 0.0}, "kl_target must be above 0.*got 0.0"),
        ({"kind": "pid", "coef": 0.1, "target": math.nan}, "kl_target must be above 0.*got nan"),
        ({"kind": "proportional", "coef": -0.1, "target": 1.0}, "kl_coef must be 0 or more, got -0.1"),
        ({"kind": "fixed", "coef": math.nan}, "kl_coef must be 0 or more, got nan"),
        ({"kind": "adaptive", "coef": 0.0, "target": 1.0}, "kl_coef must be above 0"),
        ({"kind": "adaptive", "coef": 0.1, "target": 1.0, "horizon": 0}, "kl_horizon must be above 0"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        kl_controller(**settings)


@pytest.mark.parametrize("index", [1, 2, 3])
@pytest.mark.parametrize("kl", [math.nan, math.inf])
def test_a_diverged_policy_is_named(index, kl):
    with pytest.raises(ValueError, match="diverged"):
        every_controller()[index].update(kl, 4)


@pytest.mark.parametrize("kind", ["adaptive", "proportional", "pid"])
def test_a_controller_with_another_initial_coefficient_begins_there(kind):
    def controller(coef):
        return kl_controller(kind, coef=coef, target=1.0, horizon=10, gains=(0.1, 0.1, 0.0))

    moved = controller(0.1)
    moved.update(3.0, 10)
    again, other = controller(0.1), controller(0.5)
    again.load_state_dict(moved.state_dict())
    other.load_state_dict(moved.state_dict())
    assert (again.coef, other.coef) == (moved.coef, 0.5)
    assert moved.coef != 0.1
