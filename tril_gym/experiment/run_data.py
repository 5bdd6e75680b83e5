"""Which examples a run learns from, and which it is evaluated on."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from tril_gym.data.splits import HELD_OUT, file_of_split, has_split, has_splits, is_held_out, is_saved
from tril_gym.experiment.config import RunConfig
from tril_gym.registration import accepts_dataset, examples_of

logger = logging.getLogger(__name__)

OWN_EXAMPLES = "the examples that the environment creates, as in training"


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


def evaluation_data(config: RunConfig, split: str | None) -> tuple[dict[str, Any], str]:
    """Return keywords of the examples to evaluate on, and their description."""
    if not accepts_dataset(config.env):
        if split is not None:
            raise ValueError(f"{config.env} creates its own examples, which have no splits; leave --split {split} out")
        if config.dataset not in (None, "embedded"):
            raise ValueError(f"{config.env} creates its own examples, got the data set {config.dataset}; leave it out")
        return {}, OWN_EXAMPLES
    name = config.eval_dataset or config.dataset or "embedded"
    if has_splits(name):
        return _whole_or_split(name, split or "test")
    if split is not None:
        raise ValueError(f"{name} is one file or table and has no splits; leave --split {split} out")
    return _divided_data(config, way_out="give a folder with test.jsonl, of which all is used")[1:]


def _divided_data(
    config: RunConfig, *, way_out: str = "name other data with --eval-dataset"
) -> tuple[dict[str, Any], dict[str, Any], str]:
    if not accepts_dataset(config.env):
        if config.pretrain_share < 1:
            raise ValueError(
                f"{config.env} creates its own examples, so --pretrain-share {config.pretrain_share:g} has no data set"
                " to divide; leave it out"
            )
        if config.dataset is not None or config.eval_dataset is not None:
            name = config.dataset or config.eval_dataset
            raise ValueError(f"{config.env} creates its own examples, got the data set {name}; leave it out")
        return {}, {}, OWN_EXAMPLES
    name = config.dataset or "embedded"
    train: dict[str, Any] = {"dataset": name, "split": "train"} if has_splits(name) else {"dataset": name}
    if config.eval_dataset is not None:
        held_out, description = _whole_or_split(config.eval_dataset, "validation")
        if "split" not in held_out:
            examples = examples_of(config.env, **held_out, **reading(config))
            whole = examples.select([True] * len(examples), source=description, held_out=True)
            whole.learning_part = partial(examples_of, config.env, **train, **reading(config))
            held_out = {"dataset": whole}
        return train, held_out, description
    if has_splits(name):
        if Path(name).is_dir():
            _check_has_validation(Path(name))
        return train, *_whole_or_split(name, "validation")

    examples = examples_of(config.env, dataset=name, **reading(config))
    is_kept_out = [is_held_out(prompt) for prompt in examples.prompts()]
    if all(is_kept_out) or not any(is_kept_out):
        raise ValueError(
            f"{name} has too few examples, {len(examples)}, to hold {HELD_OUT:.0%} out for evaluation; add some with"
            f" other prompts, since a prompt decides for all its examples, or {way_out}"
        )
    description = f"{sum(is_kept_out)} of the {len(examples)} examples of {name}, chosen by a hash ({HELD_OUT:.0%})"
    kept = examples.select([not held for held in is_kept_out], source=f"the learning part of {name}")
    part = examples.select(is_kept_out, source=description, held_out=True)
    part.learning_part = partial(examples_of, config.env, dataset=kept)
    return {"dataset": kept}, {"dataset": part}, description


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


def _whole_or_split(name: str, split: str) -> tuple[dict[str, Any], str]:
    """Return keywords and description of all of a file or table, or of a split of another data set."""
    if not has_splits(name):
        return {"dataset": name}, f"all of {name}"
    return {"dataset": name, "split": split}, f"the {split} split of {name}"


def reading(config: RunConfig) -> dict[str, Any]:
    """Return the keywords of the environment that say how rows are read."""
    names = ("on_bad_row", "column", "prompt_template")
    return {name: config.env_args[name] for name in names if name in config.env_args}
