"""What messages of torch, of its back ends and of the system mean: which kind of failure, and what to do about it.

Called by `failures`. Standard library only: a table, in the order in which it is tried.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gpuplan_job.contract import FailureKind

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SMALLER_BATCH = "use a smaller --per-gpu-batch (and --accumulate to keep the global batch), or a GPU with more memory"
LESS_MEMORY = "use fewer workers or a smaller batch, or a machine with more memory"
MORE_DISK = "free space, or give the job a larger volume"
SEE_OTHERS = "read what the other ranks printed last: gpuplan logs RUN"


class Cause(NamedTuple):
    """What a message that `pattern` finds means."""

    pattern: re.Pattern[str]
    kind: FailureKind
    fix: str


def _cause(kind: FailureKind, pattern: str, fix: str) -> Cause:
    return Cause(re.compile(pattern, re.IGNORECASE), kind, fix)


BY_TEXT = (
    _cause(
        "out-of-memory",
        r"out of memory|can't allocate memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED|std::bad_alloc",
        SMALLER_BATCH,
    ),
    _cause("disk", r"no space left on device|disk quota exceeded|file too large|PytorchStreamWriter failed", MORE_DISK),
    _cause(
        "disk",
        r"shared memory|bus error",
        "the data-loading workers ran out of /dev/shm: give the container a larger one or use fewer workers",
    ),
    _cause(
        "killed",
        r"DataLoader worker .*(killed by signal|exited unexpectedly)",
        "a data-loading worker was ended from outside, most often because memory ran out: use fewer workers",
    ),
    _cause(
        "stall",
        r"Watchdog caught collective|timed out waiting|Application timeout caused pair closure|wait timeout after"
        r"|op\.preamble\.length",
        "the ranks do not all call the same collectives, or one of them is stuck: see what each printed last",
    ),
    _cause(
        "communication",
        r"gloo[/:]|Connection (closed|reset|refused)|Broken pipe|remote process exited|"  # gloo
        r"NCCL|DistBackendError|DistNetworkError|DistStoreError|TCPStore",
        SEE_OTHERS,
    ),
    _cause("usage", "Expected more than 1 value per channel", "BatchNorm needs two samples: --per-gpu-batch 2 or more"),
    _cause(
        "data",
        r"Target -?\d+ is out of bounds|Assertion.*t >= 0 && t < n_classes",
        "a label is not below the number of classes: check the labels of --data",
    ),
    _cause(
        "data",
        r"cannot identify image file|image file is truncated|broken data stream|UnidentifiedImageError",
        "replace or remove that file, then start again",
    ),
    _cause(
        "device",
        r"no kernel image|CUDA error|CUDA driver|cuDNN|device-side assert",
        "check that the installed torch supports this GPU and its driver (nvidia-smi), then start again",
    ),
)
"""The first that matches counts: an allocation that fails inside NCCL is still memory."""


def by_text(text: str) -> Cause | None:
    """Return what a message means, None where no row of the table knows it."""
    return next((cause for cause in BY_TEXT if cause.pattern.search(text)), None)
