"""The machine under a job: device, seeds, mixed precision, versions, peak memory.

Called by `lr_find` and `train`. It must not import Lightning, and must never fall back to a slower device silently.
"""

from __future__ import annotations

import contextlib
import platform
import random
import resource
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Literal

import torch

from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from gpuplan_job.contract import Device, Precision

_GIB = 1024**3
_LIGHTNING: dict[Precision, Literal["32-true", "16-mixed", "bf16-mixed"]] = {
    "fp32": "32-true",
    "16-mixed": "16-mixed",
    "bf16-mixed": "bf16-mixed",
}


def device(requested: Device, local_rank: int, processes: int = 1) -> torch.device:
    """Return the device of one of a machine's `processes`.

    `auto` takes CUDA if there is a usable GPU for every process, else MPS for a single process, else the CPU: the
    answer is the same on every rank.

    Raises:
        JobError: a GPU was asked for by name and is not there or cannot be used.
    """
    if requested == "cpu":
        return torch.device("cpu")
    if requested in ("cuda", "auto"):
        problem = _cuda_problem(local_rank, processes)
        if problem is None:
            chosen = torch.device("cuda", local_rank)
            torch.cuda.set_device(chosen)
            return chosen
        if requested == "cuda":
            fix = "choose an instance with enough GPUs and a torch built for them, or --device cpu"
            raise JobError("device", f"--device cuda: {problem}", fix)
    usable = torch.backends.mps.is_available() and processes == 1
    if requested == "mps" and not usable:
        raise JobError("device", "--device mps: no Apple GPU for a single process here", "use --device cpu")
    return torch.device("mps" if usable else "cpu")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy (where loaded) and torch on every device."""
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def lightning_precision(precision: Precision, on: torch.device) -> Literal["32-true", "16-mixed", "bf16-mixed"]:
    """Return Lightning's name of a precision. Half precision has no use on a CPU: there 16-mixed runs as bf16-mixed."""
    return _LIGHTNING[_effective(precision, on)]


def autocast(precision: Precision, on: torch.device) -> AbstractContextManager[object]:
    """Return the context for forward passes and losses, as Lightning would use it on the same device."""
    effective = _effective(precision, on)
    if effective == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(on.type, dtype=torch.float16 if effective == "16-mixed" else torch.bfloat16)


def grad_scaler(precision: Precision, on: torch.device) -> torch.amp.GradScaler:
    """Return the loss scaler, one that does nothing unless the gradients are in half precision."""
    return torch.amp.GradScaler(on.type, enabled=_effective(precision, on) == "16-mixed")


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


def _effective(precision: Precision, on: torch.device) -> Precision:
    return "bf16-mixed" if precision == "16-mixed" and on.type == "cpu" else precision


def _cuda_problem(local_rank: int, processes: int) -> str | None:
    """Return why this process cannot have a GPU of its own, None if it can."""
    if not torch.cuda.is_available():
        return "torch sees no GPU here"
    count = torch.cuda.device_count()
    if count < processes:
        return f"{processes} processes need a GPU each, torch sees {count}"
    try:
        # A GPU that torch was not built for is listed all the same, and fails at the first kernel.
        torch.zeros(1, device=torch.device("cuda", local_rank)).add_(1).item()
    except RuntimeError as error:
        return f"{torch.cuda.get_device_name(local_rank)} cannot be used by torch {torch.__version__}: {error}"
    return None
