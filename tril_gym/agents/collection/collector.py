"""Collection: a plan's actors write texts in a vector environment, token by token, through `reset` and `step`.

One mechanism for every algorithm, every autoreset mode, and every environment with `metadata["text"]`:

1. Everything random is drawn first, per episode and token, so that batching changes no text.
2. Each wave resets the environment with its episodes' own seeds: one text a row.
3. Rows whose coin says so get a rollin, cut at the switch. The environment is put there by a restart where it offers
   one per row, else the rollin's tokens are stepped as actions while the other rows already write on.
4. The rollout actor writes on until every row has ended. Rows that ended write filler nobody reads.

n rows of the environment, B texts of a wave, P prompt tokens, T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from tril_gym.agents.collection.generation import BatchGenerator, CompletionBuffer, write_rollins
from tril_gym.agents.collection.layout import TextLayout, codec_of
from tril_gym.agents.collection.plan import Plan, ReadsText
from tril_gym.agents.collection.trajectories import Infos, Trajectories
from tril_gym.utils.batched_infos import row_of
from tril_gym.utils.profiler import Timer


@dataclass(frozen=True, slots=True)
class EpisodeRandomness:
    """All the randomness of E episodes: each keeps its own, whatever it is batched with."""

    seeds: Tensor  # (E,) int64, of the environment's rows
    rollin_uniform: Tensor  # (E,) float64: a rollin where it is under rollin_prob
    switch: Tensor  # (E,) float64: where the rollin is cut
    rollin: Tensor  # (E, T) float64: one uniform a token
    rollout: Tensor  # (E, T) float64

    @staticmethod
    def of(episodes: int, max_new_tokens: int, generator: torch.Generator) -> EpisodeRandomness:
        """Draw for E episodes of at most T tokens."""
        seeds = torch.randint(2**31, (episodes,), generator=generator)
        table = torch.rand((episodes, 2 + 2 * max_new_tokens), generator=generator, dtype=torch.float64)
        rollin_uniform, switch = table[:, 0], table[:, 1]
        return EpisodeRandomness(
            seeds, rollin_uniform, switch, table[:, 2 : 2 + max_new_tokens], table[:, 2 + max_new_tokens :]
        )

    def __getitem__(self, rows: slice | np.ndarray) -> EpisodeRandomness:
        return EpisodeRandomness(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __len__(self) -> int:
        return self.seeds.shape[0]


def collect(
    envs: VectorEnv,
    plan: Plan,
    *,
    episodes: int,
    generator: torch.Generator,
    examples: Sequence[int] | None = None,
    timer: Timer | None = None,
) -> Trajectories:
    """Write `episodes` texts.

    Args:
        envs: a vector environment with `metadata["text"]`.
        plan: who writes what.
        episodes: texts to write; the first so many that are started count, so short texts have no advantage.
        generator: all the randomness of the collection, the environment's seeds included (CPU).
        examples: which example each text is written for; by default the environment draws. Needs an environment that
            restarts row by row.
        timer: counts the seconds spent in the environment as "score".

    Raises:
        ValueError: no episodes, or an environment that breaks its own metadata.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    layout = TextLayout.of(envs)
    if examples is not None and (layout.restart != "rows" or len(examples) != episodes):
        raise ValueError(
            f"examples must name one example for each of the {episodes} episodes, in an environment whose metadata says"
            f' restart="rows"; got {len(examples)} and restart={layout.restart!r}'
        )
    draws, timer = EpisodeRandomness.of(episodes, layout.max_new_tokens, generator), timer or Timer()
    waves = []
    for first in range(0, episodes, envs.num_envs):
        rows = slice(first, first + envs.num_envs)
        chosen = None if examples is None else np.asarray(examples[rows], dtype=np.int64)
        waves.append(_EpisodeBatch(envs, plan, layout, draws[rows], chosen, timer).write())
    return Trajectories.cat(waves)


def switch_points(lengths: np.ndarray, draws: np.ndarray, *, may_finish: bool = False) -> np.ndarray:
    """Where rollins are cut: uniform on 1 … length − 1, and 0 where a text is too short to be cut.

    Args:
        lengths: (B,) tokens of each rollin, EOS counted.
        draws: (B,) uniforms in [0, 1).
        may_finish: uniform on 1 … length: some rollins are whole texts, which nobody rolls out.
    """
    places = lengths if may_finish else lengths - 1
    return np.where(places < 1, 0, 1 + np.floor(draws * places).astype(np.int64))


