"""Shared functions of rewards that run a model of the `transformers` library: loading once per process, and batches.

B rows of ids, L ids of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tril_gym.rewards.fitting import cached
from tril_gym.utils.config_fields import check_choice, check_integer
from tril_gym.utils.quiet import only_errors_of_transformers

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Ids = list[int]

DTYPES = ("float32", "bfloat16", "float16")
USUAL_LENGTH = 512  # tokens, the limit of most encoders
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"


class ComputeSettings(NamedTuple):
    """Device and precision of a model."""

    device: str
    dtype: str


def check_run_settings(*, batch_size: int, dtype: str) -> None:
    """Raise ValueError for a batch size or dtype that a model cannot run with."""
    check_integer("batch_size", batch_size, 1)
    check_choice("dtype", dtype, DTYPES, usual="float32")


def resolve_model(reward: str, model: str | Path | None, *, kind: str, allow_adapter: bool = False) -> str:
    """Return the hub name of a model, or the absolute path of its folder.

    Args:
        reward: the reward that reads the model, for messages.
        model: name or folder.
        kind: the kind of model that is needed, for messages.
        allow_adapter: whether an adapter of peft is accepted.

    Raises:
        ValueError: no model is named, or the folder holds none.
    """
    if model is None:
        raise ValueError(f"{reward} has no model; pass model=NAME or FOLDER of a {kind}")
    if not _is_path(model):
        return str(model)
    folder = Path(model).expanduser().absolute()
    check_folder(folder, kind=kind, allow_adapter=allow_adapter)
    return str(folder)


def check_folder(folder: Path, *, kind: str, allow_adapter: bool = False) -> None:
    """Raise ValueError for a folder without a model."""
    names = (CONFIG, ADAPTER_CONFIG) if allow_adapter else (CONFIG,)
    if not any((folder / name).is_file() for name in names):
        raise ValueError(f"no {kind} in {str(folder)!r}: it has no {' or '.join(names)}")


def _is_path(model: str | Path) -> bool:
    """Return whether this is a folder, or can only be one; otherwise "owner/name" and "name" are hub names."""
    text = str(model)
    marked = isinstance(model, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1
    return marked or Path(text).is_dir()


def load_once(load: Callable[..., T], source: str, *arguments: Hashable, device: str | None, dtype: str) -> T:
    """Return `load(source, compute, *arguments)`, called once per process while the files of a folder do not change.

    Args:
        load: a function of a module, part of the key.
        source: a hub name or a folder.
        arguments: further arguments of `load`.
        device: torch device; None takes the GPU if there is one.
        dtype: one of `DTYPES`.
    """
    compute = ComputeSettings(_device(device), dtype)
    key = (load.__module__, load.__qualname__, source, _file_states(Path(source)), compute, arguments)
    return cached(key, lambda: load(source, compute, *arguments))


def _device(device: str | None) -> str:
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"there is no device {device!r} here; None takes the GPU if there is one ({error})") from error
    return device


def _file_states(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return names, sizes and times of the files in a folder; nothing for a hub name."""
    if not folder.is_dir():
        return ()
    states = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)


def from_pretrained(kind: Any, source: str, **settings: Any) -> tuple[Any, list[str]]:
    """Return a model, and the names of weights that are missing in its checkpoint or have another shape there.

    Args:
        kind: an Auto class of `transformers`.
        source: a hub name or a folder.
        settings: of the kind's `from_pretrained`.

    Raises:
        ValueError: nothing of that kind can be loaded from there.
    """
    with _explain_load_errors(kind, source), quiet_loading():
        model, found = kind.from_pretrained(source, output_loading_info=True, **settings)
    lacking = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    return model.eval().requires_grad_(False), sorted(lacking)


def load_config(source: str) -> Any:
    """Return the configuration of the model of that name or in that folder.

    Raises:
        ValueError: there is none.
    """
    from transformers import AutoConfig

    with _explain_load_errors(AutoConfig, source):
        return AutoConfig.from_pretrained(source)


@contextmanager
def _explain_load_errors(kind: Any, source: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"nothing could be loaded from {source!r} as {kind.__name__}; give the folder of a saved model with its"
            f" tokenizer, or a name of the hub, which needs a network ({reason})"
        ) from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Put the global generator back, which draws weights that a checkpoint lacks, and keep reports of them away."""
    import torch

    with torch.random.fork_rng(devices=[]), only_errors_of_transformers():
        yield


def positions_of(model: Any, tokenizer: Any) -> int | None:
    """Return the maximum number of tokens that a model reads; None if neither model nor tokenizer has a limit."""
    import torch

    most = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        # RoBERTa's positions start after its padding id.
        is_table = isinstance(module, torch.nn.Embedding) and name.endswith("position_embeddings")
        if is_table and module.padding_idx is not None:
            most = module.num_embeddings - module.padding_idx - 1
    known = [int(length) for length in (most, tokenizer.model_max_length) if length and length < 10**9]
    return min(known, default=None)


def length_to_read(max_length: int | None, *, most: int | None, usual: int, least: int) -> int:
    """Return the number of tokens to read: the user's, else the model's maximum, but at most `usual`.

    Raises:
        ValueError: more than the model can read, or too few for any text.
    """
    if max_length is None:
        return min(usual, most or usual)
    if not isinstance(max_length, int) or max_length < least or (most is not None and max_length > most):
        allowed = f"in [{least}, {most}]" if most is not None else f"at least {least}"
        raise ValueError(f"max_length must be {allowed} for this model, got {max_length}")
    return max_length


def batches_by_length(lengths: Sequence[float], size: int, groups: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Yield the row indices of batches of similar length, which need little padding.

    Args:
        lengths: number of ids of each row.
        size: maximum number of rows in a batch.
        groups: rows of different groups are never in one batch.
    """
    groups = groups if groups is not None else [0] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda row: (groups[row], lengths[row]))
    for _, members in groupby(order, key=lambda row: groups[row]):
        rows = list(members)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def pad(rows: Iterable[Ids], pad_id: int) -> dict[str, torch.Tensor]:
    """Return ids and mask of B texts, padded on the right: (B, L) each."""
    import torch

    rows = list(rows)
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([ids + [pad_id] * (longest - len(ids)) for ids in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in rows]),
    }
