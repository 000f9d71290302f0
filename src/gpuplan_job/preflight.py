"""What a machine must have before a job reads data or builds a network, and in which words it fails for want of it.

Called by `machine_probe`, which looks; `reachability` lets the ranks meet. Standard library only: what is decided here
is decided from values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuplan_job.causes import MORE_DISK
from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan_job.contract import Device, Expected

_CHECKPOINTS = 4
"""On disk at a time: the best, the two newest, and the one that is being written."""
_SPARE_GIB = 0.05
_CONTEXT_GIB = 0.7
"""Of a GPU's memory that this very process may hold by now."""
_LEAST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 0)}
"""By major version of the CUDA runtime: docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html,
read 2026-11-29; patch levels of 11 and 12 from the toolkit's release notes."""
_DRIVER = re.compile(r"\b(\d{3,})\.(\d+)(\.\d+)*\b")


@dataclass(frozen=True)
class Gpu:
    """The GPU of one rank."""

    name: str
    capability: tuple[int, int]
    free_gib: float
    total_gib: float
    fault: str | None = None
    """Why a small kernel did not run on it; None: it ran."""


@dataclass(frozen=True)
class Machine:
    """What a rank finds where it runs."""

    gpus: int
    """That torch sees."""
    gpu: Gpu | None
    """This rank's, where there is one for it."""
    torch: str
    cuda: str | None
    """Version of the runtime that torch was built with."""
    architectures: tuple[str, ...]
    """That torch has kernels for: `sm_86`, or as PTX `compute_90`."""
    driver: str | None
    """Of NVIDIA; None where none is loaded."""
    disk_free_gib: float
    """Where checkpoints are written."""
    shared_memory_gib: float | None
    """Free in /dev/shm; None where there is none."""
    holders: str = ""
    """Other processes on the GPU, `process 4711 with 18000 MiB`; empty where they cannot be seen."""


@dataclass(frozen=True)
class Needs:
    """What a job asks of each machine."""

    device: Device
    processes: int
    """On this machine, one a GPU."""
    expected: Expected

    def on_gpus(self, machine: Machine) -> bool:
        """Tell whether the job runs on CUDA here."""
        return self.device == "cuda" or (self.device == "auto" and 0 < self.processes <= machine.gpus)


def problem(machine: Machine, needs: Needs) -> JobError | None:
    """Return why a job cannot run on a machine, None if nothing speaks against it."""
    found = _gpu_problem(machine, needs) if needs.on_gpus(machine) else None
    return found or _disk_problem(machine, needs) or _shared_memory_problem(machine, needs)


