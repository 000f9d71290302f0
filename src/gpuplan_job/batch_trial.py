"""One try of a batch: real optimizer steps on the device, timed and measured, everything freed afterwards.

Called by `find_batch` (a job's own workload) and by `finder.batch` (anyone's module). It must not keep a tensor.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gpuplan_job import optim
from gpuplan_job.batch_search import LEAST_TIMED_STEPS, TIMED_STEPS, WARM_UP_STEPS
from gpuplan_job.contract import BatchTrial
from gpuplan_job.device_memory import DeviceMemory, is_out_of_memory
from gpuplan_job.step_clock import StepClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan_job.contract import Precision

_GIB = 1024**3
_LEARNING_RATE = 1e-6
"""Of the tried steps: memory and time do not depend on it, and no loss blows up."""
_MOST_MICRO_BATCHES = 2
"""More in a step take no more memory than two: from the second on gradients are alive in the backward pass."""
_NCCL_GIB = 0.2
"""Communication buffers of a process, as the client's estimates have them."""


@dataclass(frozen=True)
class Training:
    """A training that is ready for its first step, on one micro-batch of the batch that is tried."""

    loss: Callable[[int], torch.Tensor]
    """Mean loss of that micro-batch, as the one of this index in its step."""
    optimizer: torch.optim.Optimizer
    precision: Precision
    """As effective on the device."""
    clip: float | None
    reserved_gib: float
    """What it will hold beside: DDP's buckets, averaged weights."""


@dataclass(frozen=True)
class Trials:
    """Tries batches on a device; each is a fresh training made by `make(batch)`, gone when its try is over."""

    memory: DeviceMemory
    make: Callable[[int], Training]
    accumulation: int
    """Micro-batches of the training in one optimizer step."""
    seconds: float
    """That the steps of a try may take."""
    undo: Callable[[], object] = lambda: None
    """Lets go of what a training leaves in things that outlive it, such as gradients of the user's module."""

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one tried step."""
        return min(self.accumulation, _MOST_MICRO_BATCHES)

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
                return self._run(batch, RepeatedStep(self.make(batch), self.memory.device, self.micro_batches))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _run(self, batch: int, training: RepeatedStep) -> BatchTrial | None:
        device = self.memory.device
        warm_up = []
        for _ in range(WARM_UP_STEPS):
            _finish(device)
            began = time.perf_counter()
            training.step()
            _finish(device)
            warm_up.append(time.perf_counter() - began)
        one = min(warm_up)
        if (WARM_UP_STEPS + LEAST_TIMED_STEPS) * one > self.seconds:
            return BatchTrial(batch, "too-slow")
        clock = StepClock(device)
        clock.restart()
        for _ in range(max(LEAST_TIMED_STEPS, min(TIMED_STEPS, int(self.seconds / max(one, 1e-9))))):
            training.step()
            clock.tick()
        _finish(device)
        seconds = max(clock.median_seconds(), 1e-9) / self.micro_batches
        if self.memory.exceeded():
            return None  # where no limit can be set, what passes it ran out of it all the same
        return BatchTrial(batch, "ran", self.memory.peak_gib(), seconds, batch / seconds)


class RepeatedStep:
    """The same optimizer step of a training, again and again, while what it holds beside takes its place too."""

    def __init__(self, training: Training, device: torch.device, micro_batches: int) -> None:
        self._training, self._micro_batches = training, micro_batches
        self._reserve = _held(training.reserved_gib, device)
        # A step that a scaler skips leaves the optimizer without its state: with no scale every step happens.
        self._scaler = torch.amp.GradScaler(device.type, init_scale=1.0, enabled=training.precision == "16-mixed")
        for group in training.optimizer.param_groups:
            rate = group["lr"]
            group["lr"] = torch.full_like(rate, _LEARNING_RATE) if isinstance(rate, torch.Tensor) else _LEARNING_RATE

    def step(self) -> None:
        """Take one optimizer step; gradients are set to zero where Lightning does, after the forward pass."""
        optimizer = self._training.optimizer
        for index in range(self._micro_batches):
            loss = self._training.loss(index) / self._micro_batches
            if index == 0:
                optimizer.zero_grad(set_to_none=True)
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call] # torch leaves Tensor.backward untyped
        optim.clip(optimizer, self._scaler, self._training.clip)
        self._scaler.step(optimizer)
        self._scaler.update()


def reserved_gib(module: torch.nn.Module, device: torch.device, world_size: int, *, averaged: bool = False) -> float:
    """Return what a training takes beside: on several processes DDP's buckets, one more copy of all gradients.

    `averaged` says that it keeps a moving average of its weights.
    """
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad) / _GIB
    several = world_size > 1
    return trained * (several + averaged) + (_NCCL_GIB if several and device.type == "cuda" else 0.0)


def _held(gib: float, device: torch.device) -> torch.Tensor:
    """Return a tensor that takes as much of the device's memory, touched so that a CPU's is really taken."""
    return torch.ones(int(gib * _GIB), dtype=torch.uint8, device=device)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
