"""The trainings that a batch search tries: the job's own workload on one micro-batch of its own data, again and again.

Called by `find_batch`, in its process or in one of its children. It must hold what the training will hold at its peak,
or a batch that is found safe is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.utils.data import default_collate

from gpuplan_job import loaders, runtime
from gpuplan_job.batch_trial import Trials, held, reserved_gib, scaler_for
from gpuplan_job.contract import BatchTrial  # noqa: TC001 - reading a document resolves its annotations at run time
from gpuplan_job.document import Document
from gpuplan_job.failures import JobError
from gpuplan_job.learner import Batch, Learner
from gpuplan_job.workload_subject import WorkloadSubject

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan_job.batch_trial import Step
    from gpuplan_job.contract import BatchSearchSpec, JobInput
    from gpuplan_job.device_memory import DeviceMemory
    from gpuplan_job.loaders import DataSets

_GIB = 1024**3
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

    def __init__(self, job_input: JobInput, spec: BatchSearchSpec, memory: DeviceMemory, folder: Path) -> None:
        self.workload, self.spec, self.memory = job_input.workload, spec, memory
        self.subject = WorkloadSubject(self.workload, folder)
        self.samples = _Loaded(self.subject.sets, job_input)
        self.micro_batches = min(spec.accumulation, _MOST_MICRO_BATCHES)
        self.reserved_gib = 0.0
        self.trials = Trials(memory, self._training, self.micro_batches, spec.trial_seconds)

    def tried(self, batch: int) -> Tried:
        """Try a batch."""
        self.samples.load(batch)
        return Tried(self.trials.trial(batch), self.reserved_gib)

    def _training(self, batch: int) -> Step:
        """Return the optimizer step of a fresh training at that batch."""
        workload, device = self.workload, self.memory.device
        runtime.seed_everything(workload.seed)
        learner = Learner.of(self.subject.network(), workload, device)
        trained = [parameter for parameter in learner.network.parameters() if parameter.requires_grad]
        self.reserved_gib = reserved_gib(trained, device, self.spec.world_size)
        if workload.ema_decay is not None:
            self.reserved_gib += sum(p.numel() * p.element_size() for p in trained) / _GIB
        reserve = held(self.reserved_gib, device)
        return _Training(learner, reserve, self.samples.first(batch), self.micro_batches).step


class _Training:
    """The workload's training on one micro-batch, again and again."""

    def __init__(self, learner: Learner, reserve: torch.Tensor, batch: Batch, micro_batches: int) -> None:
        self.learner, self.batch = learner, batch
        self.reserve = reserve
        """Not used: it takes the place of what a training has beside: DDP's buckets, averaged weights."""
        self.micro_batches = micro_batches
        with learner.attached(1):
            self.optimizer = learner.optimizer(_LEARNING_RATE)
        self.scaler = scaler_for(
            learner.device, runtime.effective_precision(learner.workload.precision, learner.device)
        )

    def step(self) -> None:
        """Take one optimizer step; gradients are set to zero where Lightning does, after the forward pass."""
        with self.learner.attached(1):
            for index in range(self.micro_batches):
                loss = self.learner.loss(self.batch, index) / self.micro_batches
                if index == 0:
                    self.optimizer.zero_grad(set_to_none=True)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        if (limit := self.learner.workload.clip_norm) is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.learner.network.parameters(), limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()


class _Loaded:
    """Samples of the training set on the host, prepared as the training prepares them."""

    def __init__(self, sets: DataSets, job_input: JobInput) -> None:
        self._sets = sets
        count = loaders.sample_count(sets.train)
        self._order = loaders.permutation(count, job_input.workload.seed, 0).tolist()
        self._samples: list[Any] = []

    def load(self, count: int) -> None:
        """Have at least `count` samples.

        Raises:
            JobError: there are not as many.
        """
        if count > len(self._order):
            raise JobError("data", f"fewer than {count} training samples", "use a smaller --largest-batch")
        wanted = self._order[len(self._samples) : count]
        self._samples += [self._sets.train[index] for index in wanted]

    def first(self, count: int) -> Batch:
        """Return a batch of so many samples, as the training's loader makes it."""
        return (self._sets.train_collate or default_collate)(self._samples[:count])
