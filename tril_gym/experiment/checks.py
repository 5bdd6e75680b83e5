"""What is checked before a run starts: rewards, guide and examples are tried on a few first texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from tril_gym.experiment.config import RunConfig
from tril_gym.experiment.environments import make_envs, without_reward
from tril_gym.experiment.run_data import reading
from tril_gym.registration import accepts_dataset, examples_of
from tril_gym.utils.batched_infos import row_of
from tril_gym.wrappers.reward_term import terms
from tril_gym.wrappers.vector import base_attribute

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy
    from tril_gym.agents.collection.actor import Actor

Ids = npt.NDArray[np.int64]

PROBED = 3  # texts
PROMPT_SHOWN = 60  # characters of a prompt in a message


def check_rewards(
    config: RunConfig, data: dict[str, Any], policy: LMPolicy | None, *, fitted: Path | None = None
) -> None:
    """Score three texts of one token and three empty ones, so that errors appear before the run starts.

    Three, because a reward that does not give one number per text may be right for a single one.

    Args:
        config: the settings.
        data: as of `make_envs`, and so are the others; the examples to learn from, which rewards fit on.
        policy: gives the tokenizer.
        fitted: a folder with what the rewards were fitted to.

    Raises:
        ValueError: the reward, or the environment, fails.
    """
    from tril_gym.agents.collection.layout import TextLayout

    envs = make_envs(replace(config, num_envs=PROBED), data, policy, fitted=fitted)
    layout = TextLayout.of(envs)
    eos = np.full(PROBED, layout.eos_token_ids[0])
    try:
        observations, _ = envs.reset(seed=0)
        prompts = np.array(observations[:, : layout.max_prompt_length], dtype=np.int64)
        _, _, terminated, truncated, _ = envs.step(_last_words(prompts, layout.eos_token_ids))
        if not (terminated | truncated).any():
            envs.step(eos)
        envs.reset(seed=0)
        envs.step(eos)
    except Exception as error:
        if isinstance(error, ImportError | ValueError):
            raise
        kind = (
            "" if isinstance(error, RuntimeError) else f"{config.env} fails on a first text: {type(error).__name__}: "
        )
        raise ValueError(kind + str(error)) from error
    finally:
        envs.close()
    check_answers(config, envs, data)


def _last_words(prompts: Ids, eos_token_ids: Sequence[int]) -> Ids:
    """Return the last token of each prompt that is not EOS, 0 where there is none: (n, P) -> (n,)."""
    words = (row[(row >= 0) & np.isin(row, eos_token_ids, invert=True)] for row in prompts)
    return np.array([row[-1] if len(row) else 0 for row in words], dtype=np.int64)


def check_answers(config: RunConfig, envs: VectorEnv, data: dict[str, Any]) -> None:
    """Check that every example has what rewards such as `exact_match` compare with.

    Args:
        config: the settings.
        envs: an environment with the rewards.
        data: the keywords that select the examples.

    Raises:
        ValueError: one has no answer.
    """
    from tril_gym.rewards.text.verifiable import Verified

    scores = [term.score for term in terms(envs) if isinstance(term.score, Verified)]
    if not scores or not accepts_dataset(config.env):
        return
    for number, example in enumerate(examples_of(config.env, **data, **reading(config))):
        for score in scores:
            try:
                score.answers(example.references, example.extras)
            except ValueError as error:
                shown = _described(number, example.prompt)
                raise ValueError(f"example {shown} cannot be scored: {error}") from error


def _described(number: int, prompt: str) -> str:
    """Return the number of an example with the beginning of its prompt."""
    return f"{number} ({prompt[:PROMPT_SHOWN] + '…' * (len(prompt) > PROMPT_SHOWN)!r})"


def check_held_out(config: RunConfig, data: dict[str, Any], policy: LMPolicy | None) -> None:
    """Read the held-out examples and begin a text, without a reward, which is fitted to other examples.

    Raises:
        ValueError: the data, or the lengths of the environment, are wrong.
    """
    if not accepts_dataset(config.env):
        return
    config = replace(config, num_envs=1, reward=None, env_args=without_reward(config.env_args))
    envs = make_envs(config, data, policy)
    envs.reset(seed=0)
    envs.close()


def check_guide_function(config: RunConfig, data: dict[str, Any], policy: LMPolicy | None, guide: Actor) -> None:
    """Let a function of the user finish three texts, so that its errors appear before the run starts.

    Raises:
        ValueError: it fails.
    """
    import torch

    from tril_gym.agents.collection.generation import write_completions
    from tril_gym.agents.collection.layout import TextLayout
    from tril_gym.models.texts import Texts

    envs = make_envs(replace(config, num_envs=PROBED), data, policy)
    layout = TextLayout.of(envs)
    observations, infos = envs.reset(seed=0)
    texts = Texts.from_observations(torch.as_tensor(np.array(observations)), layout.max_prompt_length)
    uniforms = torch.full((PROBED, layout.max_new_tokens), 0.5, dtype=torch.float64)
    try:
        write_completions(guide, texts, [row_of(infos, row) for row in range(PROBED)], layout, uniforms)
    except Exception as error:
        raise ValueError(f"--guide {config.guide} fails on first texts: {error}") from error
    finally:
        envs.close()


def has_references(config: RunConfig, envs: VectorEnv) -> bool:
    """Return whether one of the first examples has references."""
    _, infos = envs.reset(seed=config.seed)
    return any(row_of(infos, row).get("references") for row in range(envs.num_envs))


def check_references(config: RunConfig, envs: VectorEnv) -> None:
    """Check that all examples of a data set have references, or the first ones that an environment creates.

    Raises:
        ValueError: one has none.
    """
    if accepts_dataset(config.env):
        examples = base_attribute(envs, "examples")
        found = ((number, example) for number, example in enumerate(examples) if not example.references)
        missing = next((_described(number, example.prompt) for number, example in found), None)
    else:
        _, infos = envs.reset(seed=config.seed)
        rows = (row_of(infos, row) for row in range(envs.num_envs))
        missing = next((info.get("example", "?") for info in rows if not info.get("references")), None)
    if missing is not None:
        raise ValueError(
            f"{config.algorithm} with these settings learns from references, and example {missing} of {config.env} has"
            " none; use data with references in every row (in tril/Text-v0 the column references or completion, which"
            " --column can name), or an algorithm and a guide that need none, such as ppo"
        )


def check_pairs(config: RunConfig, data: dict[str, Any]) -> None:
    """Check that the examples have pairs: all of a data set, the first ones of an environment that creates its own.

    Raises:
        ValueError: one has none.
    """
    from tril_gym.agents.actors.pairs import pair_of_example

    if accepts_dataset(config.env):
        for number, example in enumerate(examples_of(config.env, **data, **reading(config))):
            pair_of_example({"example": number, "references": example.references, "extras": example.extras})
        return
    envs = make_envs(config, data, None)
    _, infos = envs.reset(seed=config.seed)
    for row in range(envs.num_envs):
        pair_of_example(row_of(infos, row))
    envs.close()
