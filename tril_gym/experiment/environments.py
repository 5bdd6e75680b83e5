"""The environments of a run: for training, for held-out examples, for an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv

from tril_gym.data.splits import HELD_OUT, file_of_split, has_split, has_splits, is_held_out, is_saved
from tril_gym.experiment.config import RunConfig
from tril_gym.registration import ENVIRONMENTS, accepts_dataset, examples_of, length_keywords
from tril_gym.utils.batched_infos import row_of
from tril_gym.utils.suggestions import with_suggestion
from tril_gym.utils.user_code import import_user_module
from tril_gym.wrappers.reward_term import terms
from tril_gym.wrappers.vector import base_attribute

logger = logging.getLogger(__name__)

Ids = npt.NDArray[np.int64]

if TYPE_CHECKING:
    from tril_gym.agents.actors.policy import LMPolicy
    from tril_gym.agents.collection.actor import Actor

PROBED = 3  # texts
PROMPT_SHOWN = 60  # characters of a prompt in a message


def make_envs(
    config: RunConfig, data: dict[str, Any], policy: LMPolicy | None, *, fitted: Path | None = None
) -> VectorEnv:
    """Return the vector environment of a run.

    Args:
        config: the settings.
        data: keywords of the environment that select its examples.
        policy: gives the tokenizer. Without one (a tiny policy, created for the environment later) embedded data use
            their own tokenizer, and other data get one fitted to them, because a tiny model learns little from the
            word pieces of a foreign vocabulary.
        fitted: a folder with what the rewards were fitted to.

    Raises:
        ValueError: there is no such environment, or it does not accept its keywords.
    """
    keywords: dict[str, Any] = dict(data) | config.env_args
    if has_data(config.env):
        own = {} if policy is None else _keywords_of(policy)
        if policy is None and data["dataset"] != "embedded":
            own = {"tokenizer": "fit"}
        keywords = own | keywords
    if config.reward is not None:
        keywords["reward"] = config.reward
    if fitted is not None and fitted.is_dir():
        keywords["fitted_rewards"] = str(fitted)
    mode: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}
    try:
        if _spec(config.env).vector_entry_point is None:  # a user's environment without a vector version
            return gym.make_vec(config.env, num_envs=config.num_envs, vector_kwargs=mode, **keywords)
        # Collection keeps no observation beyond a step, so ours need no copies.
        ours: dict[str, Any] = {"copy": False} if _is_ours(config.env) else {}
        return gym.make_vec(config.env, num_envs=config.num_envs, **ours | mode | keywords)
    except gym.error.Error as error:
        name = with_suggestion(config.env, gym.registry)
        raise ValueError(f"no environment {name}: {error}; ours are {', '.join(ENVIRONMENTS)}") from error
    except TypeError as error:
        way_out = "" if _is_ours(config.env) else "; docs/your_own_environment.md describes what a run needs"
        raise ValueError(
            f"{config.env} cannot be created with {', '.join(keywords | mode)}: {error}{way_out}"
        ) from error


def _keywords_of(policy: LMPolicy) -> dict[str, Any]:
    """Return the keywords of an environment for a policy: its tokenizer, and where its texts and prompts end."""
    own: dict[str, Any] = {"tokenizer": policy.tokenizer, "vocab_size": policy.vocab_size}
    eos = None if policy.tokenizer is None else policy.tokenizer.eos_token_id
    ends = [token for token in policy.eos_token_ids if token != eos]
    if eos is not None and ends:
        own["eos_token_ids"] = [eos, *ends]
    if not policy.model.config.is_encoder_decoder:
        own["prompt_eos"] = False
    return own


def _is_ours(env: str) -> bool:
    return env.split(":")[-1].startswith("tril/")


def _spec(env: str) -> EnvSpec:
    """Return the spec of an id, or of module:id after importing the module that registers it."""
    module, _, name = env.rpartition(":")
    if module:
        try:
            import_user_module(module)
        except Exception as error:  # of the user's code, such as SyntaxError
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"--env {env} is module:id, but {module} cannot be imported: {reason}") from error
    return gym.spec(name)


def has_data(env: str) -> bool:
    """Return whether an environment reads data sets: ours do, except the toy environment."""
    return accepts_dataset(env.split(":")[-1])


def default_reward(env: str) -> dict[str, float] | None:
    """Return the reward terms that an environment of ours has by default; None for others and without terms."""
    row = ENVIRONMENTS.get(env.split(":")[-1])
    return (dict(row.default_reward) or None) if row else None


def training_data(config: RunConfig) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return keywords of the training and of the held-out environment, and a description of the held-out examples.

    The description has the number of held-out prompts that are in the training part too; there should be none.
    """
    train, held_out, description = _divided_data(config)
    if config.pretrain_share < 1:
        train["part"] = (config.pretrain_share, 1.0)
    if not held_out:
        return train, held_out, description
    prompts = list(examples_of(config.env, **held_out, **reading(config)).prompts())
    learned = set(prompts).intersection(examples_of(config.env, **train, **reading(config)).prompts())
    if shared := sum(prompt in learned for prompt in prompts):
        logger.warning(
            "%d of the %d held-out prompts are also in the training part, so their metrics do not show generalisation;"
            " --eval-dataset names other data",
            shared,
            len(prompts),
        )
    return train, held_out, f"{description}; {len(prompts)} prompts, {shared or 'none'} of them in the training part"


