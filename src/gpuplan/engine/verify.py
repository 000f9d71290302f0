"""Is this result the one we asked for? Strict reading, and identity by run, step, attempt and the input's digest.

Nothing is decided from a result that has not passed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from gpuplan.core.errors import NoResultError
from gpuplan_job.contract import (
    FAILURE_FILE,
    LR_RESULT_FILE,
    TRAIN_RESULT_FILE,
    Failure,
    JobInput,
    LrResult,
    TrainResult,
)
from gpuplan_job.document import ContractError, sha256_hex

if TYPE_CHECKING:
    from gpuplan.backends.base import Backend

R = TypeVar("R", LrResult, TrainResult)


def lr_result(backend: Backend, handle: str, job: JobInput) -> LrResult:
    """Fetch and verify what lr-find wrote.

    Raises:
        NoResultError: absent, damaged, not finite, or of another run, step, attempt or input.
    """
    return _verified(LrResult, LR_RESULT_FILE, backend, handle, job)


def train_result(backend: Backend, handle: str, job: JobInput) -> TrainResult:
    """Fetch and verify what the training wrote.

    Raises:
        NoResultError: absent, damaged, not finite, or of another run, step, attempt or input.
    """
    return _verified(TrainResult, TRAIN_RESULT_FILE, backend, handle, job)


def failure(backend: Backend, handle: str) -> Failure | None:
    """Return the job's own account of its failure, None if it left none that can be read."""
    try:
        return Failure.from_json(backend.fetch(handle, FAILURE_FILE))
    except (FileNotFoundError, ContractError):
        return None


def _verified(kind: type[R], name: str, backend: Backend, handle: str, job: JobInput) -> R:
    where = backend.locate(handle, name)
    fix = f"gpuplan resume {job.run_id}    runs {job.step} again as a new attempt"
    try:
        result = kind.from_json(backend.fetch(handle, name))
    except FileNotFoundError as error:
        raise NoResultError(f"{job.step} ended without a result", why=f"there is no {where}", fix=fix) from error
    except ContractError as error:
        raise NoResultError(f"{job.step} left an invalid result: {error}", why=f"file {where}", fix=fix) from error
    expected = (job.run_id, job.step, job.attempt, sha256_hex(job.to_json()))
    found = (result.run_id, result.step, result.attempt, result.input_sha256)
    if found != expected:
        names = ("run", "step", "attempt", "input")
        wrong = [f"{n} {f!r} instead of {e!r}" for n, f, e in zip(names, found, expected, strict=True) if f != e]
        raise NoResultError(f"{job.step} left the result of something else: {wrong[0]}", why=f"file {where}", fix=fix)
    return result
