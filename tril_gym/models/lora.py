"""LoRA through peft: small adapters are trained, and the base model is not.

Policy, reference, critic and guide each have a network and an adapter of their own, and all their base weights are the
same tensors: one base model in memory, however many networks. So nothing is switched between them, and no network's
loss reaches another's adapter. (Hu et al. 2021, https://arxiv.org/abs/2106.09685)
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tril_gym.models.sharding import replace_parameters, shard, whole_parameters
from tril_gym.utils.quiet import without_peft_warnings
from tril_gym.utils.seeding import seeded

ALL_LINEAR = "all-linear"  # peft's name for every linear layer but the output's
LOADED_AS = "default"  # peft's name for an adapter that is loaded


def is_peft_model(model: Any) -> bool:
    """Return whether a model is wrapped by peft. Does not import peft: if it is not imported, there is none."""
    return "peft" in sys.modules and isinstance(model, sys.modules["peft"].PeftModel)


class Lora:
    """A network with one LoRA adapter.

    Args:
        peft_model: a `PeftModel` with one active LoRA adapter.

    Raises:
        ValueError: another kind of adapter, or one that is merged into its base.
    """

    def __init__(self, peft_model: Any) -> None:
        from peft import PeftType

        if len(peft_model.active_adapters) != 1:
            raise ValueError(
                f"a policy must have one active adapter, got {peft_model.active_adapters}; choose it with set_adapter"
            )
        (self.name,) = peft_model.active_adapters
        self.peft_model, self.config = peft_model, peft_model.peft_config[self.name]
        self.network: Any = peft_model.get_base_model()  # of `transformers`; its layers carry the adapter
        self.template: Lora | None = None  # where the base is sharded: the same without the base's numbers, to copy
        if self.config.peft_type != PeftType.LORA or self.config.bias != "none":
            raise ValueError(
                f"a policy's adapter must be LoRA with bias='none', got {self.config.peft_type.value} with"
                f" bias={getattr(self.config, 'bias', None)!r}; merge it into the model, or use LMPolicy.with_lora"
            )
        if getattr(self.config, "alora_invocation_tokens", None) is not None:
            raise ValueError(
                "a policy's adapter must act on every token, got an activated LoRA with alora_invocation_tokens="
                f"{self.config.alora_invocation_tokens}; train one without them, or use LMPolicy.with_lora"
            )
        if any(layer.merged for layer in self._layers()):
            raise ValueError("the adapter is merged into its base already; unmerge it, or use the plain model")
        self._refuse_tied_targets()

    @classmethod
    def on(
        cls,
        network: Any,
        *,
        rank: int,
        alpha: float | None = None,
        target_modules: str | Collection[str] | None = None,
        seed: int = 0,
    ) -> Lora:
        """Return a new adapter, with no effect yet, on a copy of the network that shares its weights.

        Args:
            network: a plain language model; it is left unchanged, and must not be trained any more.
            rank: columns of the adapter's matrices.
            alpha: the adapter's product is multiplied by alpha / rank; by default 2 · rank.
            target_modules: names of layers, or "all-linear"; by default peft's choice for the architecture.
            seed: the first matrix of each pair is drawn from it.

        Raises:
            ValueError: there are no such layers, or rank or alpha is out of range.
        """
        from peft import LoraConfig, TaskType, get_peft_model
        from transformers.pytorch_utils import Conv1D

        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise ValueError(f"rank must be a whole number of at least 1, got {rank!r}; the usual value is 8")
        alpha = 2 * rank if alpha is None else alpha
        if not isinstance(alpha, int | float) or not alpha > 0:
            raise ValueError(f"alpha must be a number above 0, got {alpha!r}; the usual value is twice the rank")
        targets = _targets(network, target_modules)
        config = LoraConfig(
            task_type=TaskType.SEQ_2_SEQ_LM if network.config.is_encoder_decoder else TaskType.CAUSAL_LM,
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]  # a factor; peft says int
            target_modules=targets,
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in network.modules()),
        )
        try:
            with seeded(seed), without_peft_warnings():
                return cls(get_peft_model(sharing_copy(network), config))
        except ValueError as error:
            raise ValueError(f"LoRA cannot be added to {target_modules or 'the usual layers'}: {error}") from error

    def _layers(self) -> Iterator[Any]:
        """Iterate over the layers that carry adapters."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        return (module for module in self.network.modules() if isinstance(module, BaseTunerLayer))

    def _refuse_tied_targets(self) -> None:
        # If two layers share a weight, merging the adapter of one would change the other as well.
        uses = Counter(id(weight) for _, weight in self.network.named_parameters(remove_duplicate=False))
        carriers = {id(layer) for layer in self._layers()}
        for path, layer in self.network.named_modules():
            if id(layer) in carriers and any(uses[id(weight)] > 1 for weight in layer.get_base_layer().parameters()):
                raise ValueError(
                    f"{path} shares its weight with another layer, so it cannot have an adapter of its own; name"
                    " other layers, or load the model with tie_word_embeddings=False"
                )

    def weights(self) -> dict[str, nn.Parameter]:
        """Return the adapter's own parameters, by the names that they have once it was saved and loaded."""
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper  # a layer that is trained as a whole

        carriers: Any = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        found = {}
        for path, layer in self.network.named_modules():
            if isinstance(layer, carriers):
                for name, weight in layer.named_parameters():
                    is_base, parts = name.startswith(("base_layer.", "original_module.")), name.split(".")
                    if not is_base and self.name in parts:
                        parts[parts.index(self.name)] = LOADED_AS
                        found[".".join([path, *parts])] = weight
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Return the adapter's tensors, without the base's."""
        return {name: weight.detach() for name, weight in self.weights().items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the tensors of `state_dict`.

        Raises:
            ValueError: they belong to an adapter on other layers.
        """
        weights = self.weights()
        if weights.keys() != state.keys():
            names = sorted(weights.keys() ^ state.keys())[:4]
            raise ValueError(f"the saved adapter is for other layers; weights that only one of the two has: {names}")
        for name, weight in weights.items():
            weight.copy_(state[name])
        if not self.is_trainable:
            self.freeze()

    @property
    def is_trainable(self) -> bool:
        """Whether any weight of the adapter requires a gradient."""
        return any(weight.requires_grad for weight in self.weights().values())

    def copy(self) -> Lora:
        """Return another network on the same base, whose adapter starts with the same weights and trains.

        That of a sharded base has no numbers in the base (device "meta"), until it is sharded or made whole.
        """
        source = self.template or self
        with without_peft_warnings():
            twin = Lora(sharing_copy(source.peft_model, but_for=source.weights().values()))
            twin.peft_model.base_model.enable_adapter_layers()  # which lets the adapter train, too
        if self.template is not None:
            twin.load_state_dict(self.state_dict())
        return twin

    def shard(self, on: Lora | None = None) -> None:
        """Let each process hold a part of the base's weights, in place; the adapter stays whole.

        Args:
            on: a sharded network on the same base, whose parts this one uses.
        """
        adapter = list(self.weights().values())
        self.template = Lora(sharing_copy(self.peft_model, but_for=adapter, base_device="meta"))
        shard(self.network, replicated=adapter, on=None if on is None else on.network)

    def whole_copy(self) -> Lora:
        """Return a copy of a sharded network that is whole. All processes call it."""
        twin = self.copy()
        replace_parameters(twin.network, whole_parameters(self.network))
        return twin

    def freeze(self) -> Lora:
        """Freeze the adapter, in place; one without effect is switched off, which saves its time."""
        tuner = self.peft_model.base_model
        tuner.disable_adapter_layers() if self._has_no_effect() else tuner.enable_adapter_layers()
        self.network.requires_grad_(False)
        return self

    def _has_no_effect(self) -> bool:
        """Return whether the network certainly computes the same as its base; known for plain LoRA only."""
        plain = all(".lora_A." in name or ".lora_B." in name for name in self.weights())
        variants = any(getattr(layer, "lora_variant", None) for layer in self._layers())
        zero = all(not weight.any() for name, weight in self.weights().items() if ".lora_B." in name)
        return plain and zero and not variants

    def merged(self) -> Any:
        """Return a plain network with the adapter merged; weights without an adapter are shared with the base."""
        twin = self.copy()
        for layer in twin._layers():
            for weight in layer.get_base_layer().parameters():
                weight.data = weight.data.clone()
        with without_peft_warnings():
            return twin.peft_model.merge_and_unload()

    def base(self) -> Any:
        """Return a plain network without the adapter, which shares the base's weights."""
        with without_peft_warnings():
            return self.copy().peft_model.unload()

    def save(self, folder: Path, *, base: str | None) -> None:
        """Write the adapter in peft's format, with the name of its base."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = get_peft_model_state_dict(self.peft_model, adapter_name=self.name, save_embedding_layers=False)
        save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "adapter_model.safetensors")
        config = copy.copy(self.config)
        config.base_model_name_or_path, config.inference_mode = base, True
        config.init_lora_weights = True  # PiSSA and others change the base at first, which loading must not repeat
        config.save_pretrained(str(folder))

    @classmethod
    def load(cls, network: Any, folder: Path) -> Lora:
        """Load an adapter from a folder onto a network, in place, trainable."""
        from peft import PeftModel

        with seeded(0), without_peft_warnings():
            return cls(PeftModel.from_pretrained(network.requires_grad_(False), folder, is_trainable=True))


def _targets(network: Any, names: str | Collection[str] | None) -> str | list[str]:
    """Return the layers for an adapter.

    Raises:
        ValueError: no layer has the name, or none is given and peft has no default for the architecture.
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    kind = network.config.model_type
    linear = sorted({path.split(".")[-1] for path, module in network.named_modules() if _is_linear(module)})
    if names is None and kind not in USUAL:
        raise ValueError(
            f"peft knows no usual layers for LoRA in a {kind} model; name some with target_modules or --lora-targets:"
            f" {ALL_LINEAR}, or among {', '.join(linear)}"
        )
    names = USUAL[kind] if names is None else names
    if isinstance(names, str):
        return names  # all-linear, or a pattern
    paths = [path for path, _ in network.named_modules()]
    for name in names:
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            raise ValueError(f"the model has no layer {name!r}; its linear layers are {', '.join(linear)}")
    return list(names)


def _is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def sharing_copy(model: Any, *, but_for: Collection[nn.Parameter] | Any = (), base_device: str | None = None) -> Any:
    """Return a copy that shares the model's weights, frozen, except for some weights that are copied.

    Args:
        model: any module.
        but_for: weights that the copy has for its own.
        base_device: "meta" for a copy that has the sizes of the other weights, and not their numbers.
    """
    own = {id(weight) for weight in but_for}
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}  # the memo of `deepcopy`
    for weight in model.parameters():
        if id(weight) not in own:
            is_plain = type(weight) is nn.Parameter  # else quantised, and frozen anyway
            shared[id(weight)] = (
                nn.Parameter(weight.detach().to(base_device), requires_grad=False) if is_plain else weight
            )
    for module in model.modules():
        for value in vars(module).values():
            if type(value).__module__.startswith("bitsandbytes."):  # the scales of quantised weights
                shared[id(value)] = value
    return copy.deepcopy(model, shared)
