"""Is this result the one we asked for? Strict reading, identity by run, step, attempt and the input's digest, sense.

Nothing is decided from a result that has not passed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from gpuplan.core.errors import NoResultError
from gpuplan_job.batch_search import Choice, choose
from gpuplan_job.contract import (
    BATCH_RESULT_FILE,
    FAILURE_FILE,
    LR_RESULT_FILE,
    TRAIN_RESULT_FILE,
    BatchResult,
    Failure,
    JobInput,
    LrResult,
    TrainResult,
)
from gpuplan_job.decision import decide
from gpuplan_job.document import ContractError, sha256_hex

if TYPE_CHECKING:
    from gpuplan.backends.base import Backend
    from gpuplan_job.contract import BatchSweeps

R = TypeVar("R", LrResult, TrainResult, BatchResult)

_ROUNDING = 1e-9
"""What a power may be off by."""


def lr_result(backend: Backend, handle: str, job: JobInput) -> LrResult:
    """Fetch and verify what lr-find wrote.

    Raises:
        NoResultError: absent, damaged, not finite, of another run, step, attempt or input, or no range test as asked.
    """
    return _sound(
        _verified(LrResult, LR_RESULT_FILE, backend, handle, job), job, backend.locate(handle, LR_RESULT_FILE)
    )


def batch_result(backend: Backend, handle: str, job: JobInput) -> BatchResult:
    """Fetch and verify what find-batch wrote.

    Raises:
        NoResultError: absent, damaged, of another run, step, attempt or input, or batches its tries do not lead to.
    """
    result = _verified(BatchResult, BATCH_RESULT_FILE, backend, handle, job)
    named = Choice(result.chosen, result.largest, result.fastest)
    measured = result.trial(result.chosen)
    wrong = {
        "another search than it was told to make": result.search != job.batch_search,
        "another batch or workload than it was told to use": (result.batch, result.workload)
        != (job.batch, job.workload),
        f"a batch above {result.search.largest}": any(t.batch > result.search.largest for t in result.trials),
        "other batches than its tries lead to": choose(result.trials, result.search, result.capacity_gib) != named,
        "another measurement than the chosen batch's": (measured.step_seconds, measured.peak_gib)
        != (result.measured.step_seconds, result.measured.peak_gib),
    }
    if (found := next((what for what, so in wrong.items() if so), None)) is not None:
        raise NoResultError(
            f"{job.step} left an invalid result: {found}",
            why=f"file {backend.locate(handle, BATCH_RESULT_FILE)}",
            fix=f"gpuplan resume {job.run_id}    runs {job.step} again as a new attempt",
        )
    return result


def train_result(backend: Backend, handle: str, job: JobInput) -> TrainResult:
    """Fetch and verify what the training wrote.

    Raises:
        NoResultError: absent, damaged, not finite, or of another run, step, attempt or input.
    """
    result = _verified(TrainResult, TRAIN_RESULT_FILE, backend, handle, job)
    told = (job.batch.world_size, job.train.learning_rate if job.train else None)
    if (result.world_size, result.learning_rate) != told:
        raise NoResultError(
            f"{job.step} left the result of another training: {result.world_size} processes at learning rate "
            f"{result.learning_rate:g}, told {told[0]} at {told[1]}",
            why=f"file {backend.locate(handle, TRAIN_RESULT_FILE)}",
            fix=f"gpuplan resume {job.run_id}    runs {job.step} again as a new attempt",
        )
    return result


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


def _others(result: LrResult) -> list[BatchSweeps]:
    return [*([] if result.check is None else [result.check]), *result.compared]


def _sound(result: LrResult, job: JobInput, where: str) -> LrResult:
    """Return a range test whose figures can be those of the sweep that the job was told to make.

    Raises:
        NoResultError: they cannot: an LR that no step was taken at would be an LR that nobody measured.
    """
    spec = result.sweep
    tests = [(spec.own(result.batch), result.curves), *((found.at, found.curves) for found in _others(result))]
    curves = [curve for _, found in tests for curve in found]
    rates = [rate for curve in curves for rate in (*curve.learning_rates, curve.stopped_at_lr)]
    low, high = spec.lr_min * (1 - _ROUNDING), spec.lr_max * (1 + _ROUNDING)
    wrong = {
        "another sweep than it was told to make": spec != job.sweep,
        "another batch or workload than it was told to use": (result.batch, result.workload)
        != (job.batch, job.workload),
        "sweeps at other batches than it was told": [found.at for found in _others(result)] != spec.others,
        f"{len(curves)} sweeps instead of {sum(at.runs for at, _ in tests)}": any(
            len(found) != at.runs for at, found in tests
        ),
        "a sweep of too many steps": any(len(curve.losses) > at.iterations for at, found in tests for curve in found),
        f"a learning rate outside {spec.lr_min:g} .. {spec.lr_max:g}": not all(low <= rate <= high for rate in rates),
        "a step that took no time": result.measured.step_seconds <= 0,
    }
    found = next((what for what, so in wrong.items() if so), None)
    # Only what is otherwise sound can be decided on: an unknown rule or a sweep without steps cannot.
    if found is None and decide(result) != result.decision:
        found = "another decision than its curves lead to"
    if found is not None:
        fix = f"gpuplan resume {job.run_id}    runs {job.step} again as a new attempt"
        raise NoResultError(f"{job.step} left an invalid result: {found}", why=f"file {where}", fix=fix)
    return result
