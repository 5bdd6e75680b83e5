"""Baselines: for each text the reward of another one from the same start, which its own tokens do not influence.

B texts, T new tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from tril_gym.agents.collection.actor import Actor
from tril_gym.agents.collection.collector import collect
from tril_gym.agents.collection.layout import TextLayout
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.models.texts import Texts
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import ALONE, Ranks

Baseline = Literal["none", "prompt", "rollin", "greedy"]


@dataclass(frozen=True)
class BaselineTexts:
    """Other texts of the same example, whose rewards say what is subtracted from a text's."""

    baseline: Baseline = "none"  # where they begin, and who writes them; see `baseline_rewards`
    texts: int = 1  # for each text
    value_beta: float | None = None  # β of V*, which is kept for each example; None: their mean is subtracted


def check_restarts(layout: TextLayout, asked: str, *, instead: str) -> None:
    """Raise if an environment cannot begin a text where another one began.

    Args:
        layout: that of the environment.
        asked: what needs it.
        instead: what the user can do.

    Raises:
        ValueError: it cannot restart single rows.
    """
    if layout.restart != "rows":
        raise ValueError(
            f'{asked} needs an environment that can begin chosen examples, whose metadata says restart="rows"; got'
            f" restart={layout.restart!r}; {instead}"
        )


def check_examples(examples: Tensor) -> None:
    """Raise if the example of a text is not known, (B,): another text would begin at another prompt.

    Raises:
        ValueError: the infos of the environment have no `example`.
    """
    if (examples < 0).any():
        raise ValueError(
            "other texts of the same examples are needed, but the environment does not report them as"
            ' info["example"]; around WithoutInfo, keep it: WithoutInfo(envs, keep=["example"])'
        )


def baseline_rewards(
    envs: VectorEnv,
    trajectories: Trajectories,
    actor: Actor,
    *,
    baseline: Baseline,
    generator: torch.Generator,
    texts: int = 1,
    timer: Timer | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Return the rewards of other texts of the same examples, (B, texts) float64.

    Args:
        envs: the environment of the texts; it can restart single rows.
        trajectories: B texts.
        actor: writes the other texts.
        baseline: "prompt" and "greedy": they begin at the prompt; "rollin": where the policy began, after a rollin
            that it did not write itself.
        generator: source of all randomness of the other texts.
        texts: other texts for each text.
        timer: counts the seconds spent in the environment as "score".
        ranks: as of `collect`.
    """
    keeps_rollins = baseline == "rollin" and trajectories.learn_on == "rollout"
    is_start = trajectories.is_rollin if keeps_rollins else torch.zeros_like(trajectories.is_rollin)
    starts = replace(trajectories.texts, is_token=is_start)
    rewards = rewards_from(
        envs, starts, trajectories.examples, actor, texts=texts, generator=generator, timer=timer, ranks=ranks
    )
    return rewards.view(-1, texts)


def values_by_rollouts(
    envs: VectorEnv,
    trajectories: Trajectories,
    actor: Actor,
    *,
    texts: int,
    every: int,
    generator: torch.Generator,
    timer: Timer | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Return Monte Carlo values of an actor in the states of texts: (B, T + 1) float64, 0 where none is estimated.

    A value is the mean reward of texts that begin in the state, less what was paid before it. States are those before
    token 0, `every`, 2 `every`, …

    Args:
        envs: an environment that can restart single rows.
        trajectories: B texts.
        actor: whose value it is; writes the rest from each state.
        texts: texts from each state.
        every: tokens between two states.
        generator: source of all randomness.
        timer: counts the seconds spent in the environment as "score".
        ranks: as of `collect`.
    """
    columns = torch.arange(trajectories.tokens.shape[1])
    is_state = trajectories.is_token & (columns % every == 0)
    rows, starts = is_state.nonzero(as_tuple=True)
    begun = replace(trajectories.texts[rows], is_token=columns < starts.unsqueeze(1))
    examples = trajectories.examples[rows]
    found = rewards_from(envs, begun, examples, actor, texts=texts, generator=generator, timer=timer, ranks=ranks)
    paid = (trajectories.rewards.cumsum(1) - trajectories.rewards)[rows, starts]
    values = trajectories.rewards.new_zeros((len(trajectories), len(columns) + 1))
    values[rows, starts] = found.view(-1, texts).mean(1) - paid
    return values


def rewards_from(
    envs: VectorEnv,
    starts: Texts,
    examples: Tensor,
    actor: Actor,
    *,
    texts: int,
    generator: torch.Generator,
    timer: Timer | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Return the rewards of texts that begin at given states, `texts` from each: (n · texts,) float64.

    Args:
        envs: an environment that can restart single rows.
        starts: n prompts with what has been written after them.
        examples: (n,) the index of each one's example.
        actor: writes the rest.
        texts: texts from each state.
        generator: source of all randomness.
        timer: counts the seconds spent in the environment as "score".
        ranks: as of `collect`.

    Raises:
        ValueError: the environment did not say which examples these are.
    """
    check_examples(examples)
    rows = torch.arange(len(starts)).repeat_interleave(texts)
    found = collect(
        envs,
        Plan(rollout=actor),
        episodes=len(rows),
        generator=generator,
        examples=examples[rows].tolist(),
        starts=starts[rows],
        timer=timer,
        ranks=ranks,
    )
    return found.total_rewards


def compared_rewards(
    envs: VectorEnv,
    actors: Mapping[str, Actor],
    *,
    texts: int,
    seed: int,
    timer: Timer | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Return the mean reward of each actor's texts, by name, for the same prompts and with the same uniforms.

    Args:
        envs: the environment.
        actors: write whole texts.
        texts: texts of each.
        seed: of all randomness.
        timer: counts the seconds spent in the environment as "score".
        ranks: as of `collect`.
    """
    found = {}
    for name, actor in actors.items():
        generator = torch.Generator().manual_seed(seed)
        written = collect(envs, Plan(rollout=actor), episodes=texts, generator=generator, timer=timer, ranks=ranks)
        found[name] = float(written.total_rewards.mean())
    return found


def subtract_baselines(trajectories: Trajectories, baselines: Tensor, *, bootstraps: bool = True) -> Trajectories:
    """Return the same texts with baselines, (B,), subtracted from the rewards of their last tokens.

    With a critic, texts that were cut off keep their rewards: the value after their end, which they bootstrap from, is
    less the baseline already.

    Args:
        trajectories: B texts.
        baselines: (B,)
        bootstraps: whether they are learned from with a critic.
    """
    assert baselines.shape == trajectories.lengths.shape, (baselines.shape, trajectories.lengths.shape)
    ends = trajectories.is_end if bootstraps else trajectories.is_last
    less = torch.where(ends, baselines.unsqueeze(1), 0.0)
    return replace(trajectories, rewards=trajectories.rewards - less)
