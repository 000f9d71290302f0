"""The trainings that a batch search tries: the job's own workload on one micro-batch of its own data, again and again.

Called by `find_batch`, in its process or in one of its children. It must hold what the training will hold at its peak,
or a batch that is found safe is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from gpuplan_job import data, loaders, model, optim, runtime
from gpuplan_job.batch_trial import Trials, held, reserved_gib, scaler_for
from gpuplan_job.contract import BatchTrial  # noqa: TC001 - reading a document resolves its annotations at run time
from gpuplan_job.document import Document
from gpuplan_job.failures import JobError
from gpuplan_job.sampling import EpochLayout

if TYPE_CHECKING:
    from torch import nn

    from gpuplan_job.batch_trial import Step
    from gpuplan_job.contract import BatchSearchSpec, JobInput, WorkloadSpec
    from gpuplan_job.data import Samples
    from gpuplan_job.device_memory import DeviceMemory

_CHUNK = 32
"""Samples that are loaded at a time."""
_LEARNING_RATE = 1e-6
"""Of the tried steps: memory and time do not depend on it, and no loss blows up."""
_MOST_MICRO_BATCHES = 2
"""More in a step take no more memory than two: from the second on gradients are alive in the backward pass."""


@dataclass(frozen=True)
class Tried(Document):
    """What the process of one try hands back."""

    SCHEMA: ClassVar[str] = "gpuplan.batch-trial/1"

    trial: BatchTrial
    reserved_gib: float


class OnDevice:
    """Tries batches in this process: trainings of the job's own workload."""

    def __init__(self, job_input: JobInput, spec: BatchSearchSpec, memory: DeviceMemory) -> None:
        self.workload, self.spec, self.memory = job_input.workload, spec, memory
        self.description = data.describe(self.workload.data)
        train_set, _ = data.load(self.workload.data, self.workload.image_size)
        self.samples = _Loaded(train_set, job_input, memory.device)
        self.micro_batches = min(spec.accumulation, _MOST_MICRO_BATCHES)
        self.reserved_gib = 0.0
        self.trials = Trials(memory, self._training, self.micro_batches, spec.trial_seconds)

    def tried(self, batch: int) -> Tried:
        """Try a batch."""
        # Before the try, so that a worker's answer on its way to this process is no part of its memory.
        self.samples.load(batch)
        return Tried(self.trials.trial(batch), self.reserved_gib)

    def _training(self, batch: int) -> Step:
        """Return the optimizer step of a fresh training at that batch."""
        workload, device = self.workload, self.memory.device
        runtime.seed_everything(workload.seed)
        network = model.build(workload.model, self.description, workload.image_size).to(device).train()
        self.reserved_gib = reserved_gib(list(network.parameters()), device, self.spec.world_size)
        reserve = held(self.reserved_gib, device)
        return _Training(workload, network, device, reserve, self.samples.first(batch), self.micro_batches).step


class _Training:
    """The workload's training on one micro-batch, again and again."""

    def __init__(
        self,
        workload: WorkloadSpec,
        network: nn.Module,
        device: torch.device,
        reserve: torch.Tensor,
        samples: tuple[torch.Tensor, torch.Tensor],
        micro_batches: int,
    ) -> None:
        self.workload, self.network, self.device, self.samples = workload, network, device, samples
        self.reserve = reserve
        """Not used: it takes the place of what a training on several processes has beside."""
        self.micro_batches = micro_batches
        self.optimizer = optim.build(workload, network.parameters(), _LEARNING_RATE)
        self.scaler = scaler_for(device, runtime.effective_precision(workload.precision, device))

    def step(self) -> None:
        """Take one optimizer step; gradients are set to zero where Lightning does, after the forward pass."""
        for index in range(self.micro_batches):
            images, targets = (part.to(self.device, non_blocking=True) for part in self.samples)
            with runtime.autocast(self.workload.precision, self.device):
                loss = optim.loss(self.network(images), targets, self.workload.label_smoothing) / self.micro_batches
            if index == 0:
                self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call] # torch leaves Tensor.backward untyped
        self.scaler.step(self.optimizer)
        self.scaler.update()


class _Loaded:
    """Samples of the training set on the host, prepared as the training prepares them."""

    def __init__(self, train_set: Samples, job_input: JobInput, device: torch.device) -> None:
        count = loaders.sample_count(train_set)
        batches = loaders.EpochBatches(EpochLayout(count, min(_CHUNK, count), 1, 1), job_input.workload.seed, 0)
        # On a CPU the process itself loads: its workers' memory would count for nothing, and they take its cores.
        workers = 0 if device.type == "cpu" else job_input.workload.workers
        self._coming = iter(loaders.training_loader(train_set, batches, workers, device))
        self._parts: list[tuple[torch.Tensor, torch.Tensor]] = []

    def load(self, count: int) -> None:
        """Have at least `count` samples.

        Raises:
            JobError: there are not as many.
        """
        while sum(len(targets) for _, targets in self._parts) < count:
            part = next(self._coming, None)
            if part is None:
                raise JobError("data", f"fewer than {count} training samples", "use a smaller --largest-batch")
            images, targets = part
            self._parts.append((images, torch.as_tensor(targets)))

    def first(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images [count, C, H, W] and targets [count]."""
        images, targets = (torch.cat(parts)[:count] for parts in zip(*self._parts, strict=True))
        return images, targets
