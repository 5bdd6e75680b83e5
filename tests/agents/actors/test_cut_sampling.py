"""Top-k of a writer: what it draws, the log-probability that it notes, and the probability that it cuts off."""

import math

import pytest
import torch
from doubles import EOS, V, foreign_envs, policy_of, ragged_texts

from tril_gym.agents import LMPolicy, TextLayout
from tril_gym.functional.sampling import Decoding


@pytest.fixture
def policy() -> LMPolicy:
    """A policy whose next-token probabilities are 1/2, 1/4, 1/8, 1/8 for the tokens 0 to 3, whatever it reads."""
    policy = policy_of("gpt2", dtype=torch.float64)
    model = policy.model
    model.transformer.ln_f.weight.data.zero_()
    model.transformer.ln_f.bias.data.fill_(1.0)
    logits = torch.full((V,), -1e4, dtype=torch.float64)
    logits[:4] = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8], dtype=torch.float64).log()
    model.lm_head.weight.data[:] = (logits / 32).unsqueeze(1)
    return policy


def first_tokens(policy: LMPolicy, decoding: Decoding):
    texts = ragged_texts(3).with_completions([[]] * 3)
    writer = policy.with_decoding(decoding).start(texts, [{}] * 3, TextLayout.of(foreign_envs(1)))
    # Under the cut 1/2 and 1/4 become 2/3 and 1/3.
    tokens, logprobs = writer.next(torch.tensor([0.1, 0.6, 0.7], dtype=torch.float64))
    return tokens.tolist(), logprobs.tolist(), writer.cut_mass


def test_top_k_cuts_the_draw_and_not_the_score(policy):
    tokens, logprobs, cut_mass = first_tokens(policy, Decoding(top_k=2))
    assert tokens == [0, 0, 1]
    assert logprobs == pytest.approx([math.log(1 / 2), math.log(1 / 2), math.log(1 / 4)])
    assert cut_mass.tolist() == pytest.approx([1 / 4] * 3)


def test_nothing_is_cut_by_default(policy):
    tokens, _, cut_mass = first_tokens(policy, Decoding())
    assert tokens == [0, 1, 1]  # 0.6 and 0.7 are beyond 1/2
    assert cut_mass is None


def test_scores_are_those_that_were_noted(policy):
    layout, texts = TextLayout.of(foreign_envs(1)), ragged_texts(3).with_completions([[0, 1], [1], [3]])
    scores = policy.with_decoding(Decoding(top_k=2)).token_logprobs(texts, layout).logprobs
    # Token 3 is never drawn, and has its probability all the same.
    assert scores[:, 0].tolist() == pytest.approx([math.log(1 / 2), math.log(1 / 4), math.log(1 / 8)])


def test_all_logits_are_of_the_distribution_that_is_scored():
    policy = policy_of("gpt2", dtype=torch.float64).with_decoding(Decoding(temperature=2.0, top_k=2))
    layout, texts = TextLayout.of(foreign_envs(1, min_new_tokens=3)), ragged_texts()
    logprobs = policy.token_logits(texts, layout).log_softmax(-1)
    excluded = logprobs[..., EOS].isinf()
    assert torch.equal(excluded, (torch.arange(8) < 3).expand_as(excluded))
    of_tokens = logprobs.gather(-1, texts.tokens.unsqueeze(-1)).squeeze(-1)
    scored = policy.token_logprobs(texts, layout).logprobs
    torch.testing.assert_close(of_tokens[texts.is_token], scored[texts.is_token])
