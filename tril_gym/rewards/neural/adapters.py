"""Adapters of peft: loaded with their base, or put on the shared weights of a model in memory."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tril_gym.rewards.neural.pretrained import (
    ADAPTER_CONFIG,
    CONFIG,
    ComputeSettings,
    from_pretrained,
    quiet_loading,
)
from tril_gym.utils.tokenization import TOKENIZER_FILES

if TYPE_CHECKING:
    import torch
    from torch import nn

BASE_FOLDER = "base"  # beside an adapter whose base has no name


def is_adapter(source: str | Path) -> bool:
    """Return whether this is a folder with an adapter."""
    return (Path(source) / ADAPTER_CONFIG).is_file()


def download_adapter(source: str) -> str:
    """Return the folder of an adapter with a hub name; other names and folders unchanged."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if Path(source).is_dir():
        return source
    try:
        hf_hub_download(source, ADAPTER_CONFIG)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled):
        return source  # a whole model, or unreachable: loading it will raise
    return snapshot_download(source)


def base_model_of(folder: Path) -> str:
    """Return the name or folder of the base model of an adapter.

    Raises:
        ValueError: the adapter names none, or its folder is missing.
    """
    if (folder / BASE_FOLDER / CONFIG).is_file():
        return str(folder / BASE_FOLDER)
    name = json.loads((folder / ADAPTER_CONFIG).read_text()).get("base_model_name_or_path")
    if not name:
        raise ValueError(
            f"the adapter in {str(folder)!r} does not say what model it belongs to; write the model's name or folder as"
            f" base_model_name_or_path into its {ADAPTER_CONFIG}"
        )
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise ValueError(
            f"the adapter in {str(folder)!r} belongs to the model in {name!r}, which is missing; put it back, or"
            f" write its new path as base_model_name_or_path into {ADAPTER_CONFIG}"
        )
    return str(name)


def tokenizer_source(source: str) -> str:
    """Return the source of a model's tokenizer: the model, or the base of an adapter without tokenizer files."""
    own = any((Path(source) / name).is_file() for name in TOKENIZER_FILES)
    return base_model_of(Path(source)) if is_adapter(source) and not own else source


def load_with_adapter(kind: Any, source: str, compute: ComputeSettings, **settings: Any) -> Any:
    """Return the base of an adapter with the adapter on it.

    Args:
        kind: an Auto class of `transformers`.
        source: the adapter's folder.
        compute: device and precision of the base.
        settings: for the base's `from_pretrained`.

    Raises:
        ValueError: base and adapter together lack weights, or do not fit.
    """
    base, missing = from_pretrained(kind, base_model_of(Path(source)), dtype=compute.dtype, **settings)
    return attach_adapter(base.to(compute.device), Path(source), missing)


def attach_adapter(model: Any, folder: Path, missing: Sequence[str] = ()) -> Any:
    """Put an adapter on a model, in place; return the adapted model.

    Args:
        model: the base.
        folder: the adapter's folder.
        missing: names of uninitialised weights of the model, which the adapter must contain.

    Raises:
        ValueError: the adapter lacks weights, or belongs to another model.
    """
    from peft import PeftModel
    from peft.utils import load_peft_weights

    saved = {name.replace(".modules_to_save", "") for name in load_peft_weights(str(folder), device="cpu")}
    if lacking := [name for name in missing if not any(key.endswith(f".{name}") for key in saved)]:
        raise ValueError(
            f"the adapter in {str(folder)!r} and its base both lack {', '.join(lacking)}; an adapter of a classifier"
            " has its head in modules_to_save"
        )
    try:
        with quiet_loading(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
            warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
            adapted = PeftModel.from_pretrained(model, str(folder), torch_device=str(model.device))
    except (RuntimeError, ValueError, UserWarning) as error:
        reason = " ".join(" ".join(str(error).splitlines()[:2]).split())
        raise ValueError(f"the adapter in {str(folder)!r} does not fit its base: {reason}") from error
    return adapted.eval().requires_grad_(False)


def classifier_on(base: Any) -> tuple[Any, list[str]]:
    """Return a sequence classifier with one output that shares the tensors of another model.

    Args:
        base: a plain model of `transformers` of the same architecture, such as a causal language model. It is not
            changed; a later change of its weights changes the classifier.

    Returns:
        The classifier, and the names of its weights that the base lacks, those of the head, which are 0.

    Raises:
        ValueError: there is no sequence classifier of this architecture, or the weights do not fit it.
    """
    model = _empty_classifier(base)
    target, source = model.base_model, base.base_model
    wanted, given = target.state_dict(), source.state_dict()
    common = {name: weight.detach() for name, weight in given.items() if name in wanted}
    lacking = sorted(wanted.keys() - common.keys())
    wrong = sorted(name for name, weight in common.items() if weight.shape != wanted[name].shape)
    if lacking or wrong:
        first = f"it lacks {lacking[0]}" if lacking else f"{wrong[0]} has the shape {tuple(common[wrong[0]].shape)}"
        raise ValueError(
            f"the weights of base, a {type(base).__name__}, do not fit a {type(model).__name__}: {first}; give the"
            " plain model that the adapter belongs to, without adapters on it, or leave base out to load it"
        )
    target.load_state_dict(common, assign=True)
    _share_buffers(target, dict(source.named_buffers()))
    missing = [name for name, weight in model.named_parameters() if weight.is_meta]
    for name in missing:
        _set(model, name, _zeros_like(model.get_parameter(name), base))
    return model.eval().requires_grad_(False), missing


def _empty_classifier(base: Any) -> Any:
    """Return a classifier on the meta device."""
    import torch
    from transformers import AutoModelForSequenceClassification, PreTrainedModel

    if not isinstance(base, PreTrainedModel) or getattr(base, "quantization_method", None) is not None:
        raise ValueError(
            f"base must be a plain model of transformers, not quantised, got a {type(base).__name__}; leave it out to"
            " load the adapter's base"
        )
    config = copy.deepcopy(base.config)
    config.num_labels = 1
    with torch.device("meta"), quiet_loading():
        try:
            return AutoModelForSequenceClassification.from_config(
                config, attn_implementation=base.config._attn_implementation
            )
        except ValueError as error:
            raise ValueError(f"there is no sequence classifier like base, a {type(base).__name__}: {error}") from error


def _share_buffers(target: nn.Module, given: dict[str, torch.Tensor]) -> None:
    """Share the buffers that are in no checkpoint, such as frequencies of rotary positions."""
    for name, buffer in list(target.named_buffers()):
        if buffer.is_meta:
            if name not in given or given[name].shape != buffer.shape:
                raise ValueError(f"base lacks the buffer {name} that its classifier needs; leave base out to load it")
            _set(target, name, given[name])


def _set(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, tensor)


def _zeros_like(weight: nn.Parameter, base: Any) -> nn.Parameter:
    import torch

    zeros = torch.zeros(weight.shape, dtype=base.dtype, device=base.device)
    return torch.nn.Parameter(zeros, requires_grad=False)
