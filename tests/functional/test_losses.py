import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn.functional import cross_entropy, mse_loss

from tril_gym.functional.losses import (
    approx_kl,
    clip_fraction,
    discriminator_loss,
    entropy_bonus,
    log_ratio,
    nll_loss,
    policy_loss,
    ratio_error,
    value_loss,
)
from tril_gym.functional.sampling import entropy, logprobs_of

# One update of B = 8 texts, T = 5 tokens, V = 7 words.
B, T, V = 8, 5, 7
CLIP, VALUE_CLIP, VF, ENT, TARGET = 0.2, 0.3, 0.5, 0.01, 0.1


def update(dtype=torch.float64, seed=0):
    """Everything a PPO update reads; some of it beyond the clips, some of it not."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    data = {"logits": normal(B, T, V), "tokens": torch.randint(V, (B, T), generator=generator)}
    data["old_logprobs"] = logprobs_of(data["logits"], data["tokens"]) + normal(B, T, scale=0.3)
    data["advantages"], data["old_values"] = normal(B, T), normal(B, T)
    data["values"] = data["old_values"] + normal(B, T, scale=0.5)
    data["returns"] = normal(B, T)
    data["reference_logits"], data["reference"] = normal(B, T, V), torch.randint(V, (B, T), generator=generator)
    lengths = torch.tensor([5, 3, 1, 0, 4, 5, 2, 5])  # uneven, so that a mean of means is wrong
    data["learn"] = torch.arange(T) < lengths.unsqueeze(1)
    data["is_reference"] = torch.arange(T) < lengths.flip(0).unsqueeze(1)
    return data


def ppo_loss(d, *, learned=None, references=None):
    """The whole loss of the shipped functions."""
    logprobs = logprobs_of(d["logits"], d["tokens"])
    return (
        policy_loss(logprobs, d["old_logprobs"], d["advantages"], d["learn"], clip_range=CLIP, count=learned)
        + VF
        * value_loss(d["values"], d["old_values"], d["returns"], d["learn"], value_clip_range=VALUE_CLIP, count=learned)
        - ENT * entropy_bonus(entropy(d["logits"]), d["learn"], count=learned)
        + TARGET * nll_loss(logprobs_of(d["reference_logits"], d["reference"]), d["is_reference"], count=references)
    )


LEAVES = ("logits", "values", "reference_logits")


def gradients(d, **counts):
    """Of the whole loss with respect to all that a model gives."""
    d = d | {name: d[name].detach().clone().requires_grad_() for name in LEAVES}
    loss = ppo_loss(d, **counts)
    return loss.item(), torch.autograd.grad(loss, [d[name] for name in LEAVES])


def softmax(row):
    weights = [math.exp(x - max(row)) for x in row]
    return [w / sum(weights) for w in weights]


def slow_ppo(d):
    """Loss and gradients, token by token in Python's floats, with the derivatives worked out on paper."""
    d = {
        name: tensor.double().tolist() if tensor.dtype.is_floating_point else tensor.tolist()
        for name, tensor in d.items()
    }
    n, n_reference = sum(map(sum, d["learn"])), sum(map(sum, d["is_reference"]))
    loss = 0.0
    d_logits, d_reference = torch.zeros(2, B, T, V, dtype=torch.float64)
    d_values = torch.zeros(B, T, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            if d["learn"][b][t]:
                p, a = softmax(d["logits"][b][t]), d["tokens"][b][t]
                advantage = d["advantages"][b][t]
                ratio = math.exp(math.log(p[a]) - d["old_logprobs"][b][t])
                clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
                loss -= min(ratio * advantage, clipped * advantage) / n
                # ∂ρ/∂logit_k = ρ (1[k = a] − p_k), where the unclipped branch is the smaller one
                slope = ratio * advantage if ratio * advantage <= clipped * advantage else 0.0
                h = -sum(q * math.log(q) for q in p)
                loss -= ENT * h / n
                for k in range(V):
                    d_logits[b, t, k] -= slope * ((k == a) - p[k]) / n
                    # ∂H/∂logit_k = −p_k (log p_k + H)
                    d_logits[b, t, k] += ENT * p[k] * (math.log(p[k]) + h) / n
                v, old, target = d["values"][b][t], d["old_values"][b][t], d["returns"][b][t]
                near = min(max(v, old - VALUE_CLIP), old + VALUE_CLIP)
                loss += VF * 0.5 * max((v - target) ** 2, (near - target) ** 2) / n
                if (v - target) ** 2 >= (near - target) ** 2:  # else the clip holds and v has no say
                    d_values[b, t] = VF * (v - target) / n
            if d["is_reference"][b][t]:
                p, a = softmax(d["reference_logits"][b][t]), d["reference"][b][t]
                loss -= TARGET * math.log(p[a]) / n_reference
                for k in range(V):
                    d_reference[b, t, k] = -TARGET * ((k == a) - p[k]) / n_reference
    return loss, (d_logits, d_values, d_reference)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_loss_and_gradient_against_the_derivatives_on_paper(seed, dtype, tolerance):
    data = update(dtype, seed)
    loss, fast = gradients(data)
    slow_loss, slow = slow_ppo(data)
    assert loss == pytest.approx(slow_loss, rel=tolerance)
    for computed, derived in zip(fast, slow, strict=True):
        assert (computed.double() - derived).norm() / derived.norm() < tolerance
    # The control: the derivatives tell a clip of .2 from one of .25.
    loose = policy_loss(
        logprobs_of(data["logits"], data["tokens"]),
        data["old_logprobs"],
        data["advantages"],
        data["learn"],
        clip_range=0.25,
    )
    tight = policy_loss(
        logprobs_of(data["logits"], data["tokens"]),
        data["old_logprobs"],
        data["advantages"],
        data["learn"],
        clip_range=CLIP,
    )
    assert abs(loose - tight) > 1e-4


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_splitting_a_batch_changes_nothing(parts):
    data = update()
    counts = {"learned": data["learn"].sum(), "references": data["is_reference"].sum()}
    whole_loss, whole = gradients(data)
    pieces = [
        gradients({name: tensor.chunk(parts)[i] for name, tensor in data.items()}, **counts) for i in range(parts)
    ]
    assert sum(loss for loss, _ in pieces) == pytest.approx(whole_loss, rel=1e-12)
    for i, expected in enumerate(whole):
        joined = torch.cat([gradient[i] for _, gradient in pieces])
        torch.testing.assert_close(joined, expected, rtol=1e-12, atol=1e-14)


def test_a_mean_of_means_would_not_do():
    # The control of the test above: without `count`, the parts weigh their tokens differently.
    data = update()
    whole_loss, _ = gradients(data)
    halves = [gradients({name: tensor.chunk(2)[i] for name, tensor in data.items()})[0] for i in range(2)]
    assert abs(sum(halves) / 2 - whole_loss) > 1e-3


def test_padding_moves_neither_loss_nor_gradient(pad):
    d = update()
    logprobs = logprobs_of(d["logits"], d["tokens"])
    entropies = entropy(d["logits"])

    def loss_and_gradients(change):
        leaves = [change(x).detach().requires_grad_() for x in (logprobs, d["values"], entropies)]
        now, values, spread = leaves
        old, advantages, old_values, returns = map(
            change, (d["old_logprobs"], d["advantages"], d["old_values"], d["returns"])
        )
        learn = change(d["learn"])
        loss = policy_loss(now, old, advantages, learn, clip_range=CLIP)
        loss = loss + value_loss(values, old_values, returns, learn, value_clip_range=VALUE_CLIP)
        loss = loss - entropy_bonus(spread, learn) + nll_loss(now, learn)
        numbers = [
            approx_kl(now, old, learn),
            clip_fraction(now, old, learn, clip_range=CLIP),
            ratio_error(now, old, learn),
        ]
        return torch.stack([loss.detach(), *numbers]), torch.autograd.grad(loss, leaves)

    plain, plain_gradients = loss_and_gradients(lambda tensor: tensor)
    padded, padded_gradients = loss_and_gradients(pad)
    # (a longer tensor may be summed in another order)
    torch.testing.assert_close(padded, plain, rtol=1e-14, atol=0)
    for before, after in zip(plain_gradients, padded_gradients, strict=True):
        assert torch.equal(before, after[:, :T])
        assert (after[:, T:] == 0).all()


def test_policy_loss_by_hand():
    # ε = .2, all four cases and one token of another's:
    #   ρ = 1.5, A =  2: min( 3.0,  2.4) =  2.4, the clip holds, no gradient
    #   ρ =  .5, A =  2: min( 1.0,  1.6) =  1.0, slope ρA = 1
    #   ρ = 1.5, A = −2: min(−3.0, −2.4) = −3.0, slope −3
    #   ρ =  .5, A = −2: min(−1.0, −1.6) = −1.6, the clip holds, no gradient
    # loss = −(2.4 + 1 − 3 − 1.6) / 4 = .3; ∂loss/∂logprobs = −slope / 4
    logprobs = torch.tensor([1.5, 0.5, 1.5, 0.5, 9.0]).log().requires_grad_()
    advantages = torch.tensor([2.0, 2.0, -2.0, -2.0, 9.0])
    learn = torch.tensor([True, True, True, True, False])
    loss = policy_loss(logprobs, torch.zeros(5), advantages, learn, clip_range=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(0.3)
    torch.testing.assert_close(logprobs.grad, torch.tensor([0.0, -0.25, 0.75, 0.0, 0.0]))


def test_before_the_first_step_it_is_the_plain_policy_gradient():
    d = update()
    logprobs = logprobs_of(d["logits"], d["tokens"]).requires_grad_()
    loss = policy_loss(logprobs, logprobs.detach(), d["advantages"], d["learn"], clip_range=CLIP)
    loss.backward()
    expected = torch.where(d["learn"], -d["advantages"] / d["learn"].sum(), 0.0)
    torch.testing.assert_close(logprobs.grad, expected)


def test_value_loss_by_hand():
    # Errors 2 and 1, one token of another's: ½ (4 + 1) / 2 = 1.25, gradients 2 / 2 and −1 / 2.
    values = torch.tensor([3.0, 0.0, 8.0], requires_grad=True)
    returns, learn = torch.tensor([1.0, 1.0, 99.0]), torch.tensor([True, True, False])
    loss = value_loss(values, torch.full((3,), math.nan), returns, learn)  # old values are not read
    loss.backward()
    assert loss == 1.25
    assert torch.equal(values.grad, torch.tensor([1.0, -0.5, 0.0]))


def test_clipped_value_loss_by_hand():
    # ε_v = .5, target 1.
    #   V 3, V_old 0: clipped .5, errors 4 and .25: max 4, slope 2
    #   V 1, V_old 3: clipped 2.5, errors 0 and 2.25: max 2.25, the clip holds, no gradient
    # ½ (4 + 2.25) / 2 = 1.5625; gradients 2 / 2 and 0
    values = torch.tensor([3.0, 1.0], requires_grad=True)
    loss = value_loss(values, torch.tensor([0.0, 3.0]), torch.ones(2), torch.ones(2).bool(), value_clip_range=0.5)
    loss.backward()
    assert loss == 1.5625
    assert torch.equal(values.grad, torch.tensor([1.0, 0.0]))


def test_a_narrow_value_clip_stops_a_critic_of_large_returns():
    values = torch.tensor([0.5], requires_grad=True)
    inputs = values, torch.zeros(1), torch.tensor([0.0]), torch.ones(1).bool()
    # The critic left its old value 0 by more than .2 and would return to the target 0: allowed, the error is larger.
    assert torch.autograd.grad(value_loss(*inputs, value_clip_range=0.2), values)[0] != 0
    # Beyond .2 the value is clipped, towards a target of 10: the clipped error is larger.
    inputs = values, torch.zeros(1), torch.tensor([10.0]), torch.ones(1).bool()
    assert torch.autograd.grad(value_loss(*inputs, value_clip_range=0.2), values)[0] == 0
    assert torch.autograd.grad(value_loss(*inputs), values)[0] == -9.5


def test_nll_and_entropy_by_hand():
    # Probabilities ½, ¼ and another's: NLL (log 2 + log 4) / 2 = 1.5 log 2.
    logprobs = torch.tensor([[0.5, 0.25], [0.1, 0.1]]).log()
    is_token = torch.tensor([[True, True], [False, False]])
    assert nll_loss(logprobs, is_token).item() == pytest.approx(1.5 * math.log(2))
    assert entropy_bonus(torch.tensor([[1.0, 3.0], [9.0, 9.0]]), is_token) == 2


def test_log_ratio_by_hand(garbage):
    # log ½ − log ¼ = log 2, and nothing of the tokens outside, in the gradient either.
    logprobs = torch.tensor([[math.log(0.5), garbage], [garbage, garbage]], requires_grad=True)
    old_logprobs = torch.tensor([[math.log(0.25), garbage], [0.0, garbage]])
    learn = torch.tensor([[True, False], [False, False]])
    ratio = log_ratio(logprobs, old_logprobs, learn)
    ratio.exp().sum().backward()
    torch.testing.assert_close(ratio, torch.tensor([[math.log(2), 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(logprobs.grad, torch.tensor([[2.0, 0.0], [0.0, 0.0]]))


def test_nll_and_value_loss_against_torch():
    d = update()
    nll = nll_loss(logprobs_of(d["reference_logits"], d["reference"]), d["is_reference"])
    labels = torch.where(d["is_reference"], d["reference"], -100)  # of cells that it ignores
    torch.testing.assert_close(nll, cross_entropy(d["reference_logits"].flatten(0, 1), labels.flatten()))
    learned = d["values"][d["learn"]], d["returns"][d["learn"]]
    torch.testing.assert_close(
        value_loss(d["values"], d["old_values"], d["returns"], d["learn"]), mse_loss(*learned) / 2
    )
    # The control: over all cells, padding among them, both are others.
    assert abs(nll - cross_entropy(d["reference_logits"].flatten(0, 1), d["reference"].flatten())) > 1e-2
    assert (
        abs(
            value_loss(d["values"], d["old_values"], d["returns"], d["learn"]) - mse_loss(d["values"], d["returns"]) / 2
        )
        > 1e-2
    )


def test_entropy_against_torch():
    d = update()
    expected = Categorical(logits=d["logits"]).entropy()[d["learn"]].mean()
    torch.testing.assert_close(entropy_bonus(entropy(d["logits"]), d["learn"]), expected)
    assert abs(entropy_bonus(entropy(d["logits"]), torch.ones_like(d["learn"])) - expected) > 1e-3


def test_no_tokens_no_loss_no_gradient(garbage):
    x = [torch.full((2, 3), garbage, requires_grad=True) for _ in range(4)]
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    loss = (
        policy_loss(x[0], x[1], x[2], nothing, clip_range=0.2)
        + value_loss(x[0], x[1], x[2], nothing, value_clip_range=0.2)
        + entropy_bonus(x[3], nothing)
        + nll_loss(x[0], nothing)
    )
    loss.backward()
    assert loss == 0
    assert all((tensor.grad == 0).all() for tensor in x)
    assert ratio_error(x[0], x[1], nothing) == 0
    assert approx_kl(x[0], x[1], nothing) == 0
    assert clip_fraction(x[0], x[1], nothing, clip_range=0.2) == 0
    empty = torch.zeros(0, 3)
    assert ratio_error(empty, empty, empty.bool()) == 0


def test_diagnostics_by_hand():
    # ρ = 1, 1.1, .5, and another's. (ρ − 1) − log ρ: 0, .1 − log 1.1, −.5 + log 2. One of three outside ±.2.
    logprobs = torch.tensor([1.0, 1.1, 0.5, 30.0], dtype=torch.float64).log().requires_grad_()
    inputs = logprobs, torch.zeros(4, dtype=torch.float64), torch.tensor([True, True, True, False])
    kl = approx_kl(*inputs)
    assert kl.item() == pytest.approx((0.1 - math.log(1.1) - 0.5 + math.log(2)) / 3)
    assert clip_fraction(*inputs, clip_range=0.2).item() == pytest.approx(1 / 3)
    assert clip_fraction(*inputs, clip_range=0.05).item() == pytest.approx(2 / 3)
    assert clip_fraction(*inputs, clip_range=0.05, clip_range_high=0.2).item() == pytest.approx(1 / 3)
    assert clip_fraction(*inputs, clip_range=math.inf, clip_range_high=0.05).item() == pytest.approx(1 / 3)
    assert ratio_error(*inputs).item() == pytest.approx(0.5)
    assert not kl.requires_grad
    # The sum over twice the tokens
    assert approx_kl(*inputs, count=6).item() == pytest.approx(kl.item() / 2)


def test_approx_kl_sees_small_moves_in_float32():
    # (ρ − 1) − log ρ ≈ ½ (log ρ)², here 5e-7; computed as exp(x) − 1 − x it would be off by a tenth.
    moved = torch.full((4,), 1e-3)
    assert approx_kl(moved, torch.zeros(4), torch.ones(4).bool()).item() == pytest.approx(5e-7, rel=1e-3)


def test_diagnostics_are_silent_where_nothing_moved():
    d = update(torch.float32)
    logprobs = logprobs_of(d["logits"], d["tokens"])
    assert ratio_error(logprobs, logprobs, d["learn"]) == 0
    assert approx_kl(logprobs, logprobs, d["learn"]) == 0
    moved = torch.where(d["learn"], logprobs, logprobs + 1)
    assert ratio_error(moved, logprobs, d["learn"]) == 0
    moved[0, 0] += 1e-3
    assert ratio_error(moved, logprobs, d["learn"]).item() == pytest.approx(1e-3, rel=1e-2)


def test_approx_kl_averages_to_the_true_kl():
    # Weighted by π_old, over the whole vocabulary: Σ π_old ((π/π_old − 1) − log π/π_old) = KL(π_old‖π).
    old, new = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], dtype=torch.float64)
    each = [approx_kl(new[i : i + 1].log(), old[i : i + 1].log(), torch.ones(1).bool()) for i in range(3)]
    expected = sum(p * k for p, k in zip(old, each, strict=True))
    assert expected.item() == pytest.approx(kl_divergence(Categorical(old), Categorical(new)).item(), rel=1e-12)
    # The control: not the one the other way round.
    assert expected.item() != pytest.approx(kl_divergence(Categorical(new), Categorical(old)).item(), rel=0.05)


def test_shapes_that_would_broadcast_are_refused():
    full, row, mask = torch.zeros(2, 3), torch.zeros(1, 3), torch.ones(2, 3).bool()
    calls = [
        lambda a, b, c, m: policy_loss(a, b, c, m, clip_range=0.2),
        lambda a, b, c, m: value_loss(a, b, c, m, value_clip_range=0.2),
        lambda a, b, c, m: log_ratio(a, b, m) + nll_loss(c, m),
        lambda a, b, c, m: approx_kl(a, b, m) + entropy_bonus(c, m),
    ]
    for call in calls:
        call(full, full, full, mask)
        for wrong in ((row, full, full, mask), (full, row, full, mask), (full, full, row, mask)):
            with pytest.raises(AssertionError):
                call(*wrong)
        with pytest.raises(AssertionError):
            call(full, full, full, mask[:1])


def test_discriminator_loss_by_hand():
    # Experts at logits log 3 and 0: D = 3/4, 1/2. The policy's text at −log 4: D = 1/5.
    #   −(log 3/4 + log 1/2 + log 4/5) / 3 = −log(3/10) / 3
    # ∂/∂logit = (D − y) / 3: −1/12, −1/6, 1/15.
    expert = torch.tensor([math.log(3), 0.0], dtype=torch.float64, requires_grad=True)
    policy = torch.tensor([-math.log(4)], dtype=torch.float64, requires_grad=True)
    loss = discriminator_loss(expert, policy)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(0.3) / 3, rel=1e-14)
    assert expert.grad.tolist() == pytest.approx([-1 / 12, -1 / 6])
    assert policy.grad.tolist() == pytest.approx([1 / 15])
    # The controls: classes the other way round, and probabilities where logits belong, are something else.
    assert abs(discriminator_loss(policy, expert) - loss) > 0.1
    assert abs(discriminator_loss(expert.sigmoid(), policy.sigmoid()) - loss) > 0.1


def test_smoothed_labels_by_hand():
    # s = .2 makes labels .9 and .1. D = 3/4 for an expert's text, 1/5 for the policy's:
    #   −(.9 log 3/4 + .1 log 1/4 + .1 log 1/5 + .9 log 4/5) / 2
    # The gradient is 0 where D is the label: at the logits ±log 9.
    expert, policy = torch.tensor([math.log(3)]), torch.tensor([-math.log(4)])
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25) + 0.1 * math.log(0.2) + 0.9 * math.log(0.8)) / 2
    assert discriminator_loss(expert, policy, label_smoothing=0.2).item() == pytest.approx(expected)
    sure = torch.tensor([[math.log(9)], [-math.log(9)]], dtype=torch.float64, requires_grad=True)
    smoothed = torch.autograd.grad(discriminator_loss(*sure, label_smoothing=0.2), sure)[0]
    assert smoothed.abs().max() < 1e-15
    assert torch.autograd.grad(discriminator_loss(*sure), sure)[0].abs().min() > 0.01
    # Wholly smoothed, both classes are labelled ½: the best logit is 0.
    assert discriminator_loss(0 * expert, 0 * policy, label_smoothing=1.0).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
def test_discriminator_loss_against_the_formula(label_smoothing):
    generator = torch.Generator().manual_seed(0)
    expert, policy = (5 * torch.randn(n, generator=generator, dtype=torch.float64) for n in (7, 4))
    total = 0.0
    for logits, y in ((expert, 1 - label_smoothing / 2), (policy, label_smoothing / 2)):
        for logit in logits.tolist():
            d = 1 / (1 + math.exp(-logit))
            total -= y * math.log(d) + (1 - y) * math.log(1 - d)
    # A mean over all texts, not over the two classes.
    loss = discriminator_loss(expert, policy, label_smoothing=label_smoothing).item()
    assert loss == pytest.approx(total / 11, rel=1e-12)


def test_a_discriminator_that_is_sure_and_wrong_has_a_finite_loss():
    expert, policy = (torch.tensor([x], requires_grad=True) for x in (-1e4, 1e4))
    loss = discriminator_loss(expert, policy)
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert (expert.grad.item(), policy.grad.item()) == (-0.5, 0.5)
    # The control: the logarithm of the probability would not be.
    assert expert.sigmoid().log().isinf()


def test_discriminator_logits_of_another_shape_are_refused():
    for wrong in ((torch.zeros(3, 1), torch.zeros(3)), (torch.zeros(3), torch.zeros(3, 1))):
        with pytest.raises(AssertionError):
            discriminator_loss(*wrong)
