"""The trainings that a batch search tries: the job's own workload on one micro-batch of its own data, again and again.

Called by `find_batch`, in its process or in one of its children. It must hold what the training will hold at its peak,
or a batch that is found safe is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch.utils.data import default_collate

from gpuplan_job import loaders, runtime
from gpuplan_job.batch_trial import Training, Trials, reserved_gib
from gpuplan_job.contract import BatchTrial  # noqa: TC001 - reading a document resolves its annotations at run time
from gpuplan_job.document import Document
from gpuplan_job.failures import JobError
from gpuplan_job.learner import Batch, Learner
from gpuplan_job.workload_subject import WorkloadSubject

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from gpuplan_job.contract import BatchSearchSpec, JobInput
    from gpuplan_job.device_memory import DeviceMemory
    from gpuplan_job.loaders import DataSets

_ANY_RATE = 1e-6
"""A tried step has its own."""


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
        self.reserved_gib = 0.0
        self.trials = Trials(memory, self._training, spec.accumulation, spec.trial_seconds)

    def tried(self, batch: int) -> Tried:
        """Try a batch."""
        self.samples.load(batch)
        return Tried(self.trials.trial(batch), self.reserved_gib)

    def _training(self, batch: int) -> Training:
        """Return a fresh training at that batch."""
        workload, device = self.workload, self.memory.device
        runtime.seed_everything(workload.seed)
        learner = Learner.of(self.subject.network(), workload, device)
        averaged = workload.ema_decay is not None
        self.reserved_gib = reserved_gib(learner.network, device, self.spec.world_size, averaged=averaged)
        micro_batch = self.samples.first(batch)

        def loss(index: int) -> torch.Tensor:
            with learner.attached(1):
                return learner.loss(micro_batch, index)

        with learner.attached(1):
            optimizer = learner.optimizer(_ANY_RATE)
        precision = runtime.effective_precision(workload.precision, device)
        return Training(loss, optimizer, precision, workload.clip_norm, self.reserved_gib)


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
