"""Seconds that the CPUs need to read, decode and augment the samples of one optimizer step.

Called by `throughput`. Pure arithmetic; all rates are assumptions, with their evidence in docs/estimates-time.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gpuplan.planning.speed.machine import Hardware, StepLoad

_JPEG_PER_VCPU = 100.0
"""ImageNet-sized JPEG decoded, cropped and normalised a second."""
_STREAMED_PER_PROCESS = 20.0
"""JPEG files that a process opens on S3, reads and decodes a second, one after the other: 50 ms each, an assumption.
AWS states a median latency of tens of milliseconds for requests under 512 KB; FastFile's own was not found."""
_TENSORS_PER_VCPU = 5000.0
"""Samples that lie in memory as tensors, collated a second."""


class Loading(NamedTuple):
    """Seconds of a step's samples, and how many processes work on them."""

    seconds: float
    processes: int
    beside: bool
    """They work while the GPU computes; otherwise the training process loads between its steps."""


def loading(load: StepLoad, hardware: Hardware) -> Loading:
    """Return the time to load a global batch: by `workers` processes a GPU, no faster than all vCPUs together."""
    wanted = hardware.vcpus if load.workers is None else max(1, load.workers) * hardware.gpus
    processes = min(hardware.vcpus, wanted)
    samples = load.per_gpu_batch * load.accumulation * hardware.gpus
    seconds = samples / (processes * _per_process(load))
    return Loading(seconds, processes, beside=load.workers != 0 and hardware.device != "cpu")


def _per_process(load: StepLoad) -> float:
    """Return the samples a second of one process."""
    if not load.jpeg:
        return _TENSORS_PER_VCPU
    return _STREAMED_PER_PROCESS if load.streamed else _JPEG_PER_VCPU
