"""The processes that train together: how many there are, which one this is, and what they tell each other.

torchrun and `accelerate launch` start equal processes, the ranks. All of them draw the same random numbers and know all
texts of an iteration; each computes on its share of the rows. What they compute is gathered in the order of the rows,
or summed. So the result depends on the number of ranks by rounding alone.

`Ranks` is one process alone: nothing is sent, and each function returns what it is given. `SeveralRanks` overrides what
must be sent, so that no other code asks how many processes there are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tril_gym.utils.processes import PROCESS_TIMEOUT, started_processes

BUCKET = 2**24  # numbers that are summed over the ranks at once: gradients are copied, so this bounds the memory


class Ranks:
    """One process that trains alone, rank 0 of 1.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
        local_rank: the number of this process among those of its machine.
        shards: whether each process holds a part of the trained models (FSDP2), or a replica of them.
        shards_optimizer: whether each process holds the optimizer's moments of a part of the weights (ZeRO 1).
        writes_by_block: whether sharded models write without being whole, which takes less memory and more messages.
    """

    rank = local_rank = 0
    size = 1
    shards = shards_optimizer = writes_by_block = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def __repr__(self) -> str:
        return f"Ranks(rank={self.rank}, size={self.size})"

    def share(self, count: int) -> slice:
        """Return which of `count` rows this rank computes on: consecutive ones, as many as others' up to one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def largest_share(self, count: int) -> int:
        """Return the number of rows of the rank that has most of `count`."""
        return -(-count // self.size)

    def compute_rows(self, function: Callable[[Tensor], Tensor], count: int, *, chunk: int) -> Tensor:
        """Return what a function computes of `count` rows, each rank for its share: `count` rows on the CPU.

        All ranks call it equally often, some for a row that another one has, too: a sharded model needs every rank.

        Args:
            function: maps indices of rows, (n,) int64, to n rows.
            count: number of rows, at least 1.
            chunk: rows that are computed at once, at most.
        """
        rows = torch.arange(count)[self.share(count)]
        passes = math.ceil(self.largest_share(count) / chunk)
        chunks = [part for part in rows.split(chunk) if len(part)]
        found = [function(part).cpu() for part in chunks]
        for _ in range(passes - len(chunks)):
            function(torch.zeros(1, dtype=torch.int64))
        return torch.cat([part for parts in self.gather(found) for part in parts])

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks in their order: plain data, or tensors on the CPU."""
        return [value]

    def on_main(self, function: Callable[[list[Any]], list[Any]], rows: list[Any]) -> list[Any]:
        """Return what the main process computes of this rank's rows, called once with the rows of all ranks.

        Args:
            function: maps plain data to as many plain values. Where it raises, all ranks do.
            rows: of this rank.
        """
        return function(rows)

    def sum(self, numbers: dict[str, float]) -> dict[str, float]:
        """Return the sums over the ranks of numbers that all ranks have by the same names."""
        return {name: math.fsum(part[name] for part in self.gather(numbers)) for name in numbers}

    def max(self, numbers: dict[str, float]) -> dict[str, float]:
        """Return the largest of each of the numbers; NaN where one is NaN."""
        return {name: _largest(part[name] for part in self.gather(numbers)) for name in numbers}

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true on some rank."""
        return flag

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all ranks, which then have the same ones."""

    def share_weights(self, modules: Iterable[nn.Module]) -> None:
        """Give all ranks the weights and buffers that the main process has."""

    def for_thread(self) -> Ranks:
        """Return the same ranks for another thread, whose messages do not meet those of this one. All ranks call it."""
        return self

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run a block on the main process, then on the others, which find what it has cached."""
        yield


ALONE = Ranks()


class SeveralRanks(Ranks):
    """One of the processes of `torch.distributed`, which is initialised.

    What they tell each other goes through the CPU (gloo); gradients on a GPU are summed there.
    """

    timeout = PROCESS_TIMEOUT  # seconds that one waits for another; `join_ranks` sets it
    is_zero = False  # whether the launcher asked for ZeRO; `join_ranks` sets it

    def __init__(self, *, shards: bool = False, shards_optimizer: bool = False, writes_by_block: bool = False) -> None:
        import torch.distributed as dist

        self.rank, self.size, self.shards = dist.get_rank(), dist.get_world_size(), shards
        self.shards_optimizer, self.writes_by_block = shards_optimizer, writes_by_block
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self._on_cpu = dist.new_group(backend="gloo", timeout=timedelta(seconds=self.timeout))

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks in their order."""
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self._on_cpu)
        return found

    def on_main(self, function: Callable[[list[Any]], list[Any]], rows: list[Any]) -> list[Any]:
        """Return what the main process computes of this rank's rows, called once with the rows of all ranks."""
        import torch.distributed as dist

        parts = self.gather(rows)
        found: list[Any] = [None, None]  # the values of all rows, the message of an error
        error = None
        if self.is_main:
            try:
                found[0] = function([row for part in parts for row in part])
            except Exception as raised:
                error, found[1] = raised, str(raised)
        dist.broadcast_object_list(found, 0, group=self._on_cpu)
        if error is not None:
            raise error
        if found[1] is not None:
            raise RuntimeError(f"{found[1]} (on the main process)")
        first = sum(map(len, parts[: self.rank]))
        values: list[Any] = found[0][first : first + len(rows)]
        return values

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true on some rank."""
        return any(self.gather(flag))

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.gather(None)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all ranks; one that no rank has stays None, so that no optimizer steps by it."""
        own = [parameter for parameter in parameters if parameter.requires_grad and not _is_sharded(parameter)]
        is_known = [any(row) for row in zip(*self.gather([p.grad is not None for p in own]), strict=True)]
        shared = [parameter for parameter, known in zip(own, is_known, strict=True) if known]
        for parameter in shared:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets(shared):
            self._sum_bucket(bucket)

    def _sum_bucket(self, parameters: list[nn.Parameter]) -> None:
        import torch.distributed as dist

        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat, group=self._on_cpu if flat.device.type == "cpu" else None)
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def share_weights(self, modules: Iterable[nn.Module]) -> None:
        """Give all ranks the weights and buffers that the main process has."""
        import torch.distributed as dist

        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                if not _is_sharded(tensor):
                    dist.broadcast(tensor.data, 0, group=self._on_cpu if tensor.device.type == "cpu" else None)

    def for_thread(self) -> Ranks:
        """Return the same ranks with a channel of their own. They gather; sums of gradients are for one thread."""
        return SeveralRanks(
            shards=self.shards, shards_optimizer=self.shards_optimizer, writes_by_block=self.writes_by_block
        )

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run a block on the main process, then on the others, also where it fails: they fail alike."""
        if not self.is_main:
            self.barrier()
        try:
            yield
        finally:
            if self.is_main:
                self.barrier()


def current_ranks(**kind: bool) -> Ranks:
    """Return the ranks of `torch.distributed` where it is initialised, else one process alone.

    Args:
        kind: `shards`, `shards_optimizer` and `writes_by_block` of `Ranks`.
    """
    import torch.distributed as dist

    is_one_of_several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return _several_ranks(**kind) if is_one_of_several else ALONE


@cache
def _several_ranks(**kind: bool) -> SeveralRanks:
    return SeveralRanks(**kind)


def join_ranks(
    device: str = "cpu", *, shards: bool = False, writes_by_block: bool = False, timeout: float = PROCESS_TIMEOUT
) -> Ranks:
    """Join the processes that torchrun or `accelerate launch` started; return one process alone without them.

    Args:
        device: of the models; on a GPU, each process has its own.
        shards: whether each process holds a part of the trained models (FSDP2), or a replica of them.
        writes_by_block: whether such models write without being whole; see `Ranks`.
        timeout: seconds that a process waits for the others; the main process may pretrain for minutes meanwhile.

    Raises:
        ValueError: the environment variables of a launcher are incomplete or ask for ZeRO 3; there is one process whose
            models are to be sharded; or models that are not are to write by block.
    """
    if started_processes() > 1 and not torch.distributed.is_initialized():
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if missing:
            raise ValueError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {missing[0]} is not set; start the processes with"
                " torchrun or accelerate launch, or unset WORLD_SIZE"
            )
        asks_for_zero = _asks_for_zero()
        from accelerate import PartialState

        SeveralRanks.timeout = timeout
        PartialState(cpu=torch.device(device).type == "cpu", timeout=timedelta(seconds=timeout))
        SeveralRanks.is_zero = asks_for_zero
    shards = shards or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if writes_by_block and not shards:
        raise ValueError("--sharded-writing block is for models that are sharded; add --shard-models, or leave it out")
    is_zero = SeveralRanks.is_zero and not shards
    ranks = current_ranks(shards=shards, shards_optimizer=is_zero, writes_by_block=writes_by_block)
    if shards and ranks is ALONE:
        raise ValueError("--shard-models divides models among several processes; start them with torchrun")
    return ranks


def _asks_for_zero() -> bool:
    """Return whether `accelerate launch` asks for ZeRO 1 or 2 of DeepSpeed, and take the request away from accelerate.

    DeepSpeed's engine would wrap one model with its optimizer; here several passes read parts of several models.

    Raises:
        ValueError: it asks for another stage, for offloading, or by a file of DeepSpeed's own.
    """
    if os.environ.pop("ACCELERATE_USE_DEEPSPEED", "false") != "true":
        return False
    if file := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        raise ValueError(f"the stage of ZeRO is read of accelerate's own file (zero_stage), got {file}; leave it out")
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("1", "2"):
        raise ValueError(
            f"zero_stage must be 1 or 2, got {stage}: for ZeRO 3, DeepSpeed's engine wraps a model with its optimizer,"
            " and here other passes read parts of the model; use FSDP2, which shards as much: --shard-models, or"
            " examples/accelerate/fsdp2.yaml"
        )
    for name in ("OPTIMIZER", "PARAM"):
        if (where := os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{name}_DEVICE", "none")) != "none":
            raise ValueError(f"offload_{name.lower()}_device must be none, got {where}; more processes hold less each")
    return True


def leave_ranks() -> None:
    """Wait for the other processes and end the connection to them; without any, do nothing."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        current_ranks().barrier()
        dist.destroy_process_group()
        _several_ranks.cache_clear()


def _is_sharded(parameter: Tensor) -> bool:
    """Return whether each rank has a part of this parameter, whose gradient is then summed already."""
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield parameters of one dtype and device, of at most `BUCKET` numbers together or one alone."""
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in parameters:
        kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    for alike in kinds.values():
        bucket: list[nn.Parameter] = []
        for parameter in alike:
            if bucket and sum(map(torch.numel, bucket)) + parameter.numel() > BUCKET:
                yield bucket
                bucket = []
            bucket.append(parameter)
        yield bucket


def _largest(values: Iterable[float]) -> float:
    found = list(values)
    return math.nan if any(map(math.isnan, found)) else max(found)
