import math

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tril_gym.functional import sampling as decoding
from tril_gym.functional.sampling import Decoding, entropy, exclude_eos, logprobs_of, sample, warp

INF = math.inf
EDGES = [0.0, 5e-324, 1e-45, 1e-8, 0.5, 1 - 2**-24, math.nextafter(1.0, 0.0), 1.0]


def normal(*shape, seed=0, dtype=torch.float64, scale=2.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(scale).to(dtype)


def drawn_from(logits, uniforms):
    """Return the sampled tokens; their log-probabilities are tested separately."""
    return sample(logits, uniforms)[0]


def kept(logits):
    """Return the ids that can be sampled, per row."""
    return [[i for i, x in enumerate(row) if x > -INF] for row in logits.tolist()]


# --- temperature, top-k, top-p


def test_default_settings_change_nothing():
    logits = normal(3, 5, dtype=torch.float32)
    assert warp(logits) is logits
    assert torch.equal(warp(logits, top_k=5, top_p=1.0), logits)


def test_top_p_of_1_keeps_all_tokens():
    # In float32 the first token's probability rounds to 1.
    logits = torch.tensor([[0.0, -20.0, -30.0]])
    assert kept(warp(logits, top_p=1.0)) == [[0, 1, 2]]
    assert kept(warp(logits, top_p=1 - 1e-6)) == [[0]]


def test_top_k_by_hand():
    logits = torch.tensor([[1.0, 4.0, 3.0, 2.0], [0.0, 0.0, -1.0, 5.0]])
    assert kept(warp(logits, top_k=2)) == [[1, 2], [0, 1, 3]]  # all tied tokens at the threshold are kept
    assert kept(warp(logits, top_k=1)) == [[1], [3]]
    assert kept(warp(logits, top_k=99)) == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_top_p_by_hand():
    # Probabilities .1, .5, .25, .15. Mass before each, from the most probable: 0, .5, .75, .9.
    logits = torch.tensor([[0.1, 0.5, 0.25, 0.15]], dtype=torch.float64).log()
    for top_p, expected in ((0.01, [1]), (0.49, [1]), (0.51, [1, 2]), (0.76, [1, 2, 3]), (0.91, [0, 1, 2, 3])):
        assert kept(warp(logits, top_p=top_p)) == [expected]


def test_top_p_that_is_reached_exactly():
    # Four tokens of ¼, exact in binary: two of them reach ½, and ties go by id.
    assert kept(warp(torch.zeros(1, 4), top_p=0.5)) == [[0, 1]]
    assert kept(warp(torch.zeros(1, 4), top_p=0.5 + 1e-6)) == [[0, 1, 2]]


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.5, 0.92, 0.999])
def test_top_p_is_the_smallest_set_that_reaches_it(top_p):
    logits = normal(20, 30, seed=1)
    for row, ids in zip(logits, kept(warp(logits, top_p=top_p)), strict=True):
        weights = [math.exp(x) for x in row.tolist()]
        probabilities = [w / sum(weights) for w in weights]
        inside = sorted((probabilities[i] for i in ids), reverse=True)
        assert sum(inside) >= top_p
        assert sum(inside[:-1]) < top_p
        assert inside[-1] >= max([p for i, p in enumerate(probabilities) if i not in ids], default=0.0)


def test_kept_logits_keep_their_values():
    logits = normal(4, 9, seed=2)
    for warped in (warp(logits, top_k=3), warp(logits, top_p=0.6)):
        assert torch.equal(warped[warped > -INF], logits[warped > -INF])
        assert (warped == -INF).any()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
@pytest.mark.parametrize("top_k", [None, 1, 7, 50])
@pytest.mark.parametrize("top_p", [None, 0.1, 0.92])
def test_against_transformers(temperature, top_k, top_p):
    logits = normal(16, 200, seed=3)
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k is not None:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p is not None:
        expected = TopPLogitsWarper(top_p)(None, expected)
    assert torch.equal(warp(logits, temperature=temperature, top_k=top_k, top_p=top_p), expected)


