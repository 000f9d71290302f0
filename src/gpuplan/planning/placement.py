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
    instances: int
    gpu: Gpu
    local_storage_gb: int | None
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
    shape, nodes = inputs.profile.train, inputs.settings.launch.nodes
    most = shape.gpus * nodes
    wanted = inputs.settings.launch.world_size or most
    if nodes > 1 and service(inputs) is None:
        raise UsageError(
            f"--nodes {nodes}: backend {inputs.settings.launch.backend} runs jobs on one machine", fix="--nodes 1"
        )
    if wanted > most and shape.interconnect != "host":
        raise UsageError(
            f"--world-size {wanted} is more than the {most} GPUs of {nodes} x {shape.instance_type}",
            why="each training process needs a GPU of its own",
            fix=f"--world-size {most} or less, more --nodes, or a larger instance: gpuplan profiles list",
        )
    if wanted % nodes:
        raise UsageError(
            f"--world-size {wanted} does not divide over --nodes {nodes}",
            why="every instance runs the same number of processes",
            fix=f"--world-size {wanted // nodes * nodes or nodes}",
        )
    return _place(inputs, shape, wanted, nodes)


def place_finders(inputs: PlanInputs) -> list[Placement]:
    """Return the machines lr-find could run on, the single-GPU shapes of the profile, cheapest first."""
    return [_place(inputs, shape, 1, nodes=1) for shape in inputs.profile.finders]


def device(inputs: PlanInputs) -> Device:
    """Return the device jobs must use: on an AWS instance a GPU, unless the user asked for something else."""
    asked = inputs.settings.launch.device
    if asked == "auto":
        return inputs.profile.gpu.accelerator
    return asked


def service(inputs: PlanInputs) -> Service | None:
    """Return the AWS service whose prices the backend pays, the one of its name; None for one AWS does not bill."""
    backend = inputs.settings.launch.backend
    return next((service for service in get_args(Service) if service == backend), None)


def _place(inputs: PlanInputs, shape: Shape, processes: int, nodes: int) -> Placement:
    gpu = inputs.profile.gpu_of(shape)
    kind = device(inputs)
    biller = service(inputs)
    instance_type = f"ml.{shape.instance_type}" if biller == "sagemaker" else shape.instance_type
    return Placement(
        instance_type=instance_type,
        instances=nodes,
        gpu=gpu,
        local_storage_gb=shape.local_storage_gb,
        memory_mib=int(shape.ram_gib * MIB_PER_GIB * nodes / processes) if kind == "cpu" else gpu.memory_mib,
        hardware=Hardware(
            device="cpu" if kind == "cpu" else gpu.accelerator,
            gpus=processes,
            vcpus=shape.vcpus * nodes,
            nodes=nodes,
            network_gbps=shape.network_gbps,
            peak_tflops=gpu.peak_tflops,
            fp32_tflops=gpu.fp32_tflops,
            tf32=gpu.bf16,  # both came with Ampere
            bandwidth_gbs=gpu.bandwidth_gbs,
            gpu=gpu.model,
            interconnect="single-gpu" if shape.interconnect == "host" else shape.interconnect,
            interconnect_gbs_per_gpu=shape.interconnect_gbs_per_gpu,
            startup_minutes=_LOCAL_STARTUP_MINUTES if biller is None else _SAGEMAKER_STARTUP_MINUTES,
        ),
        rate=LOCAL_RATE
        if biller is None
        else rate(inputs.profile.prices, biller, shape.instance_type, inputs.settings.aws.region),
        workers=inputs.profile.workers(shape),
    )
