"""Words that shells complete after options and arguments of `tril-gym`: names of environments, rewards and presets."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from click.shell_completion import CompletionItem

FILES = "file"  # types of click: the shell completes paths
FOLDERS = "dir"
TRACKERS = ("wandb", "tensorboard", "trackio", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab")


def _envs() -> Iterable[str]:
    from tril_gym.registration import ENVIRONMENTS

    return ENVIRONMENTS


def _presets() -> Iterable[str]:
    from tril_gym.experiment import presets

    return presets.names()


def _rewards() -> Iterable[str]:
    from tril_gym import rewards

    return rewards.names("text")


def _metrics() -> Iterable[str]:
    from tril_gym import rewards

    return rewards.names()


def _reward_args() -> Iterable[str]:
    return [f"{name}." for name in _metrics()]


# Names of options: where their words come from.
WORDS: dict[str, Callable[[], Iterable[str]]] = {
    "env": _envs,
    "preset": _presets,
    "reward": _rewards,
    "reward_args": _reward_args,
    "metrics": _metrics,
    "metric_args": _reward_args,
    "policy": lambda: ("tiny", "tiny-seq2seq"),
    "guide": lambda: ("tiny", "tiny-seq2seq", "references", "successes"),
    "dataset": lambda: ("embedded", "hub"),
    "eval_dataset": lambda: ("embedded", "hub"),
    "device": lambda: ("cpu", "cuda"),
    "track": lambda: TRACKERS,
}
PATHS = {"policy", "guide", "dataset", "eval_dataset", "reward", "metrics"}  # which may also be paths


def words_for(name: str | None, incomplete: str) -> list[CompletionItem] | None:
    """Return the words that complete the value of an option or argument; None leaves it to click.

    Args:
        name: of the option in Python.
        incomplete: what is typed of the value; of several separated by commas, the last one is completed.
    """
    if name == "output_dir":
        return [CompletionItem(incomplete, type=FOLDERS)]
    if name not in WORDS:
        return None
    before, comma, last = incomplete.rpartition(",") if name == "metrics" else ("", "", incomplete)
    found = [CompletionItem(f"{before}{comma}{word}") for word in WORDS[name]() if word.startswith(last)]
    return found or ([CompletionItem(incomplete, type=FILES)] if name in PATHS else [])


def folders(context: object, parameter: object, incomplete: str) -> list[CompletionItem]:
    """Have the shell complete folders, for arguments."""
    return [CompletionItem(incomplete, type=FOLDERS)]
