"""Load language models by name or from a folder: plain, quantised, or an adapter with its base."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tril_gym.models.architecture import check_writes
from tril_gym.models.lora import Lora
from tril_gym.utils.quiet import without_progress_bars
from tril_gym.utils.suggestions import path_with_suggestion

ALIGNMENT = 64  # bytes; alignment of torch's own CPU allocations
# Keywords that say which files of a name are loaded, and whether code among them is run.
SOURCE_SETTINGS = ("revision", "trust_remote_code")
# Keywords that leave a model's numbers as they are.
SETTINGS_OF_NO_WEIGHT = ("attn_implementation", "device_map", "trust_remote_code")
QUANTISATION_SETTINGS = ("load_in_4bit", "load_in_8bit", "quantization_config", "device_map")
ADAPTER_CONFIG, BASE_FILE, BASE_FOLDER = "adapter_config.json", "base.json", "base"
POLICY_FOLDER, RUN_CONFIG = "policy", "config.yaml"  # in a run folder


@dataclass(frozen=True)
class BaseModelRef:
    """How to load a base model again, and a hash by which to verify it."""

    name: str
    settings: dict[str, Any]  # keywords of `load_model`, as JSON data
    fingerprint: str  # of the weights

    @classmethod
    def of(cls, model: Any, name: str | Path, settings: Mapping[str, Any]) -> BaseModelRef | None:
        """Return the reference of a model that has just been loaded; None if its settings are not JSON data."""
        plain = {key: _as_text(value) for key, value in settings.items()}
        try:
            json.dumps(plain)
        except TypeError:
            return None
        return cls(str(Path(name).resolve()) if Path(name).is_dir() else str(name), plain, fingerprint(model))

    def is_of(self, model: nn.Module) -> bool:
        """Return whether a model has these weights."""
        return fingerprint(model) == self.fingerprint


def _of_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those keywords of `load_model` that decide which weights a model has."""
    return {key: _as_text(value) for key, value in settings.items() if key not in SETTINGS_OF_NO_WEIGHT}


def _as_text(value: Any) -> Any:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype | torch.device) else value


def load_model(name: str | Path, *, load_in_4bit: bool = False, load_in_8bit: bool = False, **settings: Any) -> Any:
    """Load a causal or encoder-decoder model.

    Args:
        name: a hub name or a folder.
        load_in_4bit: quantise its linear layers.
        load_in_8bit: the same in 8 bits.
        settings: for the model's own `from_pretrained`.

    Raises:
        ValueError: `transformers` finds no model of this name, it is an encoder, or the hardware cannot quantise.
        ImportError: quantising needs bitsandbytes, or an attention needs a package that is missing.
    """
    if load_in_4bit or load_in_8bit:
        settings["quantization_config"] = _quantisation(load_in_4bit, load_in_8bit, settings.get("dtype"))
    try:
        kind, config = model_kind(name, settings)
    except (OSError, ValueError) as error:
        raise _not_loadable(name, error) from error
    check_writes(config, repr(str(name)))
    try:
        with without_progress_bars():
            model, found = kind.from_pretrained(name, output_loading_info=True, **settings)
    except RuntimeError as error:
        if "quantization_config" not in settings:
            raise
        raise ValueError(f"{name} cannot be quantised on this machine: {error}; load it in full") from error
    except (OSError, ValueError) as error:
        raise _not_loadable(name, error) from error
    _check_has_head(model, found["missing_keys"], name)
    return model


def _check_has_head(model: Any, missing: Collection[str], name: str | Path) -> None:
    """Raise `ValueError` for a model whose language-modelling head has new weights, such as a sequence classifier."""
    head = model.get_output_embeddings()
    own = set() if head is None else {id(weight) for weight in head.parameters()}
    lacking = sorted(key for key, weight in model.named_parameters() if key in missing and id(weight) in own)
    if lacking:
        raise ValueError(
            f"{str(name)!r} is no language model: it lacks the weights {lacking[0]}, without which it would write"
            " noise; give a model that was saved with its language-modelling head, not a classifier or a reward model"
        )


def _not_loadable(name: str | Path, error: Exception) -> ValueError:
    named = path_with_suggestion(str(name), ("tiny", "tiny-seq2seq"))
    is_missing_folder = str(name).startswith((".", "/", "~")) and not Path(name).exists()
    why = "there is no such folder" if is_missing_folder else str(error).partition("\n")[0]
    return ValueError(
        f"no language model could be loaded as {named}; give the folder of a saved model, a hub name"
        f" (network needed), or tiny / tiny-seq2seq ({why})"
    )


