"""A stopwatch for the parts of an iteration, which can also say how much memory each needed."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

MIB = 2**20
HIGH_WATER = Path("/proc/self/clear_refs")  # Linux: writing 5 there begins a new peak of the process's memory


class MemoryMeter(Protocol):
    """Tells the most memory that was in use since it was last reset."""

    def reset(self) -> None:
        """Begin anew."""

    def read(self) -> float:
        """The peak, in MiB."""


class Timer:
    """Adds up seconds by name, and keeps the peak of memory by name where it has a gauge."""

    def __init__(self, gauge: MemoryMeter | None = None) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.peaks: defaultdict[str, float] = defaultdict(float)  # MiB
        self._gauge, self._running = gauge, list[str]()
        self._began = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._began

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Count the time inside towards `name`."""
        self._look()
        self._running.append(name)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin
            self._look()
            self._running.pop()

    def _look(self) -> None:
        """Note the peak since the last look for all parts that run: one may stand inside another."""
        if self._gauge is not None:
            peak = self._gauge.read()
            for name in self._running:
                self.peaks[name] = max(self.peaks[name], peak)
            self._gauge.reset()


class CudaMemory:
    """What torch has set aside on a GPU for tensors."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reset(self) -> None:
        """Begin anew."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def read(self) -> float:
        """The peak, in MiB."""
        return torch.cuda.max_memory_allocated(self.device) / MIB


class ProcessMemory:
    """What the process has in memory; where the system cannot begin a new peak, the peak of its whole life."""

    def reset(self) -> None:
        """Begin anew."""
        if HIGH_WATER.exists():
            HIGH_WATER.write_text("5")

    def read(self) -> float:
        """The peak, in MiB."""
        if HIGH_WATER.exists():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
        return peak / MIB if sys.platform == "darwin" else peak / 1024


def memory_meter(device: torch.device) -> MemoryMeter:
    """The gauge for models on a device."""
    return CudaMemory(device) if device.type == "cuda" else ProcessMemory()
