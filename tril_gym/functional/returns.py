"""Rewards, returns and advantages of tokens.

B texts, T new tokens. Texts begin in column 0; the padding after their last token may hold anything.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tril_gym.functional.masked import select


def kl_penalised_rewards(env_rewards: Tensor, kl_terms: Tensor, wrote: Tensor, *, kl_coef: float) -> Tensor:
    """Return the environment's rewards less the KL penalty.

        r_t = env_t − c w_t kl_t

    On tokens that the policy did not write, the log-ratio estimates no KL: those terms are never read.

    Args:
        env_rewards: (B, T) reward of the environment for token t.
        kl_terms:    (B, T) nats, an estimate of the KL to the reference policy at token t.
        wrote:       (B, T) True on tokens that the policy in training wrote.
        kl_coef:     reward lost per nat.

    Returns:
        (B, T) rewards, reduced where the policy wrote.
    """
    assert env_rewards.shape == kl_terms.shape, (env_rewards.shape, kl_terms.shape)
    return env_rewards - kl_coef * select(kl_terms, wrote)


def gae(
    rewards: Tensor, values: Tensor, bootstrap: Tensor, is_token: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns by generalised advantage estimation.

        δ_t = r_t + γ V(s_{t+1}) − V(s_t)
        A_t = δ_t + γλ A_{t+1}

    Schulman et al. 2016, eq. 11 and 16: https://arxiv.org/abs/1506.02438

    Args:
        rewards:    (B, T) for writing token t.
        values:     (B, T) V(s_t), the text just before token t.
        bootstrap:  (B,)   V after the last token: 0 where the text terminated.
        is_token:   (B, T) True on real tokens, False on the padding after them.
        gamma:      discount per token.
        gae_lambda: λ: 0 bootstraps after one token, 1 at the end of the text only.

    Returns:
        advantages, returns: both (B, T), 0 on padding.
    """
    assert bootstrap.shape == rewards.shape[:1], (bootstrap.shape, rewards.shape)
    rewards, values = select(rewards, is_token), select(values, is_token)  # asserts the shape of both
    advantages = torch.zeros_like(rewards + values)
    next_value, next_advantage = bootstrap, torch.zeros_like(bootstrap)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * gae_lambda * next_advantage
        # Padding comes first on the way back: pass the bootstrap through it untouched.
        advantages[:, t] = next_advantage = torch.where(is_token[:, t], advantage, next_advantage)
        next_value = torch.where(is_token[:, t], values[:, t], next_value)
    return select(advantages, is_token), select(advantages + values, is_token)


def segment_advantages(rewards: Tensor, values: Tensor, is_token: Tensor, *, every: int) -> Tensor:
    """Return advantages of segments, whose values are known at their first tokens only: (B, T).

        A_t = Σ_{u = t … end of the segment} r_u + V(next segment) − V(this segment)

    V of the end of a text is 0. Kazemnejad et al. 2024 (VinePPO), eq. 7: https://arxiv.org/abs/2410.01679

    Args:
        rewards:  (B, T) for writing token t.
        values:   (B, T + 1) V(s_t) at t = 0, `every`, 2 `every`, …; other columns are not read.
        is_token: (B, T) True on real tokens, False on the padding after them.
        every:    tokens of a segment.

    Returns:
        (B, T) advantages, 0 on padding.
    """
    rewards = select(rewards, is_token)
    found = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])  # V of the next segment, 0 where the text has ended
    for start in reversed(range(0, rewards.shape[1], every)):
        part = slice(start, start + every)
        value = torch.where(is_token[:, start], values[:, start], 0.0).to(rewards.dtype)
        to_go = rewards[:, part].flip(1).cumsum(1).flip(1)
        found[:, part] = to_go + (following - value).unsqueeze(1)
        following = value
    return select(found, is_token)


RewardForm = Literal["logit", "gail", "probability"]


def discriminator_rewards(logits: Tensor, *, form: RewardForm) -> Tensor:
    """Return the rewards of a discriminator's logits: (B,) -> (B,).

    With D = σ(logit), the probability of an expert's text:

        "logit"        logit = log D − log(1 − D)     of either sign
        "gail"         −log(1 − D)                    never negative
        "probability"  D

    Ho and Ermon 2016, algorithm 1, with D the probability of the expert: https://arxiv.org/abs/1606.03476; for the
    logit Fu et al. 2018: https://arxiv.org/abs/1710.11248
    """
    if form == "logit":
        return logits
    if form == "gail":
        return softplus(logits)  # −log σ(−logit), without its overflow
    if form == "probability":
        return logits.sigmoid()
    raise ValueError(f"The reward must be one of {', '.join(get_args(RewardForm))}, got {form!r}; usual is logit")
