"""This machine as an instance profile: its NVIDIA or Apple GPU, or CPU processes, without importing torch.

Called by the CLI when the profile is `local`. What it runs and reads comes in as arguments, so tests pass fakes.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.core.frozen import Frozen
from gpuplan.core.units import BYTES_PER_GIB, MIB_PER_GIB
from gpuplan.profiles.hardware import Accelerator, Gpu, Interconnect, NonEmpty, PositiveFloat, PositiveInt, Shape
from gpuplan.profiles.nvidia import Runner, list_gpus, run_quietly, visible
from gpuplan.profiles.schema import DetectedProfile, InstanceProfile, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

CPU_PROCESSES = 2
"""Training processes on a machine without a GPU: the fewest that exercise DDP."""
MPS_MEMORY_SHARE = 2 / 3
"""Assumed share of an Apple machine's RAM that its GPU may use; macOS sets the true one."""
_FIRST_WITH_BF16 = 8
_APPLE_CHIP = ("sysctl", "-n", "machdep.cpu.brand_string")


class Machine(Frozen):
    """What this machine can train on."""

    accelerator: Accelerator
    gpus: PositiveInt
    """Number of GPUs that this process may use; on a CPU, the number of training processes."""
    gpu_model: NonEmpty
    """Name of the GPU as its driver gives it, or `CPU`."""
    memory_mib: PositiveInt
    """Memory of one GPU in MiB, the smallest if they differ; on a CPU, RAM divided by the processes."""
    compute_capability: str | None = None
    """CUDA compute capability; absent for what is no NVIDIA GPU."""
    vcpus: PositiveInt
    """CPUs this process may use: affinity and the control group's quota count."""
    ram_gib: PositiveFloat
    """Memory this process may use in GiB: RAM, or the control group's limit."""


def this_machine(
    run: Runner = run_quietly,
    environ: Mapping[str, str] = os.environ,
    system: tuple[str, str] | None = None,
    cgroup: Path = Path("/sys/fs/cgroup"),
) -> Machine:
    """Look at this machine; a missing or failing nvidia-smi means that there is no NVIDIA GPU.

    `system` is the operating system and the architecture, by default this machine's; `cgroup` is the root of
    control group v2, whose limits are what a container may use.
    """
    vcpus, ram_gib = _vcpus(cgroup), _ram_gib(cgroup)
    found = visible(list_gpus(run), environ.get("CUDA_VISIBLE_DEVICES"))
    if found:
        smallest = min(found, key=lambda gpu: gpu.memory_mib)
        return Machine(
            accelerator="cuda",
            gpus=len(found),
            gpu_model=smallest.name,
            memory_mib=smallest.memory_mib,
            compute_capability=smallest.compute_capability,
            vcpus=vcpus,
            ram_gib=ram_gib,
        )
    if (system or (platform.system(), platform.machine())) == ("Darwin", "arm64"):
        memory_mib = int(ram_gib * MPS_MEMORY_SHARE * MIB_PER_GIB)
        model = _first_line(run, _APPLE_CHIP) or "Apple GPU"
        return Machine(accelerator="mps", gpus=1, gpu_model=model, memory_mib=memory_mib, vcpus=vcpus, ram_gib=ram_gib)
    memory_mib = int(ram_gib * MIB_PER_GIB / CPU_PROCESSES)
    return Machine(
        accelerator="cpu", gpus=CPU_PROCESSES, gpu_model="CPU", memory_mib=memory_mib, vcpus=vcpus, ram_gib=ram_gib
    )


def resolve(
    profile: InstanceProfile | DetectedProfile, machine: Machine | Callable[[], Machine], known: Iterable[Gpu] = ()
) -> InstanceProfile:
    """Return a profile with its hardware filled in: `local` becomes `machine`, any other profile stays as it is.

    `machine` may be a function such as `this_machine`, called only if it is needed. `known` are GPUs whose peak
    figures are used where the driver's name is theirs. The profile of a machine is the same for the same hardware.
    """
    if isinstance(profile, InstanceProfile):
        return profile
    here = machine if isinstance(machine, Machine) else machine()
    gpu = _gpu(here, known)
    interconnect = _interconnect(here)
    train = Shape(
        instance_type=profile.name, gpus=here.gpus, vcpus=here.vcpus, ram_gib=here.ram_gib, interconnect=interconnect
    )
    finder = train.model_copy(update={"gpus": 1, "interconnect": "host" if interconnect == "host" else "single-gpu"})
    seen = Source(
        what="hardware", covers=("gpu", "train", "finders"), where="this machine: nvidia-smi, the operating system"
    )
    return InstanceProfile(
        name=profile.name,
        aliases=profile.aliases,
        description=profile.description,
        lifecycle=profile.lifecycle,
        defaults=profile.defaults,
        sources=(*profile.sources, seen),
        gpu=gpu,
        train=train,
        finders=(finder,),
    )


def _gpu(machine: Machine, known: Iterable[Gpu]) -> Gpu:
    looked_up = known if machine.accelerator == "cuda" else ()
    twin = next((gpu for gpu in looked_up if gpu.nvidia_smi_name == machine.gpu_model), None)
    if twin is not None:
        return twin.model_copy(update={"memory_mib": min(twin.memory_mib, machine.memory_mib)})
    capability = machine.compute_capability
    return Gpu(
        model=machine.gpu_model,
        memory_mib=machine.memory_mib,
        accelerator=machine.accelerator,
        nvidia_smi_name=machine.gpu_model if machine.accelerator == "cuda" else None,
        compute_capability=capability,
        bf16=capability is not None and int(capability.partition(".")[0]) >= _FIRST_WITH_BF16,
    )


def _interconnect(machine: Machine) -> Interconnect:
    if machine.accelerator == "cpu":
        return "host"
    # NVLink is not looked for: PCIe is the slower guess, so no time is promised that the machine cannot keep.
    return "single-gpu" if machine.gpus == 1 else "pcie"


def _vcpus(cgroup: Path) -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _text(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        allowed = min(allowed, max(1, int(quota) // int(period)))
    return allowed


def _ram_gib(cgroup: Path) -> float:
    import psutil  # only `local` looks at the machine, and importing it takes 10 ms

    total = psutil.virtual_memory().total
    limit = _text(cgroup / "memory.max")
    # Hundredths: the total differs by some pages from boot to boot, and a plan's identity should not.
    return round(min(total, int(limit) if limit.isdigit() and int(limit) else total) / BYTES_PER_GIB, 2)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _first_line(run: Runner, command: Sequence[str]) -> str:
    try:
        return next(iter(run(command).splitlines()), "").strip()
    except (OSError, subprocess.SubprocessError):
        return ""
