"""How many processes load data on a machine, and the seconds they need to read, decode and augment a step's samples.

Called by `steps`, which tells the job the same number, and by `throughput`. Pure arithmetic; all rates are assumptions,
with their evidence in docs/estimates-time.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gpuplan.planning.speed.machine import Hardware, StepLoad

MOST_WORKERS = 16
"""Loading processes of a training process that are taken without being asked for: each holds batches in memory."""
_STREAMED_PER_VCPU = 2
"""Loading processes a vCPU where samples are opened on S3: most of their time they wait for an answer."""
_JPEG_PER_VCPU = 100.0
"""ImageNet-sized JPEG decoded, cropped and normalised a second."""
_STREAMED_PER_PROCESS = 20.0
"""JPEG files that a process opens on S3, reads and decodes a second, one after the other: 50 ms each, an assumption.
AWS states a median latency of tens of milliseconds for requests under 512 KB; FastFile's own was not found."""
_TENSORS_PER_VCPU = 5000.0
"""Samples that lie in memory as tensors, collated a second."""


class Workers(NamedTuple):
    """Data-loading processes beside each training process, 0 where it loads by itself."""

    number: int
    why: str
    """Where the number comes from, in words to follow it."""


class Loading(NamedTuple):
    """Seconds of a step's samples, and how many processes work on them."""

    seconds: float
    processes: int
    beside: bool
    """They work while the GPU computes; otherwise the training process loads between its steps."""


def workers(hardware: Hardware, asked: int | None, *, streamed: bool) -> Workers:
    """Return how many processes load for each GPU: as `asked`, else what the machine's vCPUs allow.

    One vCPU of each GPU's share is left to its training process; 1 to MOST_WORKERS. Where training processes compute on
    the CPU they use every core, and processes that compete with them would only slow them down: 0.
    """
    if asked is not None:
        return Workers(asked, "as asked")
    if hardware.device == "cpu":
        return Workers(0, "the training computes on the same CPUs")
    share = hardware.vcpus // hardware.gpus
    wanted, how = (_STREAMED_PER_VCPU * share, f"{_STREAMED_PER_VCPU} x ") if streamed else (share - 1, "")
    vcpus = f"{hardware.vcpus} vCPU{'' if hardware.vcpus == 1 else 's'}"
    if hardware.gpus > 1:
        vcpus += f" / {hardware.gpus} GPUs"
    why = f"{how}{vcpus}: they wait for S3" if streamed else f"{vcpus} - 1"
    if wanted > MOST_WORKERS:
        return Workers(MOST_WORKERS, f"the most of {why}")
    return Workers(max(1, wanted), why if wanted > 0 else vcpus)


def loading(load: StepLoad, hardware: Hardware) -> Loading:
    """Return the time to load a global batch: by `workers` processes a GPU, no faster than all vCPUs together."""
    processes = hardware.vcpus if load.workers is None else max(1, load.workers) * hardware.gpus
    samples = load.per_gpu_batch * load.accumulation * hardware.gpus
    per_vcpu = _JPEG_PER_VCPU if load.jpeg else _TENSORS_PER_VCPU
    per_process = _STREAMED_PER_PROCESS if load.jpeg and load.streamed else per_vcpu
    seconds = samples / min(processes * per_process, hardware.vcpus * per_vcpu)
    return Loading(seconds, processes, beside=load.workers != 0 and hardware.device != "cpu")