def pretraining_envs(config: RunConfig, data: dict[str, Any], envs: VectorEnv) -> VectorEnv:
    """Return the environment whose references tiny models imitate first, for training on this data.

    Args:
        config: the settings.
        data: the keywords that select the examples to train on.
        envs: the environment of the training, which is also that of the pretraining unless they share the prompts out.
    """
    if config.pretrain_share == 1:
        return envs
    config = replace(config, reward=None, env_args=without_reward(config.env_args))
    return make_envs(config, data | {"part": (0.0, config.pretrain_share)}, None)


def without_reward(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords of an environment of ours without its rewards."""
    return {name: value for name, value in env_args.items() if name != "reward_settings"} | {"reward": None}


def reading(config: RunConfig) -> dict[str, Any]:
    """Return the keywords of the environment that say how rows are read."""
    names = ("on_bad_row", "column", "prompt_template")
    return {name: config.env_args[name] for name in names if name in config.env_args}


def _divided_data(config: RunConfig) -> tuple[dict[str, Any], dict[str, Any], str]:
    if not has_data(config.env):
        if config.pretrain_share < 1:
            raise ValueError(
                f"{config.env} creates its own examples, which --pretrain-share {config.pretrain_share:g} cannot share"
                " out; leave it out"
            )
        if config.dataset is not None or config.eval_dataset is not None:
            name = config.dataset or config.eval_dataset
            raise ValueError(f"{config.env} creates its own examples, got the data set {name}; leave it out")
        return {}, {}, "the examples of the environment"
    name = config.dataset or "embedded"
    train = {"dataset": name, "split": "train"} if has_splits(name) else {"dataset": name}
    if config.eval_dataset is not None:
        return train, *_whole_or_split(config.eval_dataset, "validation")
    if has_splits(name):
        if Path(name).is_dir():
            _check_has_validation(Path(name))
        return train, *_whole_or_split(name, "validation")

    examples = examples_of(config.env, dataset=name, **reading(config))
    held_out = [is_held_out(prompt) for prompt in examples.prompts()]
    if all(held_out) or not any(held_out):
        raise ValueError(
            f"{name} has too few examples, {len(examples)}, to hold {HELD_OUT:.0%} out for evaluation; add some, or"
            " name other data with --eval-dataset"
        )
    description = f"{sum(held_out)} of the {len(examples)} examples of {name}, chosen by a hash ({HELD_OUT:.0%})"
    kept = examples.select([not held for held in held_out], source=f"the learning part of {name}")
    parts = kept, examples.select(held_out, source=description, held_out=True)
    return {"dataset": parts[0]}, {"dataset": parts[1]}, description


def _check_has_validation(folder: Path) -> None:
    """Check that a folder with splits has a train and a validation split.

    Raises:
        ValueError: it has not.
    """
    train = folder / "train" if is_saved(folder) else file_of_split(folder, "train")
    if not has_split(folder, "validation"):
        what = "split" if is_saved(folder) else "file validation.jsonl"
        raise ValueError(
            f"{folder} has no validation split to evaluate on; add a {what}, name other data with --eval-dataset, or"
            f" hold a part of the train split out with --dataset {train}"
        )


def evaluation_data(config: RunConfig, split: str | None) -> tuple[dict[str, Any], str]:
    """Return keywords of the examples to evaluate on, and their description."""
    if not has_data(config.env):
        if split is not None:
            raise ValueError(f"{config.env} creates its own examples, which have no splits; leave --split {split} out")
        if config.dataset not in (None, "embedded"):
            raise ValueError(f"{config.env} creates its own examples, got the data set {config.dataset}; leave it out")
        return {}, "the examples of the environment"
    name = config.eval_dataset or config.dataset or "embedded"
    if has_splits(name):
        return _whole_or_split(name, split or "test")
    if split is not None:
        raise ValueError(f"{name} is one file or table and has no splits; leave --split {split} out")
    return _divided_data(config)[1:]


def _whole_or_split(name: str, split: str) -> tuple[dict[str, Any], str]:
    """Return keywords and description of all of a file or table, or of a split of another data set."""
    if not has_splits(name):
        return {"dataset": name}, f"all of {name}"
    return {"dataset": name, "split": split}, f"the {split} split of {name}"


def with_lengths(config: RunConfig, envs: VectorEnv) -> RunConfig:
    """Return the settings with the lengths that an environment of ours has, so that all of a run has these."""
    text = envs.metadata["text"]
    names = length_keywords(config.env.split(":")[-1])
    return replace(config, env_args={name: text[name] for name in names} | config.env_args)


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
    if not scores or not has_data(config.env):
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


def _last_words(prompts: Ids, eos_token_ids: Sequence[int]) -> Ids:
    """Return the last token of each prompt that is not EOS, 0 where there is none: (n, P) -> (n,)."""
    words = (row[(row >= 0) & np.isin(row, eos_token_ids, invert=True)] for row in prompts)
    return np.array([row[-1] if len(row) else 0 for row in words], dtype=np.int64)


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


def check_held_out(config: RunConfig, data: dict[str, Any], policy: LMPolicy | None) -> None:
    """Read the held-out examples and begin a text, without a reward, which is fitted to other examples.

    Raises:
        ValueError: the data, or the lengths of the environment, are wrong.
    """
    if not has_data(config.env):
        return
    config = replace(config, num_envs=1, reward=None, env_args=without_reward(config.env_args))
    envs = make_envs(config, data, policy)
    envs.reset(seed=0)
    envs.close()


def has_references(config: RunConfig, envs: VectorEnv) -> bool:
    """Return whether one of the first examples has references."""
    _, infos = envs.reset(seed=config.seed)
    return any(row_of(infos, row).get("references") for row in range(envs.num_envs))


def check_pairs(config: RunConfig, data: dict[str, Any]) -> None:
    """Check that the examples have pairs: all of a data set, the first ones of an environment that creates its own.

    Raises:
        ValueError: one has none.
    """
    from tril_gym.agents.actors.pairs import pair_of_example

    if has_data(config.env):
        for number, example in enumerate(examples_of(config.env, **data, **reading(config))):
            pair_of_example({"example": number, "references": example.references, "extras": example.extras})
        return
    envs = make_envs(config, data, None)
    _, infos = envs.reset(seed=config.seed)
    for row in range(envs.num_envs):
        pair_of_example(row_of(infos, row))
    envs.close()


def check_references(config: RunConfig, envs: VectorEnv) -> None:
    """Check that all examples of a data set have references, or the first ones that an environment creates.

    Raises:
        ValueError: one has none.
    """
    if has_data(config.env):
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
