"""Collection: a plan's actors write texts in a vector environment, token by token, through `reset` and `step`.

One mechanism for every algorithm, every autoreset mode, and every environment with `metadata["text"]`:

1. All randomness is drawn first, per episode and token, so that batching changes no text.
2. Each batch resets the environment with its episodes' own seeds: one text per row.
3. Rows whose uniform is below `rollin_prob` get a rollin, cut at the switch. The environment is restarted there where
   it can restart single rows, else the rollin's tokens are stepped as actions while other rows are written already.
4. The rollout actor writes until every row has ended. Rows that ended receive a filler action, which is ignored.

B texts of a batch, E episodes, P prompt tokens, T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from tril_gym.agents.collection.candidates import write_plan
from tril_gym.agents.collection.generation import BatchGenerator, CompletionBuffer, write_rollins
from tril_gym.agents.collection.layout import TextLayout, codec_of
from tril_gym.agents.collection.plan import Plan
from tril_gym.agents.collection.randomness import EpisodeRandomness
from tril_gym.agents.collection.trajectories import Infos, Trajectories
from tril_gym.models.texts import Texts
from tril_gym.utils import deferred_rewards
from tril_gym.utils.batched_infos import row_of
from tril_gym.utils.deferred_rewards import OnMain
from tril_gym.utils.profiler import Timer
from tril_gym.utils.ranks import ALONE, Ranks


def collect(
    envs: VectorEnv,
    plan: Plan,
    *,
    episodes: int,
    generator: torch.Generator,
    examples: Sequence[int] | None = None,
    starts: Texts | None = None,
    timer: Timer | None = None,
    ranks: Ranks = ALONE,
) -> Trajectories:
    """Write `episodes` texts.

    Args:
        envs: a vector environment with `metadata["text"]`.
        plan: who writes what.
        episodes: number of texts. The first ones *started* count, so short texts have no advantage.
        generator: source of all randomness of the collection, the environment's seeds included (CPU).
        examples: index of the example of each text; by default the environment draws them. Needs an environment that
            can restart single rows.
        starts: completions to begin with, one for each of the examples, in place of rollins of the plan.
        timer: counts the seconds spent in the environment as "score".
        ranks: the processes that write together. Each writes its share in an environment of its own, and all return
            all texts.

    Raises:
        ValueError: no episodes, groups that are not whole, or an environment that violates its own metadata.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    if episodes % plan.group_size:
        raise ValueError(
            f"episodes must be a multiple of texts_per_prompt, {plan.group_size}, got {episodes}; groups are whole"
        )
    assert starts is None or (examples is not None and len(starts) == episodes), "starts need their examples"
    layout = TextLayout.of(envs)
    if examples is not None and (layout.restart != "rows" or len(examples) != episodes):
        raise ValueError(
            f"examples must name one example for each of the {episodes} episodes, in an environment whose metadata says"
            f' restart="rows"; got {len(examples)} and restart={layout.restart!r}'
        )
    if ranks.size > 1 and layout.main_process_reward and not layout.may_pay_late:
        raise ValueError(
            "a reward that the main process computes for all processes is computed once a whole batch has ended, so"
            f" the environment must keep ended rows, got autoreset mode {layout.autoreset_mode.value!r} and restart="
            f'{layout.restart!r}; use autoreset_mode="Disabled" and a vector environment with restart="rows", and no'
            " wrapper of Gymnasium that changes rewards"
        )
    randomness = EpisodeRandomness.draw(episodes, layout.max_new_tokens, generator)
    randomness = randomness.grouped(plan.group_size, share_rollin=plan.share_rollin)
    write = partial(_write, envs, layout=layout, examples=examples, timer=timer or Timer(), ranks=ranks)
    is_one = not plan.parts and plan.best_of is None
    assert is_one or examples is None, "plans in parts and the best of several texts are for drawn examples only"
    return write_plan(write, plan, randomness, generator, starts=starts)


