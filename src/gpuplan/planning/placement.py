"""Which machines a step can run on: the training on all GPUs of its instance, lr-find on any single-GPU instance.

Pure. The one place that knows what an instance type is called by the service that runs it. Which of its machines
lr-find gets is `finder.choose`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.core.names import did_you_mean
from gpuplan.core.units import MIB_PER_GIB
from gpuplan.planning.money.cost import LOCAL_RATE, Rate, rate
from gpuplan.planning.speed.throughput import Hardware
from gpuplan.profiles.schema import SAGEMAKER_PREFIX, Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.profiles.hardware import Gpu, Shape
    from gpuplan.profiles.schema import InstanceProfile
    from gpuplan_job.contract import Device

_SAGEMAKER_STARTUP_MINUTES = (4.0, 7.0)
"""Billed from the download phase on, as seen in public logs."""
_LOCAL_STARTUP_MINUTES = (0.15, 0.4)
"""Starting Python and importing torch, on a laptop and on a busy small machine."""


@dataclass(frozen=True)
class Placement:
    """A step's machine, as planned."""

    profile: InstanceProfile
    """Where its figures and prices stand."""
    instance_type: str
    instances: int
    gpu: Gpu
    local_storage_gb: int | None
    shape_gpus: int
    """GPUs that one of the instances has, used or not."""
    memory_mib: int
    """What one process may use: its GPU's memory, or its share of RAM where the device is the CPU."""
    hardware: Hardware
    rate: Rate | Unknown


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
    return _place(inputs, inputs.profile, shape, processes=wanted, nodes=nodes)


def place_on_one_gpu_of_training(inputs: PlanInputs) -> Placement:
    """Return the training's whole instance used by one process, as a range test without a machine of its own would."""
    return _place(inputs, inputs.profile, inputs.profile.train, processes=1, nodes=1)


def place_same_gpu(inputs: PlanInputs) -> Placement:
    """Return the cheapest machine with one GPU of the training's kind, else the training's instance with one in use."""
    training = place_training(inputs)
    if service(inputs) is None:
        singles = _own_finders(inputs)
    else:
        shapes = [found for found in _single_gpu_shapes(inputs) if found[0].lifecycle.state != "retired"]
        singles = [_place(inputs, profile, shape, processes=1, nodes=1) for profile, shape in shapes]
    same = [place for place in singles if place.gpu == training.gpu]
    by_rate = [(place.rate.amount, place.instance_type, place) for place in same if isinstance(place.rate, Rate)]
    if by_rate:
        return min(by_rate, key=lambda one: one[:2])[2]
    return same[0] if same else place_on_one_gpu_of_training(inputs)


