"""The head on chosen states, in chunks: the same numbers and gradients as with all logits at once."""

import pytest
import torch
import transformers
from doubles import V, foreign_envs, language_model, policy_of, ragged_texts
from test_identities import mixed_texts, ratio_error
from torch import nn

from tril_gym.agents import LMPolicy, TextLayout
from tril_gym.functional.sampling import Decoding, logprobs_of
from tril_gym.functional.sampling import entropy as entropy_of
from tril_gym.models import lm_head as heads
from tril_gym.models.kernels import fuse_activations

WARM = Decoding(temperature=0.7)


def layout():
    return TextLayout.of(foreign_envs(1, min_new_tokens=2))


def whole(policy, texts):
    """Log-probabilities and entropies from all logits at once, 0 on padding."""
    logits = policy.language_model.backbone.logits(texts)
    positions = torch.arange(texts.tokens.shape[1]).expand_as(texts.tokens)
    sizes = {"eos_token_ids": layout().eos_token_ids, "min_new_tokens": 2}
    logits = policy.decoding.apply(logits, positions, **sizes)
    found = logprobs_of(logits, texts.tokens).clamp(min=-100), entropy_of(logits)
    return tuple(torch.where(texts.is_token, part, 0.0) for part in found)


def loss(logprobs, entropies):
    """Something that depends on both."""
    weights = torch.linspace(0.5, 1.5, logprobs.numel(), dtype=logprobs.dtype).view_as(logprobs)
    return (weights * logprobs).sum() + 0.3 * (weights * entropies).sum()


def gradients(policy, scalar):
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    return torch.autograd.grad(scalar, parameters, allow_unused=True)


@pytest.mark.parametrize("chunk", [2**24, 40 * V, 7 * V, 1], ids=["whole", "40", "7", "one by one"])
def test_chunks_change_no_number_and_no_gradient(family, chunk, monkeypatch):
    policy, texts = policy_of(family, dtype=torch.float64).with_decoding(WARM), ragged_texts()
    assert policy.language_model.head is not None
    expected = whole(policy, texts)
    wanted = gradients(policy, loss(*expected))
    monkeypatch.setattr(heads, "CHUNK", chunk)
    scores = policy.token_logprobs(texts, layout(), entropies="gradient")
    for found, reference in zip((scores.logprobs, scores.entropy), expected, strict=True):
        torch.testing.assert_close(found, reference, rtol=0, atol=1e-12)
    for found, reference in zip(gradients(policy, loss(scores.logprobs, scores.entropy)), wanted, strict=True):
        assert (found is None) == (reference is None)
        if found is not None:
            torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-11)


def test_entropies_are_the_same_with_and_without_a_gradient(family):
    policy, texts = policy_of(family, dtype=torch.float64).with_decoding(WARM), ragged_texts()
    numbers, learned = (policy.token_logprobs(texts, layout(), entropies=kind) for kind in ("detached", "gradient"))
    assert not numbers.entropy.requires_grad
    assert learned.entropy.requires_grad
    torch.testing.assert_close(numbers.entropy, learned.entropy.detach(), rtol=0, atol=1e-12)
    assert policy.token_logprobs(texts, layout()).entropy is None


def test_known_states_are_not_computed_again(family, monkeypatch):
    policy, texts = policy_of(family), ragged_texts()
    expected = policy.token_logprobs(texts, layout()).logprobs
    hidden = policy.language_model.hidden(texts)
    monkeypatch.setattr(policy.language_model.backbone, "hidden", None)
    torch.testing.assert_close(
        policy.token_logprobs(texts, layout(), hidden=hidden).logprobs, expected, rtol=0, atol=1e-5
    )


def test_a_model_that_does_more_after_its_head_is_read_whole(family):
    """Logits that are bent, scaled or shifted after the last layer, as Gemma's and Cohere's are."""
    for change in (lambda x: 3.0 * torch.tanh(x / 3.0), lambda x: 0.5 * x, lambda x: x + 1.0 * torch.arange(V)):
        model = language_model(family)
        forward = model.forward

        def changed(*args, forward=forward, change=change, **settings):
            output = forward(*args, **settings)
            output.logits = change(output.logits)
            return output

        model.forward = changed
        policy, texts = LMPolicy(model, None).with_decoding(WARM), ragged_texts()
        assert policy.language_model.head is None
        torch.testing.assert_close(
            policy.token_logprobs(texts, layout()).logprobs, whole(policy, texts)[0], rtol=0, atol=1e-5
        )


def test_a_model_that_is_read_whole_writes_what_it_scores(family):
    model = language_model(family, dtype=torch.float64)
    forward = model.forward

    def bent(*args, **settings):
        output = forward(*args, **settings)
        output.logits = 3.0 * torch.tanh(output.logits / 3.0)
        return output

    model.forward = bent
    policy = LMPolicy(model, None)
    assert policy.language_model.head is None
    assert ratio_error(policy, *mixed_texts(policy)) < 1e-9


def test_barts_bias_is_not_forgotten():
    model = language_model("bart")
    model.final_logits_bias += torch.linspace(-2, 2, V)
    policy, texts = LMPolicy(model, None), ragged_texts()
    assert policy.language_model.head is None
    torch.testing.assert_close(
        policy.token_logprobs(texts, layout()).logprobs, whole(policy, texts)[0], rtol=0, atol=1e-5
    )
    assert policy_of("bart").language_model.head is not None  # whose bias is 0


def test_a_tied_t5_scales_its_states():
    model = language_model("t5", tie_word_embeddings=True)
    policy, texts = LMPolicy(model, None), ragged_texts()
    assert policy.language_model.head is not None
    assert policy.language_model.head.scale == 32**-0.5
    torch.testing.assert_close(
        policy.token_logprobs(texts, layout()).logprobs, whole(policy, texts)[0], rtol=0, atol=1e-5
    )
    policy.language_model.head.scale = 1.0  # the control: without it every distribution is sharper
    assert (policy.token_logprobs(texts, layout()).logprobs - whole(policy, texts)[0]).abs().max() > 0.1


def test_a_head_belongs_to_its_model(family):
    policy = policy_of(family)
    assert policy.language_model.head is policy.language_model.head  # looked for once
    copy = policy.frozen_copy()
    assert copy.language_model.head.layer is copy.model.get_output_embeddings()
    assert copy.language_model.head.layer is not policy.language_model.head.layer


def test_fused_activations_compute_the_same():
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=V, n_embd=16, n_layer=2, n_head=2)).double()
    ids = torch.arange(V).view(2, -1)
    before = model.eval()(ids).logits
    assert sum(isinstance(module, nn.GELU) for module in fuse_activations(model).modules()) == 2
    torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=1e-12)
    x = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    spelled_out = transformers.activations.NewGELUActivation()
    slopes = [torch.autograd.grad(f(x).sum(), x)[0] for f in (spelled_out, nn.GELU(approximate="tanh"))]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-12)
    assert (slopes[0] - torch.autograd.grad(nn.GELU()(x).sum(), x)[0]).abs().max() > 1e-4  # the exact one is another