def _write(
    envs: VectorEnv,
    plan: Plan,
    randomness: EpisodeRandomness,
    *,
    layout: TextLayout,
    examples: Sequence[int] | None,
    timer: Timer,
    ranks: Ranks,
    starts: Texts | None = None,
) -> Trajectories:
    """Return the texts of all ranks, one for each episode."""
    with ExitStack() as stack:
        for actor in plan.actors:
            stack.enter_context(actor.gathered())
        parts = _write_share(envs, plan, layout, randomness, examples, starts, timer, ranks)
    found = _in_order(ranks.gather(parts))
    given = torch.ones_like(found.terminated) if plan.is_given else None
    return replace(found, group=torch.arange(len(randomness)) // plan.texts_per_prompt, given=given)


def _write_share(
    envs: VectorEnv,
    plan: Plan,
    layout: TextLayout,
    randomness: EpisodeRandomness,
    examples: Sequence[int] | None,
    starts: Texts | None,
    timer: Timer,
    ranks: Ranks,
) -> list[tuple[int, Trajectories]]:
    """Return what this rank writes, with the number of the first episode of each batch."""
    parts, episodes = [], len(randomness)
    on_main = ranks.on_main if ranks.size > 1 and layout.main_process_reward else None
    for batch in torch.arange(episodes).split(envs.num_envs * ranks.size):
        share = rows = batch[ranks.share(len(batch))]
        if on_main is not None and not len(share):
            rows = batch[:1]  # a text of another rank: all take part in the scores of a batch
        chosen = None if examples is None else np.asarray(examples, dtype=np.int64)[rows.numpy()]
        begun = None if starts is None else starts[rows]
        if len(rows):
            written = _EpisodeBatch(envs, plan, layout, randomness[rows.numpy()], chosen, begun, timer, on_main).write()
            parts += [(int(batch[0]), written)] if len(share) else []
    return parts


def _in_order(parts: Sequence[Sequence[tuple[int, Trajectories]]]) -> Trajectories:
    """Return what all ranks wrote in the order of the episodes: by the first one of the batch, then by rank."""
    found = [part for rank in parts for part in rank]
    return Trajectories.cat([texts for _, texts in sorted(found, key=lambda part: part[0])])


class _Progress:
    """What the environment has received and returned for B texts so far."""

    def __init__(self, stepped: np.ndarray, max_new_tokens: int) -> None:
        texts = len(stepped)
        self.stepped = stepped  # (B,) tokens that the environment has received
        self.rewards = np.zeros((texts, max_new_tokens))
        self.terminated, self.truncated = np.zeros(texts, dtype=bool), np.zeros(texts, dtype=bool)

    @property
    def active(self) -> np.ndarray:
        """(B,) bool: not ended yet."""
        return ~(self.terminated | self.truncated)


class _EpisodeBatch:
    """One text for each of the first B rows of the environment."""

    def __init__(
        self,
        envs: VectorEnv,
        plan: Plan,
        layout: TextLayout,
        randomness: EpisodeRandomness,
        examples: np.ndarray | None,
        starts: Texts | None,
        timer: Timer,
        on_main: OnMain | None,
    ) -> None:
        self.envs, self.plan, self.layout, self.randomness, self.timer = envs, plan, layout, randomness, timer
        self.examples, self.starts = examples, starts
        self.texts, self.on_main = len(randomness), on_main
        # Action for rows that have ended: EOS where they are idle, else a token that is not EOS, so that no further
        # short text is scored at every other step.
        others = (token for token in range(layout.vocab_size) if token not in layout.eos_token_ids)
        self.filler = layout.eos_token_ids[0] if layout.keeps_ended_rows else next(others)

    def write(self) -> Trajectories:
        """Reset, write the rollins, write the rollouts."""
        texts, infos = self._reset()
        buffer, switch = self._write_rollins(texts, infos)
        progress = _Progress(self._restart_at_switch(switch, buffer, infos), buffer.tokens.shape[1])
        generator = BatchGenerator(self.plan.rollout, buffer, infos, self.randomness.rollout)
        while (active := progress.active).any():
            # A row whose rollin is still being stepped has its next tokens already.
            needs_token = active & (progress.stepped == buffer.written)
            if needs_token.any():
                self._check_not_ended(needs_token, generator)
                generator.write()
            self._step(buffer, progress, infos)
            generator.keep(progress.active[generator.rows])
        generator.close()
        return self._trajectories(buffer, switch, progress, infos)

    def _offer(self) -> dict[str, Any]:
        return deferred_rewards.offer(can_wait=self.layout.may_pay_late, on_main=self.on_main)

    def _reset(self) -> tuple[Texts, Infos]:
        """Return the prompts and infos of new episodes."""
        seeds = [int(seed) for seed in self.randomness.seeds]
        spare = self.envs.num_envs - self.texts
        options = self._offer()
        if self.examples is not None:
            options["example"] = np.pad(self.examples, (0, spare), mode="edge")
        with self.timer.time("score"):
            # (Gymnasium's vector environments accept a list of seeds, though their base type does not say so.)
            observations, infos = self.envs.reset(seed=seeds + seeds[:1] * spare, options=options or None)  # type: ignore[arg-type]
        width = self.layout.max_prompt_length
        ids = np.array(observations[: self.texts, : width + self.layout.max_new_tokens], dtype=np.int64)
        texts = Texts.from_observations(torch.from_numpy(ids), width)
        if bool(texts.is_token.all()):
            raise ValueError(
                f"{self.envs} begins texts with a full completion of {self.layout.max_new_tokens} tokens; columns"
                " without a token must be -1, and tril_gym.testing.check_env checks the other rules"
            )
        found = [row_of(infos, row) for row in range(self.texts)]
        if self.plan.texts_per_prompt > 1:
            found = [info | {"member": int(member)} for info, member in zip(found, self.randomness.member, strict=True)]
        return texts, found

    def _write_rollins(self, texts: Texts, infos: Infos) -> tuple[CompletionBuffer, np.ndarray]:
        """Return a buffer with each rollin up to its switch, and the switches (B,)."""
        if self.starts is not None:
            tokens = torch.where(self.starts.is_token, self.starts.tokens, 0)
            begun = CompletionBuffer(replace(texts, tokens=tokens, is_token=self.starts.is_token), self.layout)
            return begun, begun.written.copy()
        buffer, switch = CompletionBuffer(texts, self.layout), np.zeros(self.texts, dtype=np.int64)
        rows = np.flatnonzero(self.randomness.rollin_uniform.numpy() < self.plan.rollin_prob)
        if self.plan.rollin is not None and rows.size:
            randomness = self.randomness[rows]

            def choose_switch(lengths: np.ndarray) -> np.ndarray:
                return self.plan.cut(lengths, randomness.switch.numpy(), self.plan.iteration)

            chosen = [infos[row] for row in rows]
            reads_text = self.plan.rollout.reads_text(self.layout)
            rollins, switches = write_rollins(
                self.plan.rollin,
                buffer.texts(rows),
                chosen,
                self.layout,
                randomness.rollin,
                choose_switch,
                in_full=reads_text,  # whether a character is cut is seen by what follows
            )
            switch[rows] = self._at_character_starts(rollins, switches) if reads_text else switches
            buffer.copy_beginnings(rows, rollins, switch[rows])
        return buffer, switch

    def _at_character_starts(self, rollins: CompletionBuffer, switch: np.ndarray) -> np.ndarray:
        """Move switches (B,) inside a character to its first token."""
        codec, texts = codec_of(self.layout), rollins.texts()
        return np.array([codec.character_start(texts.completion_ids(row), int(end)) for row, end in enumerate(switch)])

    def _restart_at_switch(self, switch: np.ndarray, buffer: CompletionBuffer, infos: Infos) -> np.ndarray:
        """Restart the environment at the switch if it can; return how many tokens it then has, (B,)."""
        # An environment cannot restart at the end of a text: the last token of a full rollin is stepped.
        begun = switch - buffer.has_ended(np.arange(self.texts))
        moved = np.flatnonzero(begun)
        if not moved.size or not self.layout.restarts_within_texts:
            return np.zeros(self.texts, dtype=np.int64)  # the rollin's tokens are stepped
        rows, columns = self.envs.num_envs, np.arange(buffer.tokens.shape[1])
        mask, examples = np.zeros(rows, dtype=bool), np.full(rows, -1, dtype=np.int64)
        completions = np.full((rows, len(columns)), -1, dtype=np.int64)
        mask[moved] = True
        completions[moved] = np.where(columns < begun[moved, None], buffer.tokens[moved], -1)
        examples[moved] = [infos[row]["example"] for row in moved]
        options = {"reset_mask": mask, "example": examples, "completion": completions}
        with self.timer.time("score"):
            self.envs.reset(options=options | self._offer())
        return begun

    def _step(self, buffer: CompletionBuffer, progress: _Progress, infos: Infos) -> None:
        """Step the environment with the next token of every active row."""
        active = progress.active
        rows = np.flatnonzero(active)
        actions = np.full(self.envs.num_envs, self.filler, dtype=np.int64)
        actions[rows] = buffer.tokens[rows, progress.stepped[rows]]
        with self.timer.time("score"):
            _, rewards, terminated, truncated, step_infos = self.envs.step(actions)
            self._reset_ended_rows(terminated | truncated)
        if self.layout.autoreset_mode == AutoresetMode.SAME_STEP:
            step_infos = step_infos.get("final_info", {})  # the top level describes the next text already
        progress.stepped[rows] += 1
        progress.terminated[rows], progress.truncated[rows] = terminated[rows], truncated[rows]
        paid = deferred_rewards.rows_to_credit(active, step_infos, can_wait=self.layout.keeps_ended_rows)
        progress.rewards[paid, progress.stepped[paid] - 1] += rewards[paid]
        self._merge_final_infos(infos, np.flatnonzero(active & ~progress.active), step_infos)

    def _reset_ended_rows(self, ended: np.ndarray) -> None:
        """Reset rows that ended where nothing else does: without autoreset, unless the environment keeps them idle."""
        if self.layout.autoreset_mode == AutoresetMode.DISABLED and not self.layout.keeps_ended_rows and ended.any():
            self.envs.reset(options={"reset_mask": ended.copy()})

    def _merge_final_infos(self, infos: Infos, ended: np.ndarray, step_infos: dict[str, Any]) -> None:
        """Add to each text's info what the step that ended it returned, or the one that paid it late."""
        can_wait = self.layout.keeps_ended_rows
        for row in deferred_rewards.rows_with_final_info(ended, step_infos, self.texts, can_wait=can_wait):
            infos[row] = deferred_rewards.merged(infos[row], row_of(step_infos, row))

    def _check_not_ended(self, needs_token: np.ndarray, generator: BatchGenerator) -> None:
        has_no_writer = needs_token.copy()
        has_no_writer[generator.rows] = False
        if has_no_writer.any():
            raise ValueError(
                f"row {np.flatnonzero(has_no_writer)[0]} continues after EOS or its token {self.layout.max_new_tokens},"
                " where the metadata of the environment says that a text ends; check eos_token_ids, stop and"
                " max_new_tokens"
            )

    def _trajectories(
        self, buffer: CompletionBuffer, switch: np.ndarray, progress: _Progress, infos: Infos
    ) -> Trajectories:
        lengths = progress.stepped
        columns = np.arange(buffer.tokens.shape[1])
        is_token = columns < lengths[:, None]  # an outside limit may have cut a rollin that was already written
        is_rollin = is_token & (columns < switch[:, None])
        wrote = is_token & ~is_rollin if self.plan.learn_on == "rollout" else is_rollin
        values = buffer.values
        return Trajectories(
            prompts=buffer.prompts,
            is_prompt=buffer.is_prompt,
            tokens=torch.from_numpy(np.where(is_token, buffer.tokens, 0)),
            is_token=torch.from_numpy(is_token),
            is_rollin=torch.from_numpy(is_rollin),
            old_logprobs=torch.from_numpy(np.where(wrote, buffer.logprobs, 0.0)),
            rewards=torch.from_numpy(progress.rewards),
            terminated=torch.from_numpy(progress.terminated),
            truncated=torch.from_numpy(progress.truncated),
            switch=torch.from_numpy(np.minimum(switch, lengths)),
            examples=torch.tensor([int(info.get("example", -1)) for info in infos]),
            infos=infos,
            learn_on=self.plan.learn_on,
            values=None if values is None else torch.from_numpy(np.pad(values, ((0, 0), (0, 1)))),
            cut_mass=None if buffer.cut_mass is None else torch.from_numpy(np.where(wrote, buffer.cut_mass, 0.0)),
        )
