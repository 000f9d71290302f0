"""Why a job failed: sorts an exception into the contract's kinds, with a message and a fix for the job's user.

Called by the launcher and by every process of a job. It must stay standard library only, because it also reports that
torch is missing; it knows torch's exceptions by name.
"""

from __future__ import annotations

import re
import sys
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

from gpuplan_job import user_frames
from gpuplan_job.atomic import write_atomic, write_once
from gpuplan_job.causes import BY_TEXT, DISK_FULL, LESS_MEMORY, MORE_DISK
from gpuplan_job.contract import FAILURE_FILE, Failure, FailureKind, JobInput
from gpuplan_job.data import DataError
from gpuplan_job.document import ContractError

if TYPE_CHECKING:
    from pathlib import Path

INSTALL_FIX = "pip install 'gpuplan[local]'"
RANKS_FOLDER = "ranks"
"""In a job's folder: each rank's own report of its failure, and of its end."""
_TRACE_LIMIT = 20_000
"""Characters of a trace that are kept, from its end: the innermost frames say what happened."""
_BROUGHT = {"torch", "torchvision", "pytorch_lightning", "lightning", "lightning_fabric", "numpy", "PIL"}
"""Modules that gpuplan's own extra installs."""

_WORKER = re.compile(r"\ACaught (?P<type>\w+) in DataLoader worker process .*\n(?P<line>\S[^\n]*)\Z", re.DOTALL)
_READS_DATA = {"__getitem__", "__iter__", "__getitems__", "__next__"}
"""Functions in which a file that cannot be opened is a sample of the data."""


class JobError(Exception):
    """A failure whose cause is known where it is raised."""

    def __init__(self, kind: FailureKind, message: str, fix: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.fix = fix
        self.rank: int | None = None
        """The rank that it lies with, where another process raises it."""


def classify(error: BaseException) -> tuple[FailureKind, str, str]:
    """Return (kind, message, fix) of an exception; what no rule knows is the user's code, or `internal`."""
    message = _text(error)
    match error:
        case JobError():
            return error.kind, error.message, error.fix
        case DataError():
            return "data", message, "correct --data or the files it names, then start again"
        case ContractError():
            return "usage", f"the job's input cannot be read: {message}", "start the job with the gpuplan that wrote it"
        case ImportError():
            return "import", _located(message, error), _import_fix(error)
        case MemoryError():
            return "out-of-memory", f"the machine is out of memory: {message}", LESS_MEMORY
        case KeyboardInterrupt():
            return "killed", "the job was interrupted", "start it again"
        case OSError() if error.errno in DISK_FULL:
            return "disk", f"no space left: {message}", MORE_DISK
        case _:
            return _by_text(error, message)


def describe(job_input: JobInput | None, error: BaseException, rank: int | None) -> Failure:
    """Return the failure that an exception is; `job_input` is None where the input could not be read."""
    kind, message, fix = classify(error)
    frame = user_frames.of_error(error)
    return Failure(
        run_id=job_input.run_id if job_input else "",
        step=job_input.step if job_input else "",
        attempt=job_input.attempt if job_input else 0,
        kind=kind,
        message=_encodable(message),
        fix=fix,
        rank=rank,
        trace=_encodable("".join(traceback.format_exception(error))[-_TRACE_LIMIT:]),
        where=_encodable(str(frame)) if frame else "",
        at=time.time(),
        echo=kind == "communication",
    )


def write_failure(folder: Path, job_input: JobInput | None, error: BaseException, rank: int | None) -> bool:
    """Write `failure.json` into a job's folder unless one is there, and return whether this call wrote it.

    Each rank's own report is written besides: the launcher finds the cause among them, which need not be the first
    writer's. `job_input` is None where the input could not be read.

    Raises:
        OSError: the folder cannot be written.
    """
    text = describe(job_input, error, rank).to_json()
    if rank is not None:
        (folder / RANKS_FOLDER).mkdir(exist_ok=True)
        write_atomic(report_path(folder, rank), text)
    return write_once(folder / FAILURE_FILE, text)


def report(folder: Path, job_input: JobInput | None, error: BaseException, rank: int) -> None:
    """Write the failure and print it; a disk too full for the file must not hide what happened."""
    with suppress(OSError):
        write_failure(folder, job_input, error, rank)
    _, message, fix = classify(error)
    sys.stderr.write(f"rank {rank} failed: {message}\n{fix}\n")


def report_path(folder: Path, rank: int) -> Path:
    """Return where a rank reports its own failure."""
    return folder / RANKS_FOLDER / f"{rank}.failure.json"


def _by_text(error: BaseException, message: str) -> tuple[FailureKind, str, str]:
    described = f"{_name(error)}: {message}"
    frame = user_frames.of_error(error)
    for cause in BY_TEXT:
        # torch's exceptions are known by their names, so that torch need not be there.
        known = cause.kind == "out-of-memory" and type(error).__name__ == "OutOfMemoryError"
        if known or cause.pattern.search(described):
            return cause.kind, _located(described, error), cause.fix
    if _opens_sample(error):
        return "data", _located(message, error), "correct --data or the file it names, then start again"
    if frame is not None:
        return "user-code", _located(described, error), f"correct {frame.file}, line {frame.line}, then launch again"
    return "internal", described, "report it with this trace: it should not happen"


def _opens_sample(error: BaseException) -> bool:
    """Tell whether a file could not be opened while a sample was read."""
    if match := _WORKER.match(str(error).strip()):
        return match["type"] in {"FileNotFoundError", "PermissionError", "IsADirectoryError"}
    reads = any(frame.name in _READS_DATA for frame in traceback.extract_tb(error.__traceback__))
    return reads and isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)


def _import_fix(error: ImportError) -> str:
    name = (error.name or "").partition(".")[0]
    if not name or name in _BROUGHT:
        return f"install what is missing: {INSTALL_FIX}"
    return f"install {name} where the job runs, or bring the file that defines it along"


def _located(message: str, error: BaseException) -> str:
    """Return a message with the line of the user's code that it came from."""
    frame = user_frames.of_error(error)
    return f"{message} ({frame})" if frame else message


def _name(error: BaseException) -> str:
    """Return an exception's type; of one that crossed from a data-loading worker, the original's."""
    match = _WORKER.match(str(error).strip())
    return match["type"] if match else type(error).__name__


def _encodable(text: str) -> str:
    # A file name that is not UTF-8 reaches a message as lone surrogates, which no JSON file can hold.
    return text.encode(errors="replace").decode()


def _text(error: BaseException) -> str:
    """Return what an exception says; of one that crossed from a data-loading worker, the original's last line."""
    text = str(error).strip()
    if worker := _WORKER.match(text):
        return worker["line"].partition(": ")[2] or worker["line"]
    return text or type(error).__name__
