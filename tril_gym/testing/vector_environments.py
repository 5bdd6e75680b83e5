"""The contract of a vector environment of texts, as a check that its author runs.

n texts side by side, P prompt tokens, T new tokens, V words in the vocabulary.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from tril_gym.testing.comparison import difference
from tril_gym.testing.conformance import as_broken, no_global_randomness, refuses, require, require_same, unchanged
from tril_gym.testing.environments import MakeEnv
from tril_gym.testing.row import Row
from tril_gym.testing.text_sizes import TextSizes
from tril_gym.testing.vector_steps import equal_steps, random_actions
from tril_gym.utils.batched_infos import row_of

MakeVectorEnv = Callable[..., VectorEnv[Any, Any, Any]]
MODES = ("NextStep", "SameStep", "Disabled")


def check_vector_env(
    make_vec: MakeVectorEnv,
    make: MakeEnv | None = None,
    *,
    modes: Sequence[str] = MODES,
    num_envs: int = 3,
    steps: int = 40,
    seed: int = 0,
    tolerance: float = 0.0,
) -> None:
    """Check a vector environment against the contract of docs/environments.md, in every autoreset mode.

    Metadata and spaces, autoreset, seeds, the independence of rows, the absence of side effects, restarts of rows (if
    the metadata offers them), copies and the specification (if `gym.make_vec` made the environment). With `make`, also
    that it equals `SyncVectorEnv` over single environments, step for step, infos included.

    Args:
        make_vec: `make_vec(num_envs=…, autoreset_mode=…)` returns a new vector environment, such as
            `functools.partial(gym.make_vec, "tril/Toy-v0")`.
        make: returns a single environment with the same settings.
        modes: autoreset modes that it has.
        num_envs: n.
        steps: random steps of each comparison.
        seed: of the random texts.
        tolerance: largest difference of rewards, 0 for rewards without a model.

    Raises:
        ConformanceError: a rule is broken. The message has the rule and the values.
    """
    for mode in modes:
        made = _Made(make_vec, mode, num_envs, steps, seed, tolerance)
        sizes = _check_shapes(made)
        _check_autoreset(made, sizes)
        with no_global_randomness("a vector environment"):  # not in the first steps: libraries draw at their import
            _check_side_effects(made)
            _check_seeds(made)
            _check_rows(made)
            _check_copies(made)
        if sizes.restart == "rows":
            _check_restarts(made, sizes)
        _check_spec(made)
        if make is not None:
            sync = SyncVectorEnv([make] * num_envs, autoreset_mode=mode)
            rule = f"in mode {mode}, it equals SyncVectorEnv over single environments"
            equal_steps(made.envs(), sync, rule=rule, steps=steps, seed=seed, tolerance=tolerance)


class _Made:
    """Makes vector environments of one mode, and has the arguments of the check."""

    def __init__(
        self, make_vec: MakeVectorEnv, mode: str, num_envs: int, steps: int, seed: int, tolerance: float
    ) -> None:
        self.make_vec, self.mode, self.num_envs = make_vec, mode, num_envs
        self.steps, self.seed, self.tolerance = steps, seed, tolerance

    def envs(self, num_envs: int | None = None) -> VectorEnv[Any, Any, Any]:
        envs = self.make_vec(num_envs=num_envs or self.num_envs, autoreset_mode=self.mode)
        require(isinstance(envs, VectorEnv), "make_vec() returns a gymnasium.vector.VectorEnv", repr(envs))
        return envs

    def same(self, one: Any, other: Any, rule: str) -> None:
        require_same(one, other, f"in mode {self.mode}, {rule}", tolerance=self.tolerance)

    def equal(self, one: VectorEnv[Any, Any, Any], other: VectorEnv[Any, Any, Any], rule: str, **keywords: Any) -> None:
        sizes = {"steps": self.steps // 2, "seed": self.seed, "tolerance": self.tolerance} | keywords
        equal_steps(one, other, rule=f"in mode {self.mode}, {rule}", **sizes)


def _check_shapes(made: _Made) -> TextSizes:
    envs = made.envs()
    sizes = TextSizes.of(envs)
    sizes.check_spaces(envs.single_observation_space, envs.single_action_space)
    for name, space, single in (
        ("observation_space", envs.observation_space, envs.single_observation_space),
        ("action_space", envs.action_space, envs.single_action_space),
    ):
        rule = f"{name} is batch_space(single_{name}, {made.num_envs})"
        require(space == batch_space(single, made.num_envs), rule, repr(space))
    require(envs.num_envs == made.num_envs, f"num_envs is {made.num_envs}", repr(envs.num_envs))
    stated = envs.metadata.get("autoreset_mode")
    rule = f'metadata["autoreset_mode"] is AutoresetMode("{made.mode}"), in which it was made'
    require(stated == AutoresetMode(made.mode), rule, repr(stated))
    observations, infos = envs.reset(seed=made.seed)
    require(observations in envs.observation_space, "observations are in observation_space", repr(observations))
    require(isinstance(infos, dict), "reset returns (observations, dictionary)", repr(infos))
    return sizes


def _check_autoreset(made: _Made, sizes: TextSizes) -> None:
    """Follow each row through its episodes: what a step writes, ends, resets, and leaves alone."""
    envs = made.envs()
    observations, _ = envs.reset(seed=made.seed)
    rows = [Row(row, sizes, made.mode) for row in range(made.num_envs)]
    for row in rows:
        row.begin(observations, "after reset")
    rng = np.random.default_rng(made.seed)
    for number in range(made.steps):
        actions = random_actions(rng, envs)
        step = envs.step(actions.copy())
        rule = f"in mode {made.mode}, step returns (observations, rewards, terminated, truncated, infos), four arrays"
        is_right = len(step) == 5 and all(np.shape(part)[:1] == (made.num_envs,) for part in step[:4])
        require(is_right and isinstance(step[4], dict), rule, repr(step))
        for row in rows:
            row.follow(step, int(actions[row.row]), f"at step {number}")
        if number % 3 == 2 or sizes.restart != "rows":  # between, rows are idle where the contract says so
            _reset_ended(envs, rows, f"at the reset after step {number}")


def _reset_ended(envs: VectorEnv[Any, Any, Any], rows: Sequence[Row], where: str) -> None:
    """Reset the rows that have ended in mode DISABLED; the others must stay as they are."""
    mask = np.array([row.has_ended for row in rows])
    if rows[0].mode != "Disabled" or not mask.any():
        return
    observations, infos = envs.reset(options={"reset_mask": mask})
    for row in rows:
        if mask[row.row]:
            row.begin(observations, where)
        else:
            row.check_text(observations[row.row], f"{where} of other rows")
            require(
                row_of(infos, row.row) == {}, f"{row.name(where)}, a row that is not reset has no info", repr(infos)
            )


def _check_seeds(made: _Made) -> None:
    one, other = made.envs(), made.envs()
    made.equal(one, other, f"two environments have the same episodes after reset(seed={made.seed})")
    made.equal(one, other, "an environment repeats the episodes of a seed")
    listed = [made.seed + row for row in range(made.num_envs)]
    rule = f"reset(seed={made.seed}) gives row i the seed {made.seed} + i, as reset(seed={listed}) does"
    made.same(_reset(one, listed), other.reset(seed=made.seed), rule)
    made.same(one.reset(), other.reset(), f"{rule}, also for the next texts")
    observations, _ = one.reset(seed=made.seed)
    rest = [seed + 100 for seed in listed[1:]]
    again, _ = _reset(one, [made.seed, *rest])
    made.same(again[0], observations[0], "the seed of a row decides its text, whatever the seeds of others")
    prompts = [one.reset(seed=made.seed + 10 * i)[0].tolist() for i in range(8)]
    if TextSizes.of(one).num_examples != 1:
        require(any(prompt != prompts[0] for prompt in prompts), "seeds choose the prompts", f"{prompts[0]} for all")


def _reset(envs: VectorEnv[Any, Any, Any], seeds: list[int]) -> tuple[Any, dict[str, Any]]:
    """Reset with one seed per row, which Gymnasium's vector environments accept, though their base type does not."""
    return envs.reset(seed=seeds)  # type: ignore[arg-type]


