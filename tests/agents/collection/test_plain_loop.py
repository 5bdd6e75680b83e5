"""Collected texts equal those of a plain loop: one text at a time, no cache, the whole text for every token."""

from itertools import accumulate

import pytest
import torch
from doubles import MANY_EOS, foreign_envs, generator, policy_of

from tril_gym.agents import LMPolicy, Plan, TextLayout
from tril_gym.agents.collection.collector import EpisodeRandomness, collect
from tril_gym.models.backbone import decoder_start

EPISODES, ROWS = 30, 8  # three batches and a part of one


@torch.no_grad()
def logits_after(policy: LMPolicy, prompt: list[int], written: list[int]) -> torch.Tensor:
    """Return (V,) of the model's own call on ids alone."""
    model = policy.model
    if model.config.is_encoder_decoder:
        decoder_ids = torch.tensor([[*decoder_start(model), *written]])
        return model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder_ids, use_cache=False).logits[0, -1]
    return model(input_ids=torch.tensor([prompt + written]), use_cache=False).logits[0, -1]


def plain_loop(policy: LMPolicy, prompt: list[int], uniforms: torch.Tensor, layout: TextLayout) -> list[int]:
    """Write one text by the definition of inverse CDF sampling."""
    written: list[int] = []
    for uniform in uniforms.tolist():
        logits = logits_after(policy, prompt, written)
        if len(written) < layout.min_new_tokens:
            logits[list(layout.eos_token_ids)] = -torch.inf
        token = next(i for i, total in enumerate(accumulate(logits.softmax(-1).tolist())) if total > uniform)
        written.append(token)
        if token in layout.eos_token_ids:
            break
    return written


@pytest.mark.parametrize("min_new_tokens", [0, 3])
def test_same_draws_give_same_texts(family, min_new_tokens):
    policy = policy_of(family, dtype=torch.float64)  # so that rounding changes no token
    envs = foreign_envs(ROWS, eos_token_ids=MANY_EOS, min_new_tokens=min_new_tokens)
    layout = TextLayout.of(envs)
    texts = collect(envs, Plan(rollout=policy), episodes=EPISODES, generator=generator(4))
    draws = EpisodeRandomness.draw(EPISODES, layout.max_new_tokens, generator(4))
    for row in range(EPISODES):
        prompt = texts.prompts[row][texts.is_prompt[row]].tolist()
        written = texts.tokens[row][texts.is_token[row]].tolist()
        assert written == plain_loop(policy, prompt, draws.rollout[row], layout)
    assert len(set(texts.lengths.tolist())) > 2
    # The control: other draws give other texts.
    prompt, written = (part[0][mask[0]].tolist() for part, mask in zip(*halves(texts), strict=True))
    assert written != plain_loop(policy, prompt, draws.rollout[1], layout)


def halves(texts):
    return (texts.prompts, texts.tokens), (texts.is_prompt, texts.is_token)
