"""Time and peak memory of the parts of an iteration."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

MIB = 2**20
CLEAR_REFS = Path("/proc/self/clear_refs")  # Linux: writing 5 resets the peak of the process's resident memory


class MemoryMeter(Protocol):
    """Measures the peak memory since the last reset."""

    def reset(self) -> None:
        """Start a new measurement."""

    def read(self) -> float:
        """Return the peak in MiB."""


class Timer:
    """Sums seconds by name, and with a memory meter records peak memory by name."""

    def __init__(self, meter: MemoryMeter | None = None) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.peaks: defaultdict[str, float] = defaultdict(float)  # MiB
        self._meter, self._running = meter, list[str]()
        self._start = time.perf_counter()

    @property
    def elapsed(self) -> float:
        """Seconds since the timer was created."""
        return time.perf_counter() - self._start

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the time of the block to `name`."""
        self._record_peak()
        self._running.append(name)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin
            self._record_peak()
            self._running.pop()

    def _record_peak(self) -> None:
        """Assign the peak since the last call to all running parts, which may be nested."""
        if self._meter is not None:
            peak = self._meter.read()
            for name in self._running:
                self.peaks[name] = max(self.peaks[name], peak)
            self._meter.reset()


class CudaMemory:
    """Memory that torch has allocated for tensors on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reset(self) -> None:
        """Start a new measurement."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def read(self) -> float:
        """Return the peak in MiB."""
        return torch.cuda.max_memory_allocated(self.device) / MIB


class ProcessMemory:
    """Resident memory of the process; where the system cannot reset the peak, the peak since its start."""

    def reset(self) -> None:
        """Start a new measurement."""
        if CLEAR_REFS.exists():
            CLEAR_REFS.write_text("5")

    def read(self) -> float:
        """Return the peak in MiB."""
        if CLEAR_REFS.exists():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
        if sys.platform == "win32":  # which has no `resource`
            import psutil

            return float(psutil.Process().memory_info().peak_wset) / MIB
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
        return peak / MIB if sys.platform == "darwin" else peak / 1024


def memory_meter(device: torch.device) -> MemoryMeter:
    """Return the meter for models on a device."""
    return CudaMemory(device) if device.type == "cuda" else ProcessMemory()
