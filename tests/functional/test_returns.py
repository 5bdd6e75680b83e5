import math

import pytest
import torch

from tril_gym.functional.returns import discriminator_rewards, gae, kl_penalised_rewards, segment_advantages


def texts(seed: int, lengths: list[int], width: int):
    """Rewards, values, bootstrap and mask of random texts in float64; half of them are truncated."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), width)
    rewards, values = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    bootstrap = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    bootstrap[::2] = 0
    return rewards, values, bootstrap, torch.arange(width) < torch.tensor(lengths).unsqueeze(1)


def slow_gae(rewards, values, bootstrap, is_token, *, gamma, gae_lambda):
    """A_t = Σ_l (γλ)^l δ_{t+l}, each sum written out, in Python's floats."""
    advantages = torch.zeros_like(rewards)
    for row in range(len(rewards)):
        length = int(is_token[row].sum())
        v = [values[row, t].item() for t in range(length)] + [bootstrap[row].item()]
        deltas = [rewards[row, t].item() + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            advantages[row, t] = sum((gamma * gae_lambda) ** step * deltas[t + step] for step in range(length - t))
    return advantages


def test_gae_by_hand():
    # γ = λ = 1/2; a three-token text, then one cell of padding with garbage.
    #   δ = (0 + .5·2 − 1, 0 + .5·3 − 2, 1 + 0 − 3) = (0, −.5, −2)
    #   A = (0 − .25·1, −.5 − .25·2, −2)            = (−.25, −1, −2)
    #   R = A + V                                   = (.75, 1, 1)
    rewards = torch.tensor([[0.0, 0.0, 1.0, 1e6]])
    values = torch.tensor([[1.0, 2.0, 3.0, -1e6]])
    is_token = torch.tensor([[True, True, True, False]])
    advantages, returns = gae(rewards, values, torch.zeros(1), is_token, gamma=0.5, gae_lambda=0.5)
    assert torch.equal(advantages, torch.tensor([[-0.25, -1.0, -2.0, 0.0]]))
    assert torch.equal(returns, torch.tensor([[0.75, 1.0, 1.0, 0.0]]))


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 1.0), (0.99, 0.95), (1.0, 0.0), (0.0, 1.0), (0.5, 0.3)])
def test_against_every_sum_written_out(gamma, gae_lambda):
    batch = texts(0, [6, 1, 0, 4, 5, 6], 6)
    advantages, returns = gae(*batch, gamma=gamma, gae_lambda=gae_lambda)
    expected = slow_gae(*batch, gamma=gamma, gae_lambda=gae_lambda)
    torch.testing.assert_close(advantages, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(returns, torch.where(batch[3], expected + batch[1], 0.0), rtol=1e-12, atol=1e-12)


# (Fractions of powers of 2, as TorchRL multiplies its masks by them in float32.)
@pytest.mark.parametrize("gamma", [1.0, 63 / 64, 0.75])
@pytest.mark.parametrize("gae_lambda", [1.0, 15 / 16, 0.5, 0.0])
def test_against_torchrl(torchrl_gae, gamma, gae_lambda):
    rewards, values, after, is_token = texts(9, [6, 1, 4, 5, 6, 2, 3], 6)
    after += 3.0  # values after every text, truncated or not
    truncated = torch.tensor([True, False, True, True, False, False, True])
    bootstrap = torch.where(truncated, after, 0.0)
    advantages, returns = gae(rewards, values, bootstrap, is_token, gamma=gamma, gae_lambda=gae_lambda)

    # TorchRL has no padding: it gets the texts as one long trajectory, stops at the end of each text, and bootstraps
    # from `terminated`.
    columns = torch.arange(6)
    last = columns == is_token.sum(1, keepdim=True) - 1
    next_values = torch.where(last, after.unsqueeze(1), values.roll(-1, dims=1))

    def by_torchrl(terminated):
        inputs = (values, next_values, rewards, last, terminated & last)
        return torchrl_gae(gamma, gae_lambda, *(tensor[is_token].unsqueeze(-1) for tensor in inputs))

    for ours, expected in zip((advantages, returns), by_torchrl(~truncated.unsqueeze(1)), strict=True):
        torch.testing.assert_close(ours[is_token], expected.squeeze(-1), rtol=1e-12, atol=1e-12)
    # The control: the kind of end matters.
    other, _ = by_torchrl(torch.ones(7, 1, dtype=torch.bool))
    assert (other.squeeze(-1) - advantages[is_token]).abs().max() > 1.0


def test_lambda_1_is_the_sampled_return_minus_the_value():
    rewards, values, bootstrap, is_token = batch = texts(1, [5, 3, 2], 5)
    gamma = 0.9
    advantages, returns = gae(*batch, gamma=gamma, gae_lambda=1.0)
    for row, length in enumerate(is_token.sum(1).tolist()):
        for t in range(length):
            sampled = sum(gamma ** (u - t) * rewards[row, u].item() for u in range(t, length))
            sampled += gamma ** (length - t) * bootstrap[row].item()
            assert returns[row, t].item() == pytest.approx(sampled, rel=1e-12)
            assert advantages[row, t].item() == pytest.approx(sampled - values[row, t].item(), rel=1e-9)


def test_lambda_0_is_the_temporal_difference():
    rewards, values, bootstrap, _ = batch = texts(2, [4, 4], 4)
    advantages, _ = gae(*batch, gamma=0.9, gae_lambda=0.0)
    next_values = torch.cat([values[:, 1:], bootstrap.unsqueeze(1)], dim=1)
    torch.testing.assert_close(advantages, rewards + 0.9 * next_values - values)


def test_only_truncated_texts_are_bootstrapped():
    # A constant reward of 1 has the value 1 / (1 − γ) = 10 everywhere, which is what the critic returns.
    rewards, values, is_token = torch.ones(1, 7), torch.full((1, 7), 10.0), torch.ones(1, 7, dtype=torch.bool)
    truncated, _ = gae(rewards, values, torch.tensor([10.0]), is_token, gamma=0.9, gae_lambda=0.95)
    assert truncated.abs().max() < 1e-5
    terminated, _ = gae(rewards, values, torch.zeros(1), is_token, gamma=0.9, gae_lambda=0.95)
    # The last token of the terminated text has no value after it: 1 − 10.
    assert terminated[0, -1].item() == pytest.approx(-9)
    assert (terminated < -1).all()


def test_mean_advantage_of_an_exact_critic_is_zero():
    # Two coin flips, probabilities .3 and .7 of writing a 1; reward: their product. V_0 = .21, V_1 = .7 · first.
    for gae_lambda in (0.0, 0.5, 1.0):
        expected = torch.zeros(2, dtype=torch.float64)
        for first in (0, 1):
            for second in (0, 1):
                probability = (0.3 if first else 0.7) * (0.7 if second else 0.3)
                rewards = torch.tensor([[0.0, first * second]], dtype=torch.float64)
                values = torch.tensor([[0.21, 0.7 * first]], dtype=torch.float64)
                is_token = torch.ones(1, 2, dtype=torch.bool)
                advantages, _ = gae(
                    rewards, values, torch.zeros(1).double(), is_token, gamma=1.0, gae_lambda=gae_lambda
                )
                expected += probability * advantages[0]
        assert expected.abs().max() < 1e-12


def test_results_do_not_depend_on_width(pad):
    rewards, values, bootstrap, is_token = batch = texts(3, [4, 2, 0], 4)
    plain = gae(*batch, gamma=0.99, gae_lambda=0.95)
    padded = gae(pad(rewards), pad(values), bootstrap, pad(is_token), gamma=0.99, gae_lambda=0.95)
    for before, after in zip(plain, padded, strict=True):
        assert torch.equal(before, after[:, :4])
        assert (after[:, 4:] == 0).all()


def test_padding_is_not_read(garbage):
    rewards, values, bootstrap, is_token = batch = texts(4, [3, 1, 0], 5)
    plain = gae(*batch, gamma=0.99, gae_lambda=0.95)
    filled = gae(
        torch.where(is_token, rewards, garbage),
        torch.where(is_token, values, garbage),
        bootstrap,
        is_token,
        gamma=0.99,
        gae_lambda=0.95,
    )
    assert torch.equal(plain[0], filled[0])
    assert torch.equal(plain[1], filled[1])
    # The control: the last cell that is no padding is read.
    values[0, 2] += 1
    assert not torch.equal(plain[0], gae(*batch, gamma=0.99, gae_lambda=0.95)[0])


def test_padding_does_not_change_the_gradient(garbage):
    rewards, values, bootstrap, is_token = texts(4, [3, 1, 0], 5)
    leaves = [torch.where(is_token, tensor, garbage).requires_grad_() for tensor in (rewards, values)]
    advantages, returns = gae(*leaves, bootstrap, is_token, gamma=0.99, gae_lambda=0.95)
    (advantages.square().sum() + returns.sum()).backward()
    for leaf in leaves:
        assert leaf.grad.isfinite().all()
        assert (leaf.grad[~is_token] == 0).all()
        assert (leaf.grad[is_token] != 0).any()


def test_rows_are_independent():
    batch = texts(5, [4, 2, 3], 4)
    together, _ = gae(*batch, gamma=0.99, gae_lambda=0.95)
    for row in range(3):
        alone, _ = gae(*(tensor[row : row + 1] for tensor in batch), gamma=0.99, gae_lambda=0.95)
        assert torch.equal(alone[0], together[row])


def test_float64_rewards_stay_float64():
    rewards = torch.tensor([[1 + 1e-12]], dtype=torch.float64)
    advantages, _ = gae(rewards, torch.zeros(1, 1), torch.zeros(1), torch.ones(1, 1).bool(), gamma=1.0, gae_lambda=1.0)
    assert advantages.item() == 1 + 1e-12


def test_inputs_do_not_change():
    batch = texts(6, [3, 1], 3)
    copies = [tensor.clone() for tensor in batch]
    gae(*batch, gamma=0.9, gae_lambda=0.9)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(batch, copies, strict=True))


