"""One try of a batch: real optimizer steps on the device, timed and measured, everything freed afterwards.

Called by `find_batch` (a job's own workload) and by `finder.batch` (anyone's module). It must not keep a tensor.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gpuplan_job.batch_search import LEAST_TIMED_STEPS, TIMED_STEPS, WARM_UP_STEPS
from gpuplan_job.contract import BatchTrial
from gpuplan_job.device_memory import DeviceMemory, is_out_of_memory
from gpuplan_job.step_clock import StepClock

if TYPE_CHECKING:
    from collections.abc import Callable

    Step = Callable[[], None]
    """Takes one optimizer step."""

_GIB = 1024**3
_NCCL_GIB = 0.2
"""Communication buffers of a process, as the client's estimates have them."""


@dataclass(frozen=True)
class Trials:
    """Tries batches on a device; each is a fresh training made by `make(batch)`, gone when its try is over."""

    memory: DeviceMemory
    make: Callable[[int], Step]
    micro_batches: int
    """In one optimizer step."""
    seconds: float
    """That the steps of a try may take."""
    undo: Callable[[], object] = lambda: None
    """Lets go of what a training leaves in things that outlive it, such as gradients of the user's module."""

    def trial(self, batch: int) -> BatchTrial:
        """Try a batch.

        Raises:
            Exception: whatever the training raises for another reason than memory.
        """
        self.memory.begin()
        try:
            return self._measured(batch) or BatchTrial(batch, "out-of-memory")
        finally:
            self.undo()
            self.memory.release()

    def _measured(self, batch: int) -> BatchTrial | None:
        """Return the try of a batch, None if it ran out of memory.

        An exception holds the frames it came through, and these hold tensors: all is free only once this has returned.
        """
        try:
            with self.memory.limited():
                return self._run(batch, self.make(batch))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _run(self, batch: int, step: Step) -> BatchTrial | None:
        device = self.memory.device
        warm_up = []
        for _ in range(WARM_UP_STEPS):
            _finish(device)
            began = time.perf_counter()
            step()
            _finish(device)
            warm_up.append(time.perf_counter() - began)
        one = min(warm_up)
        if (WARM_UP_STEPS + LEAST_TIMED_STEPS) * one > self.seconds:
            return BatchTrial(batch, "too-slow")
        clock = StepClock(device)
        clock.restart()
        for _ in range(max(LEAST_TIMED_STEPS, min(TIMED_STEPS, int(self.seconds / max(one, 1e-9))))):
            step()
            clock.tick()
        _finish(device)
        seconds = max(clock.median_seconds(), 1e-9) / self.micro_batches
        peak = self.memory.peak_gib()
        if peak is not None and peak > self.memory.capacity_gib:
            return None  # where no limit can be set, what passes it ran out of it all the same
        return BatchTrial(batch, "ran", peak, seconds, batch / seconds)


def reserved_gib(parameters: list[torch.nn.Parameter], device: torch.device, world_size: int) -> float:
    """Return what a training on several processes takes beside: DDP's buckets are one more copy of all gradients."""
    if world_size == 1:
        return 0.0
    buckets = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad) / _GIB
    return buckets + (_NCCL_GIB if device.type == "cuda" else 0.0)


def held(gib: float, device: torch.device) -> torch.Tensor:
    """Return a tensor that takes as much of the device's memory, touched so that a CPU's is really taken."""
    return torch.ones(int(gib * _GIB), dtype=torch.uint8, device=device)


def scaler_for(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Return a loss scaler that lets every step happen: one that is skipped leaves the optimizer without its state."""
    return torch.amp.GradScaler(device.type, init_scale=1.0, enabled=precision == "16-mixed")


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
