"""What is trained, at which batch and on which data, as a job and its results tell it.

Standard library only; part of `gpuplan_job.contract`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

OWN = "own"
"""As optimizer or schedule: the one that the user's LightningModule configures."""
Optimizer = Literal["sgd", "adamw", "lamb", "own"]
Schedule = Literal["onecycle", "cosine", "constant", "own"]
BatchSchedule = Literal["constant", "linear", "exponential"]
Precision = Literal["fp32", "16-mixed", "bf16-mixed"]
Device = Literal["auto", "cuda", "mps", "cpu"]


@dataclass(frozen=True)
class WorkloadSpec:
    """What to train, as the job sees it. `gpuplan.workload.schema.Workload` is the same with validation."""

    model: str
    data: str
    optimizer: Optimizer
    momentum: float
    weight_decay: float
    schedule: Schedule
    label_smoothing: float
    epochs: int
    precision: Precision
    seed: int
    workers: int
    """Data-loading processes per training process: each step's own number; a plan's workload has its last step's."""
    image_size: int | None = None
    """Side in pixels to resize images to; None keeps the data's own size."""
    model_args: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments of a model of the user's own."""
    data_args: dict[str, Any] = field(default_factory=dict)
    """Constructor arguments of a data module of the user's own."""
    decay_norms: bool = False
    """Weight decay on the weights of normalisation layers and on biases too."""
    clip_norm: float | None = None
    """Largest norm of an optimizer step's gradient; None: not clipped."""
    ema_decay: float | None = None
    """Decay an optimizer step of the moving average of the weights that is validated and kept; None: none."""
    sync_batchnorm: bool = False
    """BatchNorm over all GPUs of the micro-batch."""
    batch_schedule: BatchSchedule = "constant"
    """How the global batch grows over the epochs, from one micro-batch a GPU to all accumulated ones."""
    checkpointing: bool = False
    """Activation checkpointing: activations are computed again in the backward pass."""
    channels_last: bool = False
    """Weights and images in the memory format NHWC."""
    compile: bool = False
    """torch.compile."""


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
    files: int | None = None
    """Files that hold the samples; None: each is a file of its own."""
    sample: str = ""
    """What a sample is where it is no image, such as `float32 [20]`; its numbers are then counted as its width."""


@dataclass(frozen=True)
class CodeSpec:
    """The user's own code that a job runs: the archive beside its input, by digest and size."""

    sha256: str
    bytes: int


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
