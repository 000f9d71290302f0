"""The memory of the device that a batch is tried on: how much there is, a limit that holds, the peak, and its release.

Called by `batch_trial` for jobs and notebooks alike. It must leave no limit behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gpuplan_job.batch_search import HOST_SHARE
from gpuplan_job.failures import classify

if TYPE_CHECKING:
    from collections.abc import Iterator

_GIB = 1024**3
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What makes Linux forget a process's peak: proc(5)."""
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_PARALLEL_NUMEL = 1 << 21
"""Elements that torch splits over all its threads."""


_NO_WORKSPACE = re.compile(r"CUDNN_STATUS_NOT_SUPPORTED|could not create a (primitive|memory object)|bad allocation")
"""What cuDNN and oneDNN say where they get no room for any of their algorithms; elsewhere it may mean other things."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether what an exception says of a step is that memory ran out, whichever library says it."""
    return classify(error)[0] == "out-of-memory" or _NO_WORKSPACE.search(str(error)) is not None


class DeviceMemory:
    """The memory of one device, of which a search may take `capacity_gib` for all there is."""

    def __init__(
        self, device: torch.device, memory_gib: float | None = None, processes: int = 1, *, expendable: bool = True
    ) -> None:
        """Take `memory_gib` for the device's memory if it has more; `processes` of a training share a CPU's.

        A process that is not `expendable` gets no limit of a CPU's memory: oneDNN, refused memory, may end it.
        """
        self.device = device
        there = _there_gib(device, processes)
        self.capacity_gib = there if memory_gib is None else min(there, memory_gib)
        self._limited = expendable if device.type == "cpu" else self.capacity_gib < there
        self._before = 0

    def begin(self) -> None:
        """Forget the peak so far."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.device.type == "cpu":
            with contextlib.suppress(OSError):
                _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
            self._before = _peak_bytes()

    def release(self) -> None:
        """Give back what nobody holds any more."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()
        elif sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):  # musl has no such function
                ctypes.CDLL(None).malloc_trim(0)

    def peak_gib(self) -> float | None:
        """Return the most that was in use since `begin`: on CUDA of the whole device, on a CPU of this process.

        None where it is not known: on Apple GPUs, and on a system that cannot forget a higher peak of before.
        """
        if self.device.type == "cuda":
            return (torch.cuda.max_memory_reserved(self.device) + _outside_bytes(self.device)) / _GIB
        if self.device.type != "cpu":
            return None
        peak = _peak_bytes()
        reset = self._before <= _resident_bytes(default=self._before)
        return peak / _GIB if peak > self._before or reset else None

    def exceeded(self) -> bool:
        """Tell whether more than the capacity was in use since `begin`, for all that is known of it.

        Where a CPU's peak is not known, what this process holds now is the least that it was.
        """
        peak = self.peak_gib()
        if peak is None and self.device.type == "cpu":
            peak = _resident_bytes() / _GIB
        return peak is not None and peak > self.capacity_gib

    @contextlib.contextmanager
    def limited(self) -> Iterator[None]:
        """Let allocations past the capacity fail in the block, as they would on a device that is no larger.

        On a CPU it is a limit of this process's data (Linux), so that the kernel ends nobody for want of memory.
        """
        if not self._limited:
            yield
        elif self.device.type == "cuda":
            total = torch.cuda.mem_get_info(self.device)[1]
            room = max(0.0, self.capacity_gib * _GIB - _outside_bytes(self.device))
            torch.cuda.set_per_process_memory_fraction(min(1.0, room / total), self.device)
            try:
                yield
            finally:
                torch.cuda.set_per_process_memory_fraction(1.0, self.device)
        elif self.device.type == "cpu" and sys.platform == "linux":
            with _data_limit(int(self.capacity_gib * _GIB)):
                yield
        else:
            yield


@contextlib.contextmanager
def _data_limit(budget: int) -> Iterator[None]:
    """Let this process grow to `budget` resident bytes and no further."""
    # Threads have stacks, and a library that cannot start one ends the process: they are all started before.
    torch.ones(_PARALLEL_NUMEL).add_(1.0)
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    grown = _status_bytes("VmData") + max(0, budget - _resident_bytes())
    known = [limit for limit in (grown, before, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(known), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def _there_gib(device: torch.device, processes: int) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1] / _GIB
    if device.type == "mps":
        return torch.mps.recommended_max_memory() / _GIB
    return HOST_SHARE * _machine_bytes() / processes / _GIB


def _machine_bytes() -> int:
    """Return the memory of this machine, or of the container that this process is in."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no container, or no limit: "max"
            found.append(int(path.read_text(encoding="ascii")))
    return min(found)


def _outside_bytes(device: torch.device) -> int:
    """Return what of the device is in use outside torch's allocator: its context, its libraries, other processes."""
    free, total = torch.cuda.mem_get_info(device)
    return max(0, total - free - torch.cuda.memory_reserved(device))


def _peak_bytes() -> int:
    if _STATUS.exists():
        # Not ru_maxrss: a process inherits that from the one that started it.
        return _status_bytes("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident_bytes(default: int = 0) -> int:
    return _status_bytes("VmRSS") if _STATUS.exists() else default


def _status_bytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