def test_shapes_that_would_broadcast_are_refused():
    rewards, values, bootstrap, is_token = texts(7, [3, 3, 3], 3)
    hyperparameters = {"gamma": 1.0, "gae_lambda": 1.0}
    for wrong in (
        (rewards[:1], values, bootstrap, is_token),
        (rewards, values[:, :1], bootstrap, is_token),
        (rewards, values, bootstrap.unsqueeze(1), is_token),
        (rewards, values, bootstrap, is_token[:1]),
    ):
        with pytest.raises(AssertionError):
            gae(*wrong, **hyperparameters)


def test_kl_penalty_by_hand():
    # c = .1: (0 − .1·2, 0 − .1·(−1), 5 − .1·.5); the guide wrote the last token of the second row: untouched.
    env_rewards = torch.tensor([[0.0, 0.0, 5.0], [0.0, 0.0, 3.0]])
    kl = torch.tensor([[2.0, -1.0, 0.5], [1.0, 1.0, math.nan]])
    wrote = torch.tensor([[True, True, True], [True, True, False]])
    rewards = kl_penalised_rewards(env_rewards, kl, wrote, kl_coef=0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.2, 0.1, 4.95], [-0.1, -0.1, 3.0]]))


def test_kl_terms_of_the_guides_tokens_are_not_read(garbage):
    generator = torch.Generator().manual_seed(8)
    env_rewards, kl = torch.randn(2, 3, 4, generator=generator)
    wrote = torch.tensor([[True, True, False, False], [False, False, False, True], [True, True, True, True]])
    plain = kl_penalised_rewards(env_rewards, kl, wrote, kl_coef=0.5)
    changed = kl_penalised_rewards(env_rewards, torch.where(wrote, kl, garbage), wrote, kl_coef=0.5)
    assert torch.equal(plain, changed)
    assert torch.equal(plain[~wrote], env_rewards[~wrote])
    # The control: those of the policy's tokens are.
    assert not torch.isclose(plain[wrote], env_rewards[wrote]).any()


