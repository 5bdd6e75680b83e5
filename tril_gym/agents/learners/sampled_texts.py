"""Texts that the policy samples only to measure its KL, where the texts that it learns from are by others."""

from __future__ import annotations

from dataclasses import replace

import torch

from tril_gym.agents.actors.policy import LMPolicy
from tril_gym.agents.collection.generation import write_completions
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.trajectories import Trajectories

SAMPLED = 16  # prompts


@torch.no_grad()
def sampled_texts(
    policy: LMPolicy, ref_policy: LMPolicy, trajectories: Trajectories, layout: TextLayout, generator: torch.Generator
) -> Trajectories:
    """Return texts of the policy for the first prompts of others, with log-probabilities under both policies.

    They are not scored by the environment, so their rewards are 0.

    Args:
        policy: writes them.
        ref_policy: scores them.
        trajectories: texts of others, in groups.
        layout: sizes of the environment.
        generator: source of all randomness.
    """
    size = trajectories.group_size
    rows = torch.arange(0, len(trajectories), size)[:SAMPLED]
    begun = trajectories[rows].texts.with_completions([[]] * len(rows))
    infos = [trajectories.infos[row] for row in rows.tolist()]
    uniforms = torch.rand((len(rows), layout.max_new_tokens), generator=generator, dtype=torch.float64)
    buffer = write_completions(policy, begun, infos, layout, uniforms)
    texts = buffer.texts()
    nothing = torch.zeros(texts.tokens.shape, dtype=torch.float64)
    return replace(
        trajectories[rows],
        tokens=texts.tokens,
        is_token=texts.is_token,
        is_rollin=torch.zeros_like(texts.is_token),
        old_logprobs=torch.from_numpy(buffer.logprobs),
        ref_logprobs=ref_policy.token_logprobs(texts, layout).logprobs.cpu(),
        rewards=nothing,
        switch=torch.zeros(len(rows), dtype=torch.int64),
    )