def _check_rows(made: _Made) -> None:
    """Check that a row is what it is alone."""
    envs, alone = made.envs(), [made.envs(num_envs=1) for _ in range(made.num_envs)]
    rule = "a row returns what it returns in a vector environment of one row"
    observations, infos = envs.reset(seed=made.seed)
    for row, env in enumerate(alone):
        own, own_infos = env.reset(seed=made.seed + row)
        made.same((own[0], row_of(own_infos, 0)), (observations[row], row_of(infos, row)), f"{rule}, at reset")
    rng = np.random.default_rng(made.seed)
    for number in range(made.steps):
        actions = random_actions(rng, envs)
        step = envs.step(actions)
        for row, env in enumerate(alone):
            own_step = env.step(actions[row : row + 1])
            expected = (*(part[0] for part in own_step[:4]), row_of(own_step[4], 0))
            found = (*(part[row] for part in step[:4]), row_of(step[4], row))
            made.same(found, expected, f"{rule}, row {row} at step {number}")
        ended = step[2] | step[3]
        if made.mode == "Disabled" and ended.any():
            envs.reset(options={"reset_mask": ended})
            for row in np.flatnonzero(ended).tolist():
                alone[row].reset(options={"reset_mask": np.array([True])})


def _check_side_effects(made: _Made) -> None:
    envs = made.envs()
    rng = np.random.default_rng(made.seed)
    observations, _ = envs.reset(seed=made.seed)
    kept = [(observations, observations.copy())]
    for _ in range(6):
        actions = random_actions(rng, envs)
        with unchanged(f"in mode {made.mode}, step does not change its actions", actions):
            step = envs.step(actions)
        kept.append((step[0], step[0].copy()))
        if made.mode == "Disabled" and (ended := step[2] | step[3]).any():
            options = {"reset_mask": ended.copy()}
            rule = "reset does not change its options; it copies them where it must"
            if TextSizes.of(envs).restart == "rows":
                with unchanged(f"in mode {made.mode}, {rule}", options):
                    envs.reset(options=options)
            else:
                envs.reset(options=options)
    for array, then in kept:
        made.same(array, then, "observations are new arrays, which later steps do not change")