def test_returns_of_penalised_rewards():
    # γ = λ = 1, V = 0: the return at t is the sum of later rewards minus c times the later KL terms.
    generator = torch.Generator().manual_seed(10)
    env_rewards, kl = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    is_token = torch.arange(5) < torch.tensor([[5], [3], [1], [2]])
    rewards = kl_penalised_rewards(env_rewards, kl, is_token, kl_coef=0.25)
    _, returns = gae(rewards, 0 * rewards, torch.zeros(4).double(), is_token, gamma=1.0, gae_lambda=1.0)
    for row, length in enumerate(is_token.sum(1).tolist()):
        for t in range(length):
            still = [env_rewards[row, u].item() - 0.25 * kl[row, u].item() for u in range(t, length)]
            assert returns[row, t].item() == pytest.approx(math.fsum(still), rel=1e-12)


LOGITS = torch.tensor([-2.0, 0.0, math.log(3.0)], dtype=torch.float64)


def test_discriminator_rewards_by_hand():
    # σ(log 3) = 3/4 and −log(1 − 3/4) = log 4; σ(0) = ½ and log 2; σ(−2) = 1 / (1 + e²).
    low = 1 / (1 + math.exp(2))
    expected = {
        "logit": [-2.0, 0.0, math.log(3)],
        "gail": [-math.log(1 - low), math.log(2), math.log(4)],
        "probability": [low, 0.5, 0.75],
    }
    for form, values in expected.items():
        assert discriminator_rewards(LOGITS, form=form).tolist() == pytest.approx(values, rel=1e-14)
    # The logit is log D − log(1 − D).
    d = discriminator_rewards(LOGITS, form="probability")
    torch.testing.assert_close(discriminator_rewards(LOGITS, form="logit"), d.log() - (1 - d).log())