class _EpisodeBatch:
    """One text for each of the first B rows of the environment."""

    def __init__(
        self,
        envs: VectorEnv,
        plan: Plan,
        layout: TextLayout,
        draws: EpisodeRandomness,
        examples: np.ndarray | None,
        timer: Timer,
    ) -> None:
        self.envs, self.plan, self.layout, self.draws, self.timer = envs, plan, layout, draws, timer
        self.examples = examples
        self.texts = len(draws)
        # Filler for rows that have nothing to write: EOS where a row then stands idle, else a token that is no EOS,
        # so that nobody scores a new short text at every other step.
        words = (token for token in range(layout.vocab_size) if token not in layout.eos_token_ids)
        self.filler = layout.eos_token_ids[0] if layout.keeps_ended_rows else next(words)

    def write(self) -> Trajectories:
        """Reset, roll in, roll out."""
        prompts, infos = self._reset()
        board, switch = self._roll_in(prompts, infos)
        stepped = self._restart_at_switch(switch, board, infos)
        rewards = np.zeros(board.tokens.shape)
        terminated, truncated = np.zeros(self.texts, dtype=bool), np.zeros(self.texts, dtype=bool)
        alive = np.ones(self.texts, dtype=bool)
        pen = BatchGenerator(self.plan.rollout, prompts, board, infos, self.draws.rollout)
        while alive.any():
            # A row that still steps its rollin has tokens in store; only one that has none asks for the next.
            if (alive & (stepped == board.written)).any():
                self._check_still_writing(alive & (stepped == board.written), pen)
                pen.write()
            rows = np.flatnonzero(alive)
            paid, ended, cut, step_infos = self._step(rows, board.tokens[rows, stepped[rows]])
            stepped[rows] += 1
            self._credit_rewards(rewards, paid, alive, stepped)
            told = self._rows_with_final_info(rows[ended | cut], step_infos)
            for row in told:
                infos[row] |= row_of(step_infos, row)
            terminated[rows], truncated[rows] = ended, cut
            alive[rows] = ~(ended | cut)
            pen.keep(alive[pen.rows])
        pen.close()
        return self._trajectories(prompts, board, switch, stepped, rewards, terminated, truncated, infos)

    def _reset(self) -> tuple[Tensor, Infos]:
        """Prompts (B, P) and infos of a fresh batch."""
        seeds = [int(seed) for seed in self.draws.seeds]
        spare = self.envs.num_envs - self.texts
        # An environment that keeps ended rows may defer rewards until the last row has ended; see `_credit_rewards`.
        options: dict[str, Any] = {"defer": True} if self.layout.keeps_ended_rows else {}
        if self.examples is not None:
            options["example"] = np.pad(self.examples, (0, spare), mode="edge")
        with self.timer.time("score"):
            # (Gymnasium's vector environments take a list of seeds, though their common type does not say so.)
            observations, infos = self.envs.reset(seed=seeds + seeds[:1] * spare, options=options or None)  # type: ignore[arg-type]
        prompts = np.array(observations[: self.texts, : self.layout.max_prompt_length], dtype=np.int64)
        return torch.from_numpy(prompts), [row_of(infos, row) for row in range(self.texts)]

    def _roll_in(self, prompts: Tensor, infos: Infos) -> tuple[CompletionBuffer, np.ndarray]:
        """A board with the rollins on it, up to each row's switch (B,)."""
        board, switch = CompletionBuffer.empty(self.texts, self.layout), np.zeros(self.texts, dtype=np.int64)
        rows = np.flatnonzero(self.draws.rollin_uniform.numpy() < self.plan.rollin_prob)
        if self.plan.rollin is not None and rows.size:
            chosen = [infos[row] for row in rows]
            draws = self.draws[rows]

            def cut(lengths: np.ndarray) -> np.ndarray:
                return switch_points(lengths, draws.switch.numpy(), may_finish=self.plan.allow_full_rollins)

            texts = prompts[rows], chosen, self.layout, draws.rollin
            tokens, logprobs, places = write_rollins(self.plan.rollin, *texts, cut)
            switch[rows] = self._whole_characters(tokens, places)
            before = np.arange(tokens.shape[1]) < switch[rows, None]
            board.tokens[rows] = np.where(before, tokens, -1)
            board.logprobs[rows] = np.where(before, logprobs, 0.0)
            board.written[rows] = switch[rows]
        return board, switch

    def _whole_characters(self, tokens: np.ndarray, switch: np.ndarray) -> np.ndarray:
        """Move switches (B,) in the midst of a character to its first token, where the rollout actor reads text."""
        actor = self.plan.rollout
        if not (isinstance(actor, ReadsText) and actor.reads_text(self.layout)):
            return switch
        start = codec_of(self.layout).character_start
        return np.array([start(row[row >= 0].tolist(), int(end)) for row, end in zip(tokens, switch, strict=True)])

    def _restart_at_switch(self, switch: np.ndarray, board: CompletionBuffer, infos: Infos) -> np.ndarray:
        """Put the environment at the switch where it can be put there; (B,) tokens that it has got by now."""
        # An environment cannot stand at the end of a text: the last token of a whole one is stepped.
        stand = switch - board.has_ended(np.arange(self.texts))
        moved = np.flatnonzero(stand)
        if not moved.size or self.layout.restart != "rows" or self.layout.dense_reward:
            return np.zeros(self.texts, dtype=np.int64)  # the rollin's tokens must be stepped
        rows = self.envs.num_envs
        mask, examples = np.zeros(rows, dtype=bool), np.full(rows, -1, dtype=np.int64)
        completions = np.full((rows, board.tokens.shape[1]), -1, dtype=np.int64)
        mask[moved] = True
        completions[moved] = np.where(np.arange(board.tokens.shape[1]) < stand[moved, None], board.tokens[moved], -1)
        examples[moved] = [infos[row]["example"] for row in moved]
        options = {"reset_mask": mask, "example": examples, "completion": completions}
        with self.timer.time("score"):
            self.envs.reset(options=options | ({"defer": True} if self.layout.keeps_ended_rows else {}))
        return stand

    def _step(self, rows: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step the whole environment: rewards of all B texts, and how each of `rows` ended."""
        actions = np.full(self.envs.num_envs, self.filler, dtype=np.int64)
        actions[rows] = tokens
        with self.timer.time("score"):
            _, rewards, terminated, truncated, infos = self.envs.step(actions)
            self._reset_ended_rows(terminated | truncated)
        if self.layout.autoreset_mode == AutoresetMode.SAME_STEP:
            infos = infos.get("final_info", {})  # the top level already speaks of the next text
        return rewards[: self.texts], terminated[rows], truncated[rows], infos

    def _rows_with_final_info(self, ended: np.ndarray, infos: dict[str, Any]) -> np.ndarray:
        """Rows of which a step's infos say something: those that ended, and those whose late scores came in."""
        if not (self.layout.keeps_ended_rows and "_scores" in infos):
            return ended
        return np.union1d(ended, np.flatnonzero(infos["_scores"][: self.texts]))

    def _reset_ended_rows(self, ended: np.ndarray) -> None:
        """Without autoreset a row that ended must be reset before the next step, unless it can stand idle."""
        if self.layout.autoreset_mode == AutoresetMode.DISABLED and not self.layout.keeps_ended_rows and ended.any():
            self.envs.reset(options={"reset_mask": ended.copy()})

    def _credit_rewards(self, rewards: np.ndarray, paid: np.ndarray, alive: np.ndarray, stepped: np.ndarray) -> None:
        """Add what was paid to each row's last token: idle rows may be paid late, others' new texts are not ours."""
        payees = np.flatnonzero(alive | (paid != 0)) if self.layout.keeps_ended_rows else np.flatnonzero(alive)
        rewards[payees, stepped[payees] - 1] += paid[payees]

    def _check_still_writing(self, waiting: np.ndarray, pen: BatchGenerator) -> None:
        waiting = waiting.copy()
        waiting[pen.rows] = False
        over = np.flatnonzero(waiting)
        if over.size:
            raise ValueError(
                f"row {over[0]} goes on after EOS or its token {self.layout.max_new_tokens}, where the metadata of the"
                " environment says that a text ends; check eos_token_ids and max_new_tokens"
            )

    def _trajectories(
        self,
        prompts: Tensor,
        board: CompletionBuffer,
        switch: np.ndarray,
        lengths: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        infos: Infos,
    ) -> Trajectories:
        columns = np.arange(board.tokens.shape[1])
        is_token = columns < lengths[:, None]  # an outside limit may have cut a rollin that was already written
        is_rollin = is_token & (columns < switch[:, None])
        wrote = is_token & ~is_rollin if self.plan.learn_on == "rollout" else is_rollin
        return Trajectories(
            prompts=prompts.clamp(min=0),
            is_prompt=prompts >= 0,
            tokens=torch.from_numpy(np.where(is_token, board.tokens, 0)),
            is_token=torch.from_numpy(is_token),
            is_rollin=torch.from_numpy(is_rollin),
            old_logprobs=torch.from_numpy(np.where(wrote, board.logprobs, 0.0)),
            rewards=torch.from_numpy(rewards),
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            switch=torch.from_numpy(np.minimum(switch, lengths)),
            examples=torch.tensor([int(info.get("example", -1)) for info in infos]),
            infos=infos,
            learn_on=self.plan.learn_on,
            values=None if board.values is None else torch.from_numpy(np.pad(board.values, ((0, 0), (0, 1)))),
        )