def _check_copies(made: _Made) -> None:
    ways: dict[str, Callable[[Any], Any]] = {
        "pickled": lambda envs: pickle.loads(pickle.dumps(envs)),
        "deep-copied": copy.deepcopy,
    }
    for name, copied in ways.items():
        envs, rng = made.envs(), np.random.default_rng(made.seed)
        envs.reset(seed=made.seed)
        if made.mode != "Disabled":
            envs.step(random_actions(rng, envs))
        rule = f"a vector environment can be {name}, and both continue alike"
        with as_broken(f"in mode {made.mode}, {rule}"):
            other = copied(envs)
            actions = random_actions(rng, envs)
            made.same(other.step(actions), envs.step(actions), rule)
            made.equal(other, envs, rule, seed=None)


def _check_restarts(made: _Made, sizes: TextSizes) -> None:
    """Check that rows which begin in a state equal rows that were stepped there."""
    rng = np.random.default_rng(made.seed)
    count = sizes.max_new_tokens // 2
    tokens = np.array([sizes.random_words(rng, count + 1)[:count] for _ in range(made.num_envs)])
    stepped, restarted = made.envs(), made.envs()
    observations, infos = stepped.reset(seed=made.seed)
    for column in range(count):
        observations, *_ = stepped.step(tokens[:, column])
    restarted.reset(seed=made.seed)
    completion = np.full((made.num_envs, sizes.max_new_tokens), -1)
    completion[:, :count] = tokens
    options = {"example": infos["example"].copy(), "completion": completion}
    where = f"a restart of all rows after the tokens {tokens.tolist()}"
    with unchanged(f"in mode {made.mode}, {where} does not change its options", options):
        found, again = restarted.reset(options=options)
    made.same(found, observations, f"{where} has the observations of the same steps")
    made.same(again, infos, f"{where} has the infos of a reset")
    actions = random_actions(rng, stepped)
    made.same(restarted.step(actions), stepped.step(actions), f"{where} continues as after the same steps, {actions}")
    drawn, plain = ([envs.reset() for _ in range(3)] for envs in (restarted, stepped))
    made.same(drawn, plain, f"{where} draws nothing from the generators of the rows")
    _check_masked_restart(made, sizes, completion)
    bad = completion.copy()
    bad[0, 0] = sizes.vocab_size
    rule = f"in mode {made.mode}, reset refuses a token outside 0 … {sizes.vocab_size - 1}, with ValueError"
    refuses(lambda: restarted.reset(options={"example": infos["example"], "completion": bad}), rule)


def _check_masked_restart(made: _Made, sizes: TextSizes, completion: npt.NDArray[np.int64]) -> None:
    """Check that with a mask only its rows are reset, and only their options are read."""
    envs, mask = made.envs(), np.zeros(made.num_envs, bool)
    mask[0] = True
    before, infos = envs.reset(seed=made.seed)
    examples, rows = infos["example"].copy(), completion.copy()
    examples[1:], rows[1:] = -7, sizes.vocab_size  # impossible, where they are not read
    observations, again = envs.reset(options={"reset_mask": mask, "example": examples, "completion": rows})
    written = [token for token in completion[0].tolist() if token >= 0]
    name = f"in mode {made.mode}, row 0 of a restart with reset_mask"
    sizes.check_observation(observations[0], sizes.prompt_of(before[0]), written, name)
    made.same(observations[1:], before[1:], "a restart with reset_mask leaves the other rows as they are")
    made.same(row_of(again, 0), row_of(infos, 0), "a row that is restarted has the info of a reset")


def _check_spec(made: _Made) -> None:
    envs = made.envs()
    if envs.unwrapped.spec is None:
        return
    rule = "gym.make_vec(envs.unwrapped.spec) makes the same vector environment again"
    with as_broken(f"in mode {made.mode}, {rule}"):
        again = gym.make_vec(copy.deepcopy(envs.unwrapped.spec))
    found = difference(again.metadata["text"], envs.metadata["text"])
    require(found is None, f"in mode {made.mode}, {rule}", str(found))
    made.equal(again, envs, rule)
