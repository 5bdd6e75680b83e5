"""Models of which each process holds a part: FSDP2 (`torch.distributed.fsdp.fully_shard`).

Blocks and the rest of a model are sharded apart. A pass gathers a block when it reaches it and frees it afterwards, and
the backward pass sums the gradients into the shards. FSDP2 does this in hooks of `forward`, and the passes here call
parts of a model, not the model; so they run inside `run_pass`, which the hooks know as a forward method.

Writing has many short passes, so `whole` gathers all weights once. Then each process needs memory for the whole model
beside its shard. Where it has not so much, sharded_writing.py gathers block by block.

Networks with LoRA adapters on one base share the shards of its weights, too; each has the whole of its adapter.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


def is_sharded(tensor: Tensor) -> bool:
    """Return whether each process has a part of this tensor."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def is_sharded_model(model: nn.Module) -> bool:
    """Return whether `shard` has sharded this model."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def shard(model: Any, *, replicated: Collection[nn.Parameter] = (), on: nn.Module | None = None) -> None:
    """Shard a model of `transformers` among all processes, in place: every process keeps its part of each weight.

    Its parameters are replaced, so optimizers are made afterwards. Gradients are summed, not averaged.

    Args:
        model: may be on the device "meta", but for the replicated parameters, if there is another one to be `on`.
        replicated: parameters that stay as they are, whole in each process.
        on: a sharded model with the same layers and frozen weights, whose shards take the place of this one's.
    """
    from torch.distributed.fsdp import register_fsdp_forward_method

    kept = set(replicated)
    for block in blocks_of(model):
        shard_module(block, kept)
    shard_module(model, kept)
    for before, after in pairwise(_sharded_modules(model)):
        # By default FSDP2 remembers the order of the last passes, and a process without a text to write made none.
        after.set_modules_to_backward_prefetch([before])
    if on is not None:  # before the first pass, in which FSDP2 takes up the parameters that it finds
        replace_parameters(model, {name: value for name, value in _named(on) if is_sharded(value)})
    model.run_pass = types.MethodType(_run_pass, model)
    register_fsdp_forward_method(model, "run_pass")
    with torch.no_grad():  # FSDP2 must meet the model before a block of it
        model.run_pass(lambda: torch.zeros(1))


def shard_module(module: nn.Module, replicated: Collection[nn.Parameter] = ()) -> None:
    """Shard the parameters of a module that are not sharded yet; they are gathered while its `forward` runs.

    Those beside replicated ones are divided along a dimension that has equal parts, if there is one: FSDP2 fills up
    unequal parts in a copy, and then networks on one base would not share them.
    """
    from torch.distributed.fsdp import fully_shard

    # Views that a module returns are not changed in place here.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    # Not gathered until the backward pass: the optimizer must meet the same parameters between all passes.
    part = fully_shard(
        module,
        reshard_after_forward=True,
        ignored_params=set(replicated),
        shard_placement_fn=_even_division if replicated else None,
    )
    part.set_force_sum_reduction_for_comms(True)
    part.set_gradient_divide_factor(1.0)


def _even_division(parameter: nn.Parameter) -> Any:
    """Return the first dimension that all processes share evenly, else the first one."""
    from torch.distributed.tensor import Shard

    size = torch.distributed.get_world_size()
    return Shard(next((axis for axis, length in enumerate(parameter.shape) if length % size == 0), 0))


def replace_parameters(model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    """Put parameters in the place of those of their names; layers that shared one share it still."""
    for name, parameter in parameters.items():
        owner, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(owner), own_name, parameter)


def _named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return all parameters by name, one that several layers share by each of its names."""
    return list(model.named_parameters(remove_duplicate=False))


def whole_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return whole, frozen copies of the sharded parameters by name. All processes call it."""
    found: dict[int, nn.Parameter] = {}
    for _, parameter in _named(model):
        if is_sharded(parameter) and id(parameter) not in found:
            found[id(parameter)] = nn.Parameter(_gathered(parameter.detach()).clone(), requires_grad=False)
    return {name: found[id(parameter)] for name, parameter in _named(model) if id(parameter) in found}


def _run_pass(model: Any, work: Callable[[], Result]) -> Result:
    return work()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a model, those of all its stacks."""
    return [block for stack in stacks_of(model) for block in stack]


def stacks_of(model: nn.Module) -> list[nn.ModuleList]:
    """Return the stacks of blocks of a model, such as an encoder's and a decoder's: its outermost lists of modules."""
    found = []
    for child in model.children():
        found += [child] if isinstance(child, nn.ModuleList) else stacks_of(child)
    return found


def _sharded_modules(model: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextmanager
def held(parts: Collection[Any]) -> Iterator[None]:
    """Gather the weights of sharded modules, without those of modules within that are sharded apart, for the block.

    No gradients are computed in it.
    """
    try:
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)


def whole(model: nn.Module) -> AbstractContextManager[None]:
    """Gather all weights of a sharded model for the block, in which no gradients are computed."""
    return held(_sharded_modules(model))


def whole_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with whole tensors in place of sharded ones, in nested dictionaries and lists, too.

    All processes call it.
    """
    return {name: _whole_value(value) for name, value in state.items()}


def _whole_value(value: Any) -> Any:
    if isinstance(value, dict):
        return whole_state(value)
    if isinstance(value, list):
        return [_whole_value(part) for part in value]
    return _gathered(value) if isinstance(value, Tensor) else value


def _gathered(tensor: Tensor) -> Tensor:
    placed: Any = tensor  # a DTensor, where it is sharded
    return placed.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[no-any-return]


def load_whole_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load weights into a sharded model, each process its part. All processes call it with the same weights."""
    own = module.state_dict()
    if missing := own.keys() ^ state.keys():
        raise KeyError(f"weights are missing or unknown: {sorted(missing)[:3]}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(as_shard(state[name], tensor))


def as_shard(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor, sharded as another one is; the same tensor where that is not sharded."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    placed: Any = like
    return distribute_tensor(value.to(placed.device, placed.dtype), placed.device_mesh, placed.placements)


def whole_copy(model: Any) -> Any:
    """Return a copy of a sharded model that is whole, on the same device. All processes call it."""
    kind = next(base for base in type(model).__mro__[1:] if not base.__name__.startswith("FSDP"))
    with torch.device("meta"):
        copy = kind(model.config)
    # Assigned, so that all keep their dtypes: positions of rotary embeddings are float32 where weights are bfloat16.
    copy.load_state_dict({name: value.clone() for name, value in whole_state(model.state_dict()).items()}, assign=True)
    for name, buffer in model.named_buffers():  # those that are not saved, such as positions, too
        owner, _, own_name = name.rpartition(".")
        setattr(copy.get_submodule(owner), own_name, buffer.clone())
    copy.tie_weights()
    if model.can_generate():
        copy.generation_config = model.generation_config
    return copy.eval() if not model.training else copy


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Return the norm of all gradients together, a scalar: of sharded ones, of all their parts."""
    norms = [_gathered(torch.linalg.vector_norm(gradient)) for gradient in gradients]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