def test_leading_dimensions():
    logits = normal(3, 4, 6, seed=4)
    settings = {"temperature": 0.7, "top_k": 4, "top_p": 0.9}
    whole = warp(logits, **settings)
    for b in range(3):
        for t in range(4):
            assert torch.equal(whole[b, t], warp(logits[b, t], **settings))


def test_excluded_tokens_stay_excluded():
    logits = torch.tensor([[-INF, 1.0, -INF, 0.0]])
    for warped in (warp(logits, temperature=2.0), warp(logits, top_k=3), warp(logits, top_p=0.9999)):
        assert kept(warped) == [[1, 3]]


def test_half_precision_is_computed_in_float32():
    logits = normal(2, 5, seed=5).to(torch.bfloat16)
    assert warp(logits, temperature=0.7).dtype == torch.float32
    assert torch.equal(warp(logits, temperature=0.7), logits.float() / 0.7)
    assert logprobs_of(logits, torch.zeros(2, dtype=torch.int64)).dtype == torch.float32
    assert entropy(logits).dtype == torch.float32


# --- the minimum length


def test_exclude_eos_by_hand():
    # EOS is 1 or 3; a minimum of two tokens forbids it as token 0 and as token 1.
    logits = torch.zeros(1, 4, 5)
    masked = exclude_eos(logits, torch.tensor([[0, 1, 2, 3]]), eos_token_ids=[1, 3], min_new_tokens=2)
    assert kept(masked[0]) == [[0, 2, 4], [0, 2, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert (logits == 0).all()  # the argument is not changed


def test_exclude_eos_depends_on_position_not_column():
    masked = exclude_eos(torch.zeros(3, 2), torch.tensor([5, 0, 2]), eos_token_ids=[0], min_new_tokens=3)
    assert kept(masked) == [[0, 1], [1], [1]]


def test_no_minimum_or_no_eos_excludes_nothing():
    logits, positions = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    assert exclude_eos(logits, positions, eos_token_ids=[0], min_new_tokens=0) is logits
    assert exclude_eos(logits, positions, eos_token_ids=[], min_new_tokens=9) is logits


def test_positions_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError):
        exclude_eos(torch.zeros(2, 3, 4), torch.zeros(3), eos_token_ids=[0], min_new_tokens=1)


# --- sampling


def test_sample_by_hand():
    # Probabilities ¼, 0, ½, ¼, exact in binary: cumulative ¼, ¼, ¾, 1.
    logits = torch.tensor([0.25, 0.0, 0.5, 0.25], dtype=torch.float64).log()
    for uniform, token in ((0.0, 0), (0.2499, 0), (0.25, 2), (0.7499, 2), (0.75, 3), (0.9999, 3), (1.0, 3)):
        assert drawn_from(logits.unsqueeze(0), torch.tensor([uniform], dtype=torch.float64)).tolist() == [token]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("where", ["first", "last", "both ends", "middle", "all but one"])
@pytest.mark.parametrize("excluded", [-INF, -1e4])
def test_token_of_probability_zero_is_never_drawn(dtype, where, excluded):
    size = 1000
    ids = torch.arange(size)
    gone = {
        "first": ids < 7,
        "last": ids >= size - 7,
        "both ends": (ids < 7) | (ids >= size - 7),
        "middle": (ids > 300) & (ids < 700),
        "all but one": ids != 421,
    }[where]
    logits = normal(size, seed=6, dtype=dtype).masked_fill(gone, excluded)
    uniforms = torch.cat([torch.tensor(EDGES, dtype=torch.float64), torch.linspace(0, 1, 501, dtype=torch.float64)])
    drawn = drawn_from(logits.expand(len(uniforms), size), uniforms)
    assert drawn.dtype == torch.int64
    assert not gone[drawn].any()
    assert logprobs_of(logits.expand(len(uniforms), size), drawn).isfinite().all()


def test_zero_probability_with_a_sum_in_blocks(monkeypatch):
    # Devices sum in blocks: between two blocks the sum may increase although the token has probability 0.
    summed = torch.tensor([[0.5, 0.5 + 1e-12, 1.0]], dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda self, dim: summed)
    masses, target = torch.tensor([[0.5, 0.0, 0.5]], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    assert decoding._first_above(masses, target).tolist() == [2]


@pytest.mark.parametrize("size", [1, 3, decoding.BLOCK - 1, decoding.BLOCK, decoding.BLOCK + 1, 1000])
def test_sampling_by_blocks_equals_sampling_by_one_sum(size):
    # Many probabilities of exactly 0, also in whole blocks, and uniforms exactly between two tokens.
    logits = normal(size, seed=3).where(torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.3, -INF)
    logits[decoding.BLOCK : 3 * decoding.BLOCK], logits[size // 2] = -INF, 1.0
    cumulative = logits.softmax(-1).cumsum(-1)
    seams = torch.cat([cumulative - 1e-12, cumulative + 1e-12, torch.linspace(0, 1, 999, dtype=torch.float64)])
    uniforms = seams.clamp(0.0, 1.0 - 1e-15)
    expected = torch.searchsorted(cumulative, uniforms * cumulative[-1], right=True)
    assert torch.equal(drawn_from(logits.expand(len(uniforms), size), uniforms), expected)


def test_extreme_uniforms_draw_the_first_and_the_last_token():
    drawn = drawn_from(torch.zeros(2, 5), torch.tensor([0.0, math.nextafter(1.0, 0.0)], dtype=torch.float64))
    assert drawn.tolist() == [0, 4]


def test_frequencies_on_an_even_grid_equal_the_probabilities():
    # The middles of N even intervals: each token gets N p of them, up to one at each end.
    n, logits = 20_000, normal(12, seed=7)
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    counts = drawn_from(logits.expand(n, 12), grid).bincount(minlength=12)
    assert (counts - n * logits.softmax(-1)).abs().max() <= 1


def chi_squared(counts, probabilities):
    expected = counts.sum() * probabilities
    return ((counts - expected).square() / expected).sum().item()


@pytest.mark.parametrize("seed", range(3))
def test_frequencies_of_random_uniforms(seed):
    # Nine degrees of freedom: a true sampler exceeds 27.9 once in a thousand.
    n, logits = 50_000, normal(10, seed=8, scale=1.0)
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    counts = drawn_from(logits.expand(n, 10), uniforms).bincount(minlength=10)
    assert chi_squared(counts, logits.softmax(-1)) < 27.9
    # The control: against a temperature of 1.05 it does.
    assert chi_squared(counts, (logits / 1.05).softmax(-1)) > 27.9


def test_tokens_of_small_probability_are_drawn():
    # 50,000 tokens of 1e-8 after one of probability near 1: the middle of each interval draws its token.
    tail, size = 1e-8, 50_001
    logits = torch.full((size,), math.log(tail))
    logits[0] = math.log(1 - tail * (size - 1))
    ids = torch.arange(1, size, 499)
    probabilities = logits.softmax(-1).double()
    middles = (probabilities.cumsum(-1) - probabilities / 2)[ids] / probabilities.sum()
    assert torch.equal(drawn_from(logits.expand(len(ids), size), middles), ids)
    # The control: a cumulative sum in float32 is too coarse.
    coarse = torch.searchsorted(logits.softmax(-1).cumsum(-1), middles.float(), right=True)
    assert (coarse != ids).float().mean() > 0.5


def test_sampling_does_not_depend_on_other_rows():
    logits, uniforms = normal(6, 300, seed=9, dtype=torch.float32), torch.rand(6, dtype=torch.float64)
    together = drawn_from(logits, uniforms)
    for row in range(6):
        assert drawn_from(logits[row : row + 1], uniforms[row : row + 1])[0] == together[row]


@pytest.mark.parametrize("row", [[0.0, math.nan, 0.0], [-INF, -INF, -INF]])
def test_row_without_distribution_has_no_finite_logprob(row):
    logits = torch.tensor([row, [-INF, 0.0, 0.0]])
    drawn = drawn_from(logits, torch.tensor([0.7, 0.7], dtype=torch.float64))
    assert drawn.tolist() == [0, 2]  # the other row is not affected
    assert logprobs_of(logits, drawn).isnan().tolist() == [True, False]
    assert sample(logits, torch.tensor([0.7, 0.7], dtype=torch.float64))[1].isnan().tolist() == [True, False]


def test_uniforms_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError):
        drawn_from(torch.zeros(3, 4), torch.zeros(1, dtype=torch.float64))


def test_sampling_does_not_change_the_logits():
    logits = normal(2, 5, seed=10)
    copy = logits.clone()
    drawn_from(logits, torch.tensor([0.3, 0.6], dtype=torch.float64))
    assert torch.equal(logits, copy)


@pytest.mark.parametrize(("dtype", "nats"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_logprobs_of_sampling_equal_those_of_scoring(dtype, nats):
    logits = normal(500, 300, seed=11, dtype=dtype, scale=6.0).masked_fill(torch.arange(300) % 7 == 0, -INF)
    tokens, logprobs = sample(logits, torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    assert logprobs.min() < -6
    torch.testing.assert_close(logprobs, logprobs_of(logits, tokens), rtol=0, atol=nats)


# --- log-probabilities and entropy


def test_logprobs_by_hand():
    # Weights 1, 2, 5: probabilities ⅛, ¼, ⅝.
    logits = torch.tensor([[1.0, 2.0, 5.0]] * 3).log()
    expected = torch.tensor([1 / 8, 1 / 4, 5 / 8]).log()
    torch.testing.assert_close(logprobs_of(logits, torch.tensor([0, 1, 2])), expected)


def test_logprobs_against_slow_sums():
    logits, tokens = normal(3, 4, 6, seed=11), torch.randint(6, (3, 4), generator=torch.Generator().manual_seed(0))
    fast = logprobs_of(logits, tokens)
    for b in range(3):
        for t in range(4):
            row = logits[b, t].tolist()
            slow = math.log(math.exp(row[tokens[b, t]]) / sum(math.exp(x) for x in row))
            assert fast[b, t].item() == pytest.approx(slow, rel=1e-12)


def test_logprobs_of_excluded_tokens():
    # Without the second of two equal tokens, the first is certain.
    logits = torch.tensor([[0.0, -INF], [0.0, -INF]], requires_grad=True)
    logprobs = logprobs_of(logits, torch.tensor([0, 1]))
    assert logprobs.tolist() == [0.0, -INF]
    logprobs[0].backward()
    assert torch.equal(logits.grad, torch.zeros(2, 2))


def test_logprobs_refuse_tokens_of_another_shape():
    with pytest.raises(AssertionError):
        logprobs_of(torch.zeros(2, 3, 4), torch.zeros(2, 1, dtype=torch.int64))


def test_entropy_by_hand():
    # Even over two of four tokens: log 2. Certain: 0. Probabilities ½, ¼, ¼: 1.5 log 2.
    logits = torch.tensor([[0.0, 0.0, -INF, -INF], [3.0, -INF, -INF, -INF], [math.log(2), 0.0, 0.0, -INF]])
    expected = torch.tensor([math.log(2), 0.0, 1.5 * math.log(2)])
    torch.testing.assert_close(entropy(logits), expected)


def test_entropy_gradient_with_excluded_tokens():
    # ∂H/∂logit = −p (log p + H), 0 where excluded: as if those tokens were not there.
    logits = normal(5, 6, seed=12)
    wide = torch.cat([logits, torch.full((5, 2), -INF, dtype=torch.float64)], dim=1).requires_grad_()
    entropy(wide).sum().backward()
    p = logits.softmax(-1)
    derived = -p * (p.log() + entropy(logits).unsqueeze(-1))
    torch.testing.assert_close(wide.grad[:, :6], derived)
    assert (wide.grad[:, 6:] == 0).all()


def test_entropy_of_the_nearly_certain_is_finite():
    logits = torch.tensor([[0.0, -1e4], [0.0, -200.0]], requires_grad=True)
    total = entropy(logits).sum()
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.isfinite().all()


# --- one distribution for sampling and for scoring


@pytest.mark.parametrize(
    "decoding",
    [Decoding(), Decoding(temperature=0.7), Decoding(top_k=5), Decoding(top_p=0.8), Decoding(greedy=True)],
    ids=str,
)
def test_sampling_and_scoring_agree(decoding):
    logits, limits = normal(400, 3, 12, seed=13), {"eos_token_ids": [2, 5], "min_new_tokens": 2}
    positions = torch.arange(3).expand(400, 3)
    whole = decoding.apply(logits, positions, **limits)
    uniforms = torch.rand(400, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    steps = [decoding.apply(logits[:, t], positions[:, t], **limits) for t in range(3)]
    tokens = torch.stack([drawn_from(step, uniforms[:, t]) for t, step in enumerate(steps)], dim=1)
    torch.testing.assert_close(
        logprobs_of(whole, tokens),
        torch.stack([logprobs_of(step, tokens[:, t]) for t, step in enumerate(steps)], dim=1),
        rtol=1e-12,
        atol=1e-12,
    )
    assert logprobs_of(whole, tokens).isfinite().all()
    assert not torch.isin(tokens[:, :2], torch.tensor([2, 5])).any()
    every = torch.arange(12).expand(400, 3, 12)
    total = logprobs_of(whole.unsqueeze(2).expand(-1, -1, 12, -1), every).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))
    if decoding != Decoding(greedy=True):
        assert torch.isin(tokens[:, 2], torch.tensor([2, 5])).any()  # The control: EOS can be drawn.


def test_eos_is_excluded_before_truncation():
    logits, limits = torch.tensor([[5.0, 9.0, 1.0]]), {"eos_token_ids": [1], "min_new_tokens": 1}
    for cut in (Decoding(top_k=1), Decoding(top_p=0.5), Decoding(greedy=True)):
        assert kept(cut.apply(logits, torch.tensor([0]), **limits)) == [[0]]
        assert kept(cut.apply(logits, torch.tensor([1]), **limits)) == [[1]]


def test_greedy_ignores_the_uniform():
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0]]).expand(len(EDGES), 4)
    only = Decoding(greedy=True).apply(
        logits, torch.zeros(len(EDGES), dtype=torch.int64), eos_token_ids=[0], min_new_tokens=0
    )
    drawn = drawn_from(only, torch.tensor(EDGES, dtype=torch.float64))
    assert (drawn == 1).all()
    assert (logprobs_of(only, drawn) == 0).all()


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(top_p=0.8), Decoding(greedy=True)], ids=str)
def test_half_precision_gives_float32_logprobs(decoding):
    logits, limits = normal(2, 5, seed=15).to(torch.bfloat16), {"eos_token_ids": [0], "min_new_tokens": 1}
    assert decoding.apply(logits, torch.zeros(2, dtype=torch.int64), **limits).dtype == torch.float32