@pytest.mark.parametrize("form", ["logit", "gail", "probability"])
def test_discriminator_rewards_are_finite(form):
    logits = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4])
    rewards = discriminator_rewards(logits, form=form)
    assert rewards.isfinite().all()
    assert (rewards.diff() >= 0).all()
    assert rewards[-1] > rewards[0]
    assert rewards[-1].item() == {"logit": 1e4, "gail": 1e4, "probability": 1.0}[form]
    # The control: by the plain formula, the reward of a logit of 90 is infinite.
    assert (-(1 - logits.sigmoid()).log())[3].isinf()


def test_only_logit_rewards_are_negative():
    least = {form: discriminator_rewards(LOGITS, form=form).min() for form in ("logit", "gail", "probability")}
    assert least["logit"] < 0 < min(least["gail"], least["probability"])


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match=r"logit, gail, probability, got 'airl'; usual is logit"):
        discriminator_rewards(LOGITS, form="airl")


def test_segment_advantages_by_hand(garbage):
    # Segments of two tokens. First text, of 3 tokens: V = 1 before token 0, 2 before token 2; rewards 0, .5, 4.
    #   A_0 = 0 + .5 + 2 − 1 = 1.5, A_1 = .5 + 2 − 1 = 1.5, A_2 = 4 + 0 − 2 = 2
    # Second text, of one token: A_0 = 3 − 1 = 2.
    rewards = torch.tensor([[0.0, 0.5, 4.0, garbage], [3.0, garbage, garbage, garbage]])
    values = torch.tensor([[1.0, garbage, 2.0, garbage, garbage], [1.0, garbage, garbage, garbage, garbage]])
    is_token = torch.tensor([[True, True, True, False], [True, False, False, False]])
    found = segment_advantages(rewards, values, is_token, every=2)
    assert found.tolist() == [[1.5, 1.5, 2.0, 0.0], [2.0, 0.0, 0.0, 0.0]]


def test_segments_of_one_token_are_one_step_advantages():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(3, 5, generator=generator), torch.randn(3, 6, generator=generator)
    is_token = torch.arange(5) < torch.tensor([[5], [2], [4]])
    one_step, _ = gae(rewards, values[:, :-1], torch.zeros(3), is_token, gamma=1.0, gae_lambda=0.0)
    assert torch.allclose(segment_advantages(rewards, values, is_token, every=1), one_step)