def place_on_gpus(inputs: PlanInputs, gpus: int) -> Placement | Unknown:
    """Return the smallest machine that has at least `gpus` GPUs of the training's kind, or several of the training's.

    A larger machine than needed is paid for whole. Retired ones count only where the training itself is on one.
    """
    own = inputs.profile
    others = (one for one in inputs.candidates if one.name != own.name and one.lifecycle.state != "retired")
    shapes = [
        (profile, shape)
        for profile in (own, *others)
        for shape in (profile.train, *profile.finders)
        if profile.gpu_of(shape) == own.gpu and shape.gpus >= gpus
    ]
    places = [_place(inputs, profile, shape, processes=gpus, nodes=1) for profile, shape in shapes]
    if places:
        return min(places, key=lambda one: (one.shape_gpus, isinstance(one.rate, Unknown)))
    if service(inputs) is not None and gpus % own.train.gpus == 0:
        return _place(inputs, own, own.train, processes=gpus, nodes=gpus // own.train.gpus)
    kind = "processes" if own.train.interconnect == "host" else f"{own.gpu.model} GPUs"
    return Unknown(unknown=f"no machine here has {gpus} {kind}")


def place_finders(inputs: PlanInputs) -> list[Placement]:
    """Return the machines lr-find could run on, one or more.

    Where AWS bills, these are the single-GPU shapes of all profiles that are not retired, if their GPU has the
    precision, or the one that the user asked for; else the profile's own, cheapest first.

    Raises:
        UsageError: what was asked for is no single-GPU instance, is retired or lacks the precision.
    """
    asked = inputs.settings.lr.finder_instance
    if service(inputs) is None:
        if asked is not None:
            raise UsageError(
                f"--finder-instance {asked}: backend {inputs.settings.launch.backend} chooses no instances",
                fix="drop --finder-instance",
            )
        return _own_finders(inputs)
    if asked is not None:
        return [_asked_finder(inputs, asked)]
    found: dict[str, Placement] = {}
    for profile, shape in _single_gpu_shapes(inputs):
        place = _place(inputs, profile, shape, processes=1, nodes=1)
        if profile.lifecycle.state == "retired" or not _computes(inputs, place.gpu):
            continue
        # The same type may stand in several profiles, and not in each with a price of the region.
        if place.instance_type not in found or isinstance(found[place.instance_type].rate, Unknown):
            found[place.instance_type] = place
    return list(found.values()) or _own_finders(inputs)


def _own_finders(inputs: PlanInputs) -> list[Placement]:
    return [_place(inputs, inputs.profile, shape, processes=1, nodes=1) for shape in inputs.profile.finders]


def _single_gpu_shapes(inputs: PlanInputs) -> Iterator[tuple[InstanceProfile, Shape]]:
    """Yield each single-GPU shape with its profile, those of the training's profile first."""
    for profile in (inputs.profile, *(other for other in inputs.candidates if other.name != inputs.profile.name)):
        for shape in (*profile.finders, profile.train):
            if shape.gpus == 1:
                yield profile, shape


def _asked_finder(inputs: PlanInputs, asked: str) -> Placement:
    """Return the machine that --finder-instance names.

    Raises:
        UsageError: as `place_finders`.
    """
    name = asked.strip().lower().removeprefix(SAGEMAKER_PREFIX)
    shapes = list(_single_gpu_shapes(inputs))
    named = [(profile, shape) for profile, shape in shapes if shape.instance_type == name]
    if not named:
        raise _no_finder(inputs, asked, name, sorted({shape.instance_type for _, shape in shapes}))
    offered = [
        (profile, shape)
        for profile, shape in named
        if profile.lifecycle.state != "retired" or profile is inputs.profile
    ]
    if not offered:
        raise UsageError(
            f"--finder-instance {asked} is retired", why=named[0][0].lifecycle.note, fix="drop --finder-instance"
        )
    places = [_place(inputs, profile, shape, processes=1, nodes=1) for profile, shape in offered]
    place = next((one for one in places if not isinstance(one.rate, Unknown)), places[0])
    if not _computes(inputs, place.gpu):
        raise UsageError(
            f"--finder-instance {asked}: its {place.gpu.model} has no bf16, and the precision is bf16-mixed",
            why="lr-find computes as the training does, or its learning rate is another one's",
            fix="drop --finder-instance, or --precision 16-mixed",
        )
    return place


def _no_finder(inputs: PlanInputs, asked: str, name: str, known: list[str]) -> UsageError:
    for profile in (inputs.profile, *inputs.candidates):
        if name in {profile.name, *profile.aliases}:
            return UsageError(
                f"--finder-instance {asked} has {profile.train.gpus} GPUs",
                why="lr-find runs on one, and the others would be paid for",
                fix=f"--finder-instance {profile.finder.instance_type}",
            )
    return UsageError(
        f"--finder-instance {asked} is no single-GPU instance of any profile",
        why=did_you_mean(name, known),
        fix="drop --finder-instance: the cheapest one is taken",
    )


def _computes(inputs: PlanInputs, gpu: Gpu) -> bool:
    """Tell whether a GPU has the precision; on CPUs every one has."""
    return gpu.bf16 or inputs.settings.workload.precision != "bf16-mixed" or device(inputs) == "cpu"


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


def _place(inputs: PlanInputs, profile: InstanceProfile, shape: Shape, *, processes: int, nodes: int) -> Placement:
    gpu = profile.gpu_of(shape)
    kind = device(inputs)
    biller = service(inputs)
    instance_type = f"{SAGEMAKER_PREFIX}{shape.instance_type}" if biller == "sagemaker" else shape.instance_type
    return Placement(
        profile=profile,
        instance_type=instance_type,
        instances=nodes,
        gpu=gpu,
        local_storage_gb=shape.local_storage_gb,
        shape_gpus=shape.gpus,
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
        else rate(inputs.prices_of(profile), biller, shape.instance_type, inputs.settings.aws.region),
    )
