"""Texts that are written in more than one collection: the best of several of a guide, and plans in parts.

Where the guide begins texts, it writes n of them for a prompt, and the best one is cut; where it finishes them, it
finishes each n times, and the best text is kept. All are written with the randomness of collection, and the environment
rewards each as any other text, so the choice depends on the generator alone, not on the batches.

E episodes, T new tokens, n candidates of each episode.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from tril_gym.agents.collection.best_of import BestOf
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.randomness import EpisodeRandomness
from tril_gym.agents.collection.trajectories import Trajectories
from tril_gym.models.texts import Texts


class Write(Protocol):
    """Writes one text for each episode."""

    def __call__(self, plan: Plan, randomness: EpisodeRandomness, *, starts: Texts | None = None) -> Trajectories:
        """Return the texts; `starts` are their rollins, in place of those of the plan."""


def write_plan(
    write: Write,
    plan: Plan,
    randomness: EpisodeRandomness,
    generator: torch.Generator,
    *,
    starts: Texts | None = None,
) -> Trajectories:
    """Return the texts of any plan, one for each episode; arguments as of `with_best`, `starts` as of `Write`."""
    if plan.parts:
        return with_parts(write, plan, randomness, generator)
    if plan.best_of is not None:
        return with_best(write, plan, plan.best_of, randomness, generator)
    return write(plan, randomness, starts=starts)


def with_best(
    write: Write, plan: Plan, best_of: BestOf, randomness: EpisodeRandomness, generator: torch.Generator
) -> Trajectories:
    """Return the texts of a plan whose guide writes several for each, one for each episode.

    Args:
        write: writes texts.
        plan: the policy writes the rollouts, then the guide the rollins; or the other way round.
        best_of: the number of candidates, and their score.
        randomness: of the episodes.
        generator: source of the candidates' randomness.
    """
    if plan.learn_on == "rollout":
        return write(plan, randomness, starts=best_rollins(write, plan, best_of, randomness, generator))
    first, uniforms = _candidates(randomness.rollout, best_of, generator)
    found = write(plan, replace(randomness[first.numpy()], rollout=uniforms))
    rows = best_of.rows(found, (found.lengths - 1).clamp(min=0))
    return replace(found[rows], group=torch.arange(len(rows)) // plan.texts_per_prompt)


def with_parts(write: Write, plan: Plan, randomness: EpisodeRandomness, generator: torch.Generator) -> Trajectories:
    """Return the texts of a plan in parts, one for each episode: in each group those of the plan itself are first.

    Args:
        write: writes texts.
        plan: a plan with further parts.
        randomness: of the episodes, in groups of `plan.group_size`.
        generator: source of the randomness of candidates, if a part has them.
    """
    groups = torch.arange(len(randomness)).view(-1, plan.group_size)
    written, rows, start = [], [], 0
    for part, count in ((plan, plan.texts_per_prompt), *plan.parts):
        part = replace(part, parts=(), texts_per_prompt=count)
        rows.append(groups[:, start : start + count].flatten())
        episodes = randomness[rows[-1].numpy()].grouped(count, share_rollin=part.share_rollin)
        written.append(write_plan(write, part, episodes, generator))
        start += count
    order = torch.cat(rows).argsort()
    return replace(Trajectories.cat(written)[order], group=torch.arange(len(randomness)) // plan.group_size)


def best_rollins(
    write: Write, plan: Plan, best_of: BestOf, randomness: EpisodeRandomness, generator: torch.Generator
) -> Texts:
    """Return the beginnings of E texts, those without a rollin empty; texts that share a rollin share the best one."""
    assert plan.rollin is not None, "best_of needs a guide"
    width, shared = randomness.max_new_tokens, plan.texts_per_prompt if plan.share_rollin else 1
    first = torch.arange(0, len(randomness), shared)
    first = first[randomness.rollin_uniform[first] < plan.rollin_prob]
    tokens = torch.zeros((len(randomness), width), dtype=torch.int64)
    lengths = torch.zeros(len(randomness), dtype=torch.int64)
    if len(first):
        episodes = randomness[first.numpy()]
        rows, uniforms = _candidates(episodes.rollin, best_of, generator)
        episodes = replace(episodes[rows.numpy()], rollout=uniforms)
        found = write(Plan(rollout=plan.rollin), episodes)
        ends = torch.from_numpy(plan.cut(found.lengths.numpy(), episodes.switch.numpy(), plan.iteration))
        best = best_of.rows(found, ends)
        members = (first.unsqueeze(1) + torch.arange(shared)).flatten()
        tokens[members] = found.tokens[best].repeat_interleave(shared, dim=0)
        lengths[members] = ends[best].repeat_interleave(shared)
    prompts = torch.zeros((len(randomness), 0), dtype=torch.int64)  # the environment has them
    return Texts(prompts, prompts.bool(), tokens, torch.arange(width) < lengths.unsqueeze(1))


def _candidates(uniforms: Tensor, best_of: BestOf, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the episode of each candidate and its uniforms: (E, T) -> (E n,), (E n, T).

    The first candidate of an episode has the episode's own, so it is the text that would be written without others.
    """
    rows = torch.arange(len(uniforms)).repeat_interleave(best_of.texts)
    drawn = torch.rand((len(rows), uniforms.shape[1]), generator=generator, dtype=torch.float64)
    is_first = torch.arange(len(rows)) % best_of.texts == 0
    return rows, torch.where(is_first.unsqueeze(1), uniforms[rows], drawn)