def runs_on(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Tell whether a torch build has code for a GPU.

    A kernel `sm_XY` runs on GPUs of the same major version from X.Y on; PTX `compute_XY` is compiled by the driver for
    every GPU from X.Y on (CUDA C++ programming guide, "Application compatibility"). A suffix, as in `sm_90a`, ties it
    to exactly that GPU.
    """
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", architecture)
        if match is None:
            continue
        built = int(match[2]), int(match[3])
        if match[4]:
            fits = built == capability
        elif match[1] == "sm":
            fits = built[0] == capability[0] and built[1] <= capability[1]
        else:
            fits = built <= capability
        if fits:
            return True
    return False


def driver_is_too_old(driver: str | None, cuda: str | None) -> str | None:
    """Return what driver a CUDA runtime needs where this one is older; None where it is new enough or not known.

    A forward-compatibility package can make an older driver do, so this explains a failure and causes none.
    """
    found, runtime = _DRIVER.search(driver or ""), re.match(r"(\d+)\.", cuda or "")
    least = _LEAST_DRIVER.get(int(runtime[1])) if runtime else None
    if found is None or least is None or (int(found[1]), int(found[2])) >= least:
        return None
    return f"{least[0]}.{least[1]}"


def driver_version(text: str) -> str | None:
    """Return the version in what /proc/driver/nvidia/version says."""
    found = _DRIVER.search(text)
    return found[0] if found else None


def summary(machine: Machine, needs: Needs, reached: str) -> str:
    """Return the line of the log for a machine that passed; `reached` says how several ranks met."""
    disk = f"{machine.disk_free_gib:.1f} GiB of disk free"
    met = f", {reached}" if reached else ""
    gpu = machine.gpu
    if gpu is None or not needs.on_gpus(machine):
        return f"preflight: no CUDA GPU used, {needs.processes} process(es), {disk}{met}"
    seen = f"{needs.processes} of {machine.gpus}" if machine.gpus > needs.processes else f"{machine.gpus}"
    driver = f", driver {machine.driver}" if machine.driver else ""
    memory = f"{gpu.free_gib:.1f} of {gpu.total_gib:.1f} GiB free"
    return f"preflight: {seen} GPU(s) {gpu.name} {_sm(gpu.capability)} ok{driver}, {memory}, {disk}{met}"


def _gpu_problem(machine: Machine, needs: Needs) -> JobError | None:
    old = driver_is_too_old(machine.driver, machine.cuda)
    driver = f"; its driver {machine.driver} is older than CUDA {machine.cuda} needs ({old})" if old else ""
    newer = f"update the NVIDIA driver to {old} or newer, or install a torch for an older CUDA"
    if machine.cuda is None:
        text = f"torch {machine.torch} was built without CUDA"
        return JobError("device", text, "install a torch with CUDA, or --device cpu")
    if machine.gpus < needs.processes:
        seen = f"torch {machine.torch} sees {machine.gpus or 'no'} GPU(s) here, {needs.processes} are planned"
        if old:
            return JobError("device", seen + driver, newer)
        none = "" if machine.driver else "; no NVIDIA driver is loaded"
        fix = "check nvidia-smi and CUDA_VISIBLE_DEVICES there, or launch on an instance with as many GPUs"
        return JobError("device", seen + none, fix)
    gpu = machine.gpu
    if gpu is None:
        return None
    if gpu.fault is not None:
        if not runs_on(gpu.capability, machine.architectures):
            built = " ".join(machine.architectures)
            text = f"torch {machine.torch} has no code for {gpu.name} ({_sm(gpu.capability)}): it was built for {built}"
            return JobError("device", text, "install a torch for this GPU, or choose another instance")
        text = f"a first kernel fails on {gpu.name}: {gpu.fault}{driver}"
        return JobError("device", text, newer if old else "check the GPU with nvidia-smi (Xid errors: dmesg)")
    return _memory_problem(machine, gpu, needs.expected.peak_gib)


def _memory_problem(machine: Machine, gpu: Gpu, peak_gib: float | None) -> JobError | None:
    """Return what speaks against a GPU that others use: that the card itself is too small is the plan's to say."""
    held = gpu.total_gib - gpu.free_gib - _CONTEXT_GIB
    if peak_gib is None or held <= 0 or gpu.free_gib + _CONTEXT_GIB >= peak_gib:
        return None
    who = machine.holders or "a process that cannot be seen from here"
    text = f"{gpu.free_gib:.1f} of {gpu.total_gib:.1f} GiB are free on {gpu.name}, {peak_gib:.1f} are planned"
    return JobError("device", f"{text}: {who} holds the rest", "end what runs on the GPU, or use another one")


def _disk_problem(machine: Machine, needs: Needs) -> JobError | None:
    one = needs.expected.checkpoint_gib
    asked = _CHECKPOINTS * one + _SPARE_GIB if one is not None else _SPARE_GIB
    if machine.disk_free_gib >= asked:
        return None
    what = f"{_CHECKPOINTS} checkpoints of {one:.2f} GiB" if one is not None else "the results"
    text = f"{machine.disk_free_gib:.2f} GiB are free where checkpoints are written, {asked:.2f} are needed for {what}"
    return JobError("disk", text, MORE_DISK)


def _shared_memory_problem(machine: Machine, needs: Needs) -> JobError | None:
    each, free = needs.expected.loader_gib, machine.shared_memory_gib
    asked = (each or 0.0) * needs.processes
    if free is None or asked <= free:
        return None
    text = f"shared memory has {free:.2f} GiB free, the batches of the data-loading workers need about {asked:.2f}"
    return JobError("disk", text, "give the container a larger /dev/shm (docker run --shm-size), or fewer --workers")


def _sm(capability: tuple[int, int]) -> str:
    return f"sm_{capability[0]}{capability[1]}"
