"""Why a job failed: sorts an exception into the contract's kinds, with a message and a fix for the job's user.

Called by the launcher and by every process of a job. It must stay standard library only, because it also reports that
torch is missing; it knows torch's exceptions by name.
"""

from __future__ import annotations

import errno
import re
import traceback
from typing import TYPE_CHECKING

from gpuplan_job.atomic import write_once
from gpuplan_job.contract import FAILURE_FILE, Failure, FailureKind, JobInput
from gpuplan_job.data import DataError
from gpuplan_job.document import ContractError

if TYPE_CHECKING:
    from pathlib import Path

INSTALL_FIX = "pip install 'gpuplan[local]'"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_TRACE_LIMIT = 20_000
"""Characters of a trace that are kept, from its end: the innermost frames say what happened."""

_WORKER = re.compile(r"\ACaught \w+ in DataLoader worker process .*\n(?P<line>\S[^\n]*)\Z", re.DOTALL)
_BY_TEXT: tuple[tuple[re.Pattern[str], FailureKind, str], ...] = (
    (
        re.compile(
            r"out of memory|can't allocate memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED|std::bad_alloc", re.IGNORECASE
        ),
        "out-of-memory",
        "use a smaller --per-gpu-batch (and --accumulate to keep the global batch), or a GPU with more memory",
    ),
    (
        re.compile(r"shared memory|bus error", re.IGNORECASE),
        "disk",
        "the data-loading workers ran out of /dev/shm: give the container a larger one or use fewer workers",
    ),
    (
        re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)", re.IGNORECASE),
        "killed",
        "a data-loading worker was ended from outside, most often because memory ran out: use fewer workers",
    ),
    (
        re.compile(
            r"Connection (closed|reset) by peer|remote process exited|Watchdog caught collective", re.IGNORECASE
        ),
        "killed",
        "another rank ended without a word, most often because memory ran out: read its lines in the log",
    ),
    (
        re.compile(r"Expected more than 1 value per channel"),
        "usage",
        "BatchNorm needs two samples: --per-gpu-batch 2 or more",
    ),
    (
        re.compile(r"no kernel image|CUDA error|CUDA driver|cuDNN|NCCL|device-side assert", re.IGNORECASE),
        "device",
        "check that the installed torch supports this GPU and its driver (nvidia-smi), then start again",
    ),
    (
        re.compile(r"Target -?\d+ is out of bounds"),
        "data",
        "a label is not below the number of classes: check the labels of --data",
    ),
)


class JobError(Exception):
    """A failure whose cause is known where it is raised."""

    def __init__(self, kind: FailureKind, message: str, fix: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.fix = fix


def classify(error: BaseException) -> tuple[FailureKind, str, str]:
    """Return (kind, message, fix) of an exception; what no rule knows is `internal`."""
    message = _text(error)
    match error:
        case JobError():
            return error.kind, error.message, error.fix
        case DataError():
            return "data", message, "correct --data or the files it names, then start again"
        case ContractError():
            return "usage", f"the job's input cannot be read: {message}", "start the job with the gpuplan that wrote it"
        case ImportError():
            return "import", message, f"install what is missing: {INSTALL_FIX}"
        case MemoryError():
            return "out-of-memory", f"the machine is out of memory: {message}", "use fewer workers or a smaller batch"
        case KeyboardInterrupt():
            return "killed", "the job was interrupted", "start it again"
        case OSError() if error.errno in _DISK_FULL:
            return "disk", f"no space left: {message}", "free space, or give the job a larger volume"
        case _:
            return _by_text(error, message)


def describe(job_input: JobInput | None, error: BaseException, rank: int | None) -> Failure:
    """Return the failure that an exception is; `job_input` is None where the input could not be read."""
    kind, message, fix = classify(error)
    return Failure(
        run_id=job_input.run_id if job_input else "",
        step=job_input.step if job_input else "",
        attempt=job_input.attempt if job_input else 0,
        kind=kind,
        message=_encodable(message),
        fix=fix,
        rank=rank,
        trace=_encodable("".join(traceback.format_exception(error))[-_TRACE_LIMIT:]),
    )


def write_failure(folder: Path, job_input: JobInput | None, error: BaseException, rank: int | None) -> bool:
    """Write `failure.json` into a job's folder unless one is there, and return whether this call wrote it.

    The first writer wins: what other ranks meet after it is only its echo. `job_input` is None where the input could
    not be read.

    Raises:
        OSError: the folder cannot be written.
    """
    return write_once(folder / FAILURE_FILE, describe(job_input, error, rank).to_json())


def _by_text(error: BaseException, message: str) -> tuple[FailureKind, str, str]:
    described = f"{type(error).__name__}: {message}"
    for pattern, kind, fix in _BY_TEXT:
        # torch.OutOfMemoryError is known by its name, so that torch need not be there.
        if pattern.search(message) or (kind == "out-of-memory" and type(error).__name__ == "OutOfMemoryError"):
            return kind, described, fix
    return "internal", described, "report it with this trace: it should not happen"


def _encodable(text: str) -> str:
    # A file name that is not UTF-8 reaches a message as lone surrogates, which no JSON file can hold.
    return text.encode(errors="replace").decode()


def _text(error: BaseException) -> str:
    """Return what an exception says; of one that crossed from a data-loading worker, the original's last line."""
    text = str(error).strip()
    if worker := _WORKER.match(text):
        return worker["line"].partition(": ")[2] or worker["line"]
    return text or type(error).__name__
