"""The machine under a job: device, seeds, mixed precision, versions, peak memory.

Called by `lr_find` and `train`. It must not import Lightning, and must never fall back to a slower device silently.
"""

from __future__ import annotations

import contextlib
import platform
import random
import resource
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Literal

import torch

from gpuplan_job.document import sha256_hex
from gpuplan_job.failures import JobError
from gpuplan_job.precision import effective

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from gpuplan_job.contract import Device, Precision

_GIB = 1024**3
_LIGHTNING: dict[Precision, Literal["32-true", "16-mixed", "bf16-mixed"]] = {
    "fp32": "32-true",
    "16-mixed": "16-mixed",
    "bf16-mixed": "bf16-mixed",
}


@dataclass(frozen=True)
class Accelerators:
    """What torch sees on this machine besides the CPU."""

    gpus: int
    """CUDA devices, usable or not."""
    fault: Callable[[int], str | None]
    """Why the CUDA device of this index cannot be used, None if it can."""
    mps: bool


def device(requested: Device, local_rank: int, processes: int = 1, machine: Accelerators | None = None) -> torch.device:
    """Return the device of one of a machine's `processes`; `machine` is looked at where it is not given.

    `auto` takes CUDA if there is a GPU for every process, else MPS for a single process, else the CPU: the answer is
    the same on every rank.

    Raises:
        JobError: a GPU was asked for by name and is not there, or the one to take cannot be used.
    """
    if requested == "cpu":
        return torch.device("cpu")
    machine = machine or _this_machine()
    if requested in ("cuda", "auto"):
        enough = machine.gpus >= max(1, processes)
        problem = machine.fault(local_rank) if enough else _too_few(machine.gpus, processes)
        if problem is None:
            chosen = torch.device("cuda", local_rank)
            torch.cuda.set_device(chosen)
            return chosen
        if enough or requested == "cuda":
            fix = "choose an instance with enough GPUs and a torch built for them, or --device cpu"
            raise JobError("device", f"--device {requested}: {problem}", fix)
    usable = machine.mps and processes == 1
    if requested == "mps" and not usable:
        raise JobError("device", "--device mps: no Apple GPU for a single process here", "use --device cpu")
    return torch.device("mps" if usable else "cpu")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy (where loaded) and torch on every device."""
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def reseed(seed: int) -> None:
    """Seed what a process that is already at work draws from, in microseconds; `torch.manual_seed` takes a hundred."""
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # torch does not type it
        torch.cuda.manual_seed(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def derived_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Return the seed of one purpose: a digest keeps neighbouring numbers and other purposes from sharing a stream."""
    return int(sha256_hex("/".join(map(str, (seed, purpose, *numbers))))[:15], 16)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let Python, NumPy (where loaded) and torch's CPU draw from `seed` in the block, and as before it afterwards."""
    numpy = sys.modules.get("numpy")
    before = random.getstate(), torch.get_rng_state(), numpy.random.get_state() if numpy else None
    random.seed(seed)
    # torch.manual_seed would reach for the GPUs too, which a data-loading process must not.
    torch.default_generator.manual_seed(seed)
    if numpy:
        numpy.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before[0])
        torch.set_rng_state(before[1])
        if numpy:
            numpy.random.set_state(before[2])


def effective_precision(precision: Precision, on: torch.device) -> Precision:
    """Return what a device really runs."""
    return effective(precision, on.type)


def lightning_precision(precision: Precision, on: torch.device) -> Literal["32-true", "16-mixed", "bf16-mixed"]:
    """Return Lightning's name of the precision that a device runs."""
    return _LIGHTNING[effective_precision(precision, on)]


def autocast(precision: Precision, on: torch.device) -> AbstractContextManager[object]:
    """Return the context for forward passes and losses, as Lightning would use it on the same device."""
    effective = effective_precision(precision, on)
    if effective == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(on.type, dtype=torch.float16 if effective == "16-mixed" else torch.bfloat16)


def grad_scaler(precision: Precision, on: torch.device) -> torch.amp.GradScaler:
    """Return the loss scaler, one that does nothing unless the gradients are in half precision."""
    return torch.amp.GradScaler(on.type, enabled=effective_precision(precision, on) == "16-mixed")


def versions() -> dict[str, str]:
    """Return the versions a result depends on, importing nothing but torch."""
    found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    for key, distribution in (("torchvision", "torchvision"), ("lightning", "pytorch-lightning")):
        try:
            found[key] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[key] = "none"
    return found


def peak_gib(on: torch.device) -> float | None:
    """Return the peak memory of this process in GiB: reserved on CUDA, resident on a CPU; None where unknown."""
    if on.type == "cuda":
        return torch.cuda.max_memory_reserved(on) / _GIB
    if on.type == "cpu":
        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB
    return None


def device_name(on: torch.device) -> str:
    """Return the name people know a device by."""
    if on.type == "cuda":
        return torch.cuda.get_device_name(on)
    return platform.processor() or platform.machine() if on.type == "cpu" else f"Apple {on.type.upper()}"


def _this_machine() -> Accelerators:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Accelerators(gpus, _unusable, torch.backends.mps.is_available())


def _too_few(gpus: int, processes: int) -> str:
    return f"{processes} processes need a GPU each, torch sees {gpus}" if gpus else "torch sees no GPU here"


def _unusable(index: int) -> str | None:
    fault = gpu_fault(index)
    return fault and f"{torch.cuda.get_device_name(index)} cannot be used by torch {torch.__version__}: {fault}"


def gpu_fault(index: int) -> str | None:
    """Return what a first kernel on a GPU fails with: one that torch was not built for is listed all the same."""
    try:
        torch.zeros(1, device=torch.device("cuda", index)).add_(1).item()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None
