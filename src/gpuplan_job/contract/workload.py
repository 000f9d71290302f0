"""What is trained, at which batch and on which data, as a job and its results tell it.

Standard library only; part of `gpuplan_job.contract`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "16-mixed", "bf16-mixed"]
Device = Literal["auto", "cuda", "mps", "cpu"]


@dataclass(frozen=True)
class WorkloadSpec:
    """What to train, as the job sees it. `gpuplan.workload.schema.Workload` is the same with validation."""

    model: str
    data: str
    optimizer: Literal["sgd", "adamw"]
    momentum: float
    weight_decay: float
    schedule: Literal["onecycle", "constant"]
    label_smoothing: float
    epochs: int
    precision: Precision
    seed: int
    workers: int
    """Data-loading processes per training process."""
    image_size: int | None = None
    """Side in pixels to resize images to; None keeps the data's own size."""


@dataclass(frozen=True)
class BatchSpec:
    """Batch of one step: samples per GPU and micro-batch, processes, micro-batches per optimizer step."""

    per_gpu: int
    world_size: int
    accumulation: int

    @property
    def global_batch(self) -> int:
        """Samples per optimizer step over all GPUs."""
        return self.per_gpu * self.world_size * self.accumulation


@dataclass(frozen=True)
class DataDescription:
    """What a plan needs to know of a data set, without reading it."""

    train_samples: int
    val_samples: int
    channels: int
    height: int
    width: int
    classes: int
    bytes_per_sample: float
    """Stored bytes to read per training sample."""
    storage: Literal["tensors", "jpeg"] = "tensors"
    """Whether each sample has to be decoded and augmented, or is at hand as numbers."""
    plan_only: bool = False
    """A description without a location: enough for a plan, not for a launch."""
    source: str = ""
    """Where the figures, or the data, come from."""


@dataclass(frozen=True)
class Measured:
    """What the job saw on its own device."""

    step_seconds: float
    """Median wall time of an optimizer step, after warm-up."""
    samples_per_second: float
    """Over all processes."""
    peak_gib: float | None
    """Peak memory the device's allocator reserved in GiB; on CPU the process's peak RSS. None: not measurable."""
    device: str
    busy_seconds: float | None = None
    """The same without the wait for data; None where the two were not told apart."""