def model_kind(name: str | Path, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the class of `transformers` that loads a model, and its configuration.

    Args:
        name: a hub name or a folder.
        settings: keywords of `load_model`, of which those that say where the configuration is are used.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(name, **source_settings(settings))
    kind: Any = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    (saved, *_) = config.architectures or ("",)
    is_known = type(config) in kind._model_mapping or hasattr(config, "auto_map")
    if not is_known and saved.endswith(("ForCausalLM", "ForConditionalGeneration")):  # that of Emu3's text, for one
        kind = getattr(transformers, saved, kind)
    return kind, config


def model_folder(name: str | Path) -> str | Path:
    """Return where the files of a model are: for a run folder, or an agent's, its `policy`; else the name itself.

    Links are resolved, so that all files are those of one policy, also while a run shows its next one.

    Raises:
        ValueError: the run has no policy.
    """
    folder = Path(name)
    if not folder.is_dir() or any((folder / file).is_file() for file in ("config.json", ADAPTER_CONFIG)):
        return folder.resolve() if folder.is_symlink() else name
    if (folder / POLICY_FOLDER).is_dir():
        return (folder / POLICY_FOLDER).resolve()
    if (folder / RUN_CONFIG).is_file():
        raise ValueError(
            f"{str(name)!r} is a run folder without a policy: an agent's run has one once its first checkpoint is"
            f" written; name another run, or the folder of a model such as {folder / 'checkpoints'}/*/policy"
        )
    return name


def source_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those keywords that hold for configuration and tokenizer as well."""
    return {name: settings[name] for name in SOURCE_SETTINGS if name in settings}


def _quantisation(load_in_4bit: bool, load_in_8bit: bool, compute: Any) -> Any:
    """Return the settings of bitsandbytes; 4 bits as in QLoRA (Dettmers et al. 2023, arXiv 2305.14314).

    Args:
        load_in_4bit: quantise to 4 bits.
        load_in_8bit: quantise to 8 bits.
        compute: dtype to compute in, of 4 bits; None or "auto": bfloat16.
    """
    if load_in_4bit and load_in_8bit:
        raise ValueError("load_in_4bit and load_in_8bit exclude each other; choose one")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError("loading in 4 or 8 bits needs bitsandbytes: pip install tril-gym[quant]")
    from transformers import BitsAndBytesConfig

    if load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if compute in (None, "auto") else compute
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def is_quantised(model: Any) -> bool:
    """Return whether a model's weights are integers with scales, which cannot be trained."""
    return getattr(model, "quantization_method", None) is not None


def is_adapter(name: str | Path) -> bool:
    """Return whether this is a folder with an adapter, as peft or `save_adapter` writes it."""
    return (Path(name) / ADAPTER_CONFIG).is_file()


def save_adapter(lora: Lora, base_ref: BaseModelRef | None, folder: Path) -> None:
    """Write an adapter with the reference to its base, or with the base's weights if there is no valid reference."""
    base = lora.base()
    named = base_ref if base_ref is not None and base_ref.is_of(base) else None
    lora.save(folder, base=None if named is None else named.name)
    if named is not None:
        (folder / BASE_FILE).write_text(json.dumps(asdict(named), indent=2) + "\n")
    else:
        with without_progress_bars():
            base.save_pretrained(folder / BASE_FOLDER)


def load_adapter(folder: Path, settings: dict[str, Any], *, in_full: bool = False) -> tuple[Lora, BaseModelRef | None]:
    """Load an adapter on its base; return it with the reference to the base.

    Args:
        folder: with the files of peft. The base is beside them, or named in base.json or in peft's configuration.
        settings: keywords of `load_model` for the base, which override those it was loaded with.
        in_full: load the base without quantising it, on the CPU.

    Raises:
        ValueError: the base cannot be loaded, or has changed.
    """
    if (folder / BASE_FOLDER).is_dir():
        return Lora.load(load_model(folder / BASE_FOLDER, **{"dtype": "auto"} | settings), folder), None
    known = None
    if (folder / BASE_FILE).is_file():
        known = BaseModelRef(**json.loads((folder / BASE_FILE).read_text()))
    name = known.name if known else json.loads((folder / ADAPTER_CONFIG).read_text()).get("base_model_name_or_path")
    if not name:
        raise ValueError(f"{folder} holds an adapter that does not name its base; write it into {ADAPTER_CONFIG} there")
    settings = (known.settings if known else {}) | settings
    if in_full:
        settings = {key: value for key, value in settings.items() if key not in QUANTISATION_SETTINGS}
    way_out = f"put it back, or write where it is into {folder / (BASE_FILE if known else ADAPTER_CONFIG)}"
    try:
        model = load_model(name, **settings)
    except ValueError as error:
        raise ValueError(f"the base {name} of the adapter in {folder} cannot be loaded; {way_out} ({error})") from error
    if known is not None and _of_weights(settings) == _of_weights(known.settings) and not known.is_of(model):
        raise ValueError(f"{name} is no longer the model that the adapter in {folder} was trained on; {way_out}")
    base_ref = known or BaseModelRef.of(model, name, settings)  # before the adapter is among the weights
    return Lora.load(model, folder), base_ref


def tokenizer_source(folder: str | Path, base_ref: BaseModelRef | None) -> str | Path:
    """Return where the tokenizer of an adapter is: in its folder, or where there is none, with its base."""
    if base_ref is None or (Path(folder) / "tokenizer_config.json").is_file():
        return folder
    return base_ref.name


def fingerprint(model: nn.Module) -> str:
    """Return a hash of a model's weights, bit by bit; the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {_bit_sum(tensor)}".encode())
    return digest.hexdigest()[:32]


def _bit_sum(tensor: torch.Tensor) -> int:
    """Return the sum of a tensor's bytes as 64-bit integers, modulo 2^64: exact in any order of summation."""
    if tensor.is_meta:
        return 0
    flat = tensor.detach().contiguous().flatten().view(torch.uint8)
    flat = flat.clone() if flat.storage_offset() % 8 else flat
    whole = len(flat) // 8 * 8
    return int(flat[:whole].view(torch.int64).sum()) + int(flat[whole:].sum(dtype=torch.int64))


def align_storage(model: Any) -> Any:
    """Align every CPU weight in memory as torch's own allocations are, in place; return the model.

    Weights of a memory-mapped file have arbitrary addresses, and kernels round differently there: a policy that was
    saved and loaded would not continue exactly like one that was never stopped.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % ALIGNMENT:
            parameter.data = parameter.data.clone()
    return model
