"""What a step runs on and has to do, as the time model sees them. Values only, filled by `placement` and `steps`."""

from __future__ import annotations

from typing import Literal

from gpuplan.core.frozen import Frozen
from gpuplan.planning.memory.step_program import Optimizer
from gpuplan_job.contract import Precision


class Hardware(Frozen):
    """The machine of one step; figures are of one GPU, `vcpus` of the whole machine."""

    device: Literal["cuda", "mps", "cpu"]
    gpus: int
    """Processes of the step on all its machines: GPUs used, or CPU processes."""
    vcpus: int
    """Of all its machines together."""
    nodes: int = 1
    network_gbps: float | None = None
    """Of one machine, Gbit/s; counts where there are several."""
    peak_tflops: float | None = None
    """Dense fp16 or bf16 tensor peak of a GPU."""
    fp32_tflops: float | None = None
    """Peak outside tensor cores."""
    tf32: bool = True
    """Whether the GPU has TF32 tensor cores, as all have from Ampere on: half of the half-precision peak."""
    bandwidth_gbs: float | None = None
    """Of GPU memory, GB/s."""
    gpu: str | None = None
    """Name in the profile: published speeds are known of some."""
    interconnect: Literal["single-gpu", "pcie", "nvlink", "nvswitch"] = "single-gpu"
    interconnect_gbs_per_gpu: float | None = None
    """Both directions together."""
    startup_minutes: tuple[float, float] = (0.0, 0.0)
    """Billed minutes before the first step, p50 and p90."""


class StepLoad(Frozen):
    """What one optimizer step has to do."""

    per_gpu_batch: int
    accumulation: int
    precision: Precision
    jpeg: bool
    """Samples are JPEG files to decode and augment, not tensors in memory."""
    streamed: bool = False
    """The files are read from S3 as they are opened, not from a disk."""
    workers: int | None = None
    """Data loading processes of each GPU's process, 0 for none beside it; None where as many as there are vCPUs."""
    optimizer: Optimizer = "sgd"
    momentum: bool = True
    """Of SGD and RMSprop."""
    average: bool = False
    """A moving average of the weights is kept."""
    clipped: bool = False
    """The gradient's norm is taken and bounded."""