def test_gradients_with_truncation():
    logits = normal(4, 9, seed=14).requires_grad_()
    decoding = Decoding(temperature=0.5, top_k=4, top_p=0.9)
    warped = decoding.apply(logits, torch.zeros(4, dtype=torch.int64), eos_token_ids=[8], min_new_tokens=1)
    (logprobs_of(warped, warped.argmax(-1)).sum() + entropy(warped).sum()).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[warped == -INF] == 0).all()
    assert (logits.grad[warped > -INF] != 0).any()


def test_truncates_says_whether_tokens_are_cut():
    assert not any(d.truncates for d in (Decoding(), Decoding(temperature=0.5), Decoding(top_p=1.0)))
    assert all(d.truncates for d in (Decoding(top_k=50), Decoding(top_p=0.92), Decoding(greedy=True)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0 and finite, got 0.0.*greedy"),
        ({"temperature": -1.0}, "temperature must be above 0 and finite, got -1.0"),
        ({"temperature": math.nan}, "temperature must be above 0 and finite, got nan"),
        ({"temperature": INF}, "temperature must be above 0 and finite, got inf"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1, got 0"),
        ({"top_k": 2.5}, "top_k must be a whole number of at least 1, got 2.5"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\], got 1.1"),
        ({"top_p": math.nan}, r"top_p must be in \(0, 1\], got nan"),
        ({"greedy": True, "top_p": 0.9}, "greedy=True.*top_p=0.9"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**settings)
