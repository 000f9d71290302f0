"""Which machine runs which step: the training on all GPUs of the instance, lr-find on one.

Pure. The one place that knows what an instance type is called by the service that runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from gpuplan.core.errors import UsageError
from gpuplan.core.units import MIB_PER_GIB
from gpuplan.planning.cost import LOCAL_RATE, Rate, rate
from gpuplan.planning.throughput import Hardware
from gpuplan.profiles.schema import Service

if TYPE_CHECKING:
    from gpuplan.core.frozen import Unknown
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.profiles.hardware import Gpu, Shape
    from gpuplan_job.contract import Device

_SAGEMAKER_STARTUP_MINUTES = (4.0, 7.0)
"""Billed from the download phase on, as seen in public logs."""
_LOCAL_STARTUP_MINUTES = (0.15, 0.4)
"""Starting Python and importing torch, on a laptop and on a busy small machine."""


@dataclass(frozen=True)
class Placement:
    """A step's machine, as planned."""

    instance_type: str
    gpu: Gpu
    memory_mib: int
    """What one process may use: its GPU's memory, or its share of RAM where the device is the CPU."""
    hardware: Hardware
    rate: Rate | Unknown
    workers: int


def place_training(inputs: PlanInputs) -> Placement:
    """Return the machine of the training.

    Raises:
        UsageError: more processes than the instance has GPUs.
    """
    shape = inputs.profile.train
    wanted = inputs.settings.launch.world_size or shape.gpus
    if wanted > shape.gpus and shape.interconnect != "host":
        raise UsageError(
            f"--world-size {wanted} is more than the {shape.gpus} GPUs of {shape.instance_type}",
            why="each training process needs a GPU of its own",
            fix=f"--world-size {shape.gpus} or less, or a larger instance: gpuplan profiles list",
        )
    return _place(inputs, shape, wanted)


def place_finders(inputs: PlanInputs) -> list[Placement]:
    """Return the machines lr-find could run on, the single-GPU shapes of the profile, cheapest first."""
    return [_place(inputs, shape, 1) for shape in inputs.profile.finders]


def device(inputs: PlanInputs) -> Device:
    """Return the device jobs must use: on an AWS instance a GPU, unless the user asked for something else."""
    asked = inputs.settings.launch.device
    if asked == "auto":
        return inputs.profile.gpu.accelerator
    return asked


def _place(inputs: PlanInputs, shape: Shape, processes: int) -> Placement:
    gpu = inputs.profile.gpu_of(shape)
    kind = device(inputs)
    service = _service(inputs.settings.launch.backend)
    instance_type = f"ml.{shape.instance_type}" if service == "sagemaker" else shape.instance_type
    return Placement(
        instance_type=instance_type,
        gpu=gpu,
        memory_mib=int(shape.ram_gib * MIB_PER_GIB / processes) if kind == "cpu" else gpu.memory_mib,
        hardware=Hardware(
            device="cpu" if kind == "cpu" else gpu.accelerator,
            gpus=processes,
            vcpus=shape.vcpus,
            peak_tflops=gpu.peak_tflops,
            fp32_tflops=gpu.fp32_tflops,
            bandwidth_gbs=gpu.bandwidth_gbs,
            interconnect="single-gpu" if shape.interconnect == "host" else shape.interconnect,
            interconnect_gbs_per_gpu=shape.interconnect_gbs_per_gpu,
            startup_minutes=_LOCAL_STARTUP_MINUTES if service is None else _SAGEMAKER_STARTUP_MINUTES,
        ),
        rate=LOCAL_RATE
        if service is None
        else rate(inputs.profile.prices, service, shape.instance_type, inputs.settings.launch.region),
        workers=inputs.profile.workers(shape),
    )


def _service(backend: str) -> Service | None:
    """Return the AWS service whose prices a backend pays, the one of its name; None for one that AWS does not bill."""
    return next((service for service in get_args(Service) if service == backend), None)
