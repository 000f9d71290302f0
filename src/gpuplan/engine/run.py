"""The only loop: for each planned step intent, submit, wait, verify, record. Launch and resume are the same call.

Everything it knows is in the record, so a client that dies anywhere is replaced by one that reads the record and goes
on. It never names a pipeline and never looks inside a backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gpuplan.core.errors import (
    GpuplanError,
    LockedError,
    MayBeBillingError,
    NoResultError,
    PlanRefusedError,
    StoreError,
    UnreachableError,
)
from gpuplan.core.failpoint import failpoint
from gpuplan.core.job_state import JobState
from gpuplan.engine import conclude, planned_again, verify
from gpuplan.engine.account import observed
from gpuplan.engine.attempt import job_spec
from gpuplan.engine.cancel import confirm_stopped
from gpuplan.engine.wait import wait
from gpuplan.planning.job_input import job_input
from gpuplan.store import events as ev
from gpuplan.store.lease import FencedError
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from gpuplan.backends.base import Backend, JobStatus
    from gpuplan.core.clock import Clock
    from gpuplan.core.errors import ExitCode
    from gpuplan.engine.observer import Observer
    from gpuplan.engine.planned_again import Planner
    from gpuplan.planning.plan import StepPlan
    from gpuplan.store.record import Attempt, RunRecord
    from gpuplan_job.contract import JobInput


class RunLog(Protocol):
    """What the engine needs of a store."""

    def append(self, run_id: str, event: ev.Event) -> None:
        """Make an event durable before returning."""
        ...

    def record(self, run_id: str) -> RunRecord:
        """Return the run as its events tell it."""
        ...

    def renew(self, run_id: str) -> None:
        """Say that its driver lives; called with every look at a job."""
        ...


@dataclass(frozen=True)
class Engine:
    """Carries out planned runs; all effects go through its four collaborators."""

    store: RunLog
    backend: Backend
    clock: Clock
    observer: Observer
    planner: Planner = planned_again.nobody
    """Makes the plan again at a batch that was found; only runs with a find-batch need one."""

    def drive(self, run_id: str, *, detach: bool = False) -> RunRecord:
        """Take a run from wherever its record stands to its end, and return the final record.

        The caller holds the run's lock. A failure of a step is recorded and returned, not raised. With `detach` it
        returns as soon as a job is submitted.

        Raises:
            StoreError: the record cannot be written; nothing is submitted after that.
        """
        record = self.store.record(run_id)
        for name in [step.name for step in record.plan.steps]:
            # As planned by now: what one step measured may have changed the next.
            step = next(step for step in record.plan.steps if step.name == name)
            record = self._advance(run_id, step, detach=detach)
            if record.state in {"failed", "cancelled"} or not record.step(name).done:
                break
            failpoint("between-steps")
        return record

    def _advance(self, run_id: str, step: StepPlan, *, detach: bool) -> RunRecord:
        """Bring one step as far as it will go."""
        record = self.store.record(run_id)
        if record.state == "cancelling":
            return self._note(run_id, ev.Cancelled())
        if not record.step(step.name).done:
            record = self._run_job(record, step, detach=detach)
        if record.state not in {"failed", "cancelled"} and record.step(step.name).done:
            record = self._conclude(record, step)
        return record

    def _run_job(self, record: RunRecord, step: StepPlan, *, detach: bool) -> RunRecord:
        run_id = record.run_id
        number = _attempt_number(record.step(step.name).last)
        rate, multiplier = conclude.bound_lr(record), conclude.multiplier(record)
        job = job_input(record.plan, step, run_id=run_id, attempt=number, learning_rate=rate, multiplier=multiplier)
        asked_before = any(attempt.number == number for attempt in record.step(step.name).attempts)
        self._end_earlier(record, step, number)
        try:
            handle = self._submit(self.store.record(run_id), step, job)
        except (StoreError, LockedError, MayBeBillingError, UnreachableError):
            raise  # nothing can be recorded, or the attempt stays open: resume asks for the same job by the same name
        except GpuplanError as error:
            if self._cancelling(run_id):
                return self._cancelled(run_id, job)
            if asked_before and not isinstance(error, PlanRefusedError):
                raise  # a client before this one may have created the job, whatever this one was told
            return self._fail(run_id, job, error, error.exit_code)
        if handle is None:
            return self._cancelled(run_id, job)
        if detach:
            return self.store.record(run_id)
        # An error while waiting is no end of the job: it is raised, the attempt stays open, and resume adopts it.
        status = self._wait(run_id, job, handle)
        failpoint("after-job-ended")
        return self._take_result(run_id, step, job, handle, status)

    def _end_earlier(self, record: RunRecord, step: StepPlan, number: int) -> None:
        """See to it that no earlier attempt of the step lives beside a new one.

        Raises:
            MayBeBillingError: one of them cannot be confirmed as stopped.
        """
        for attempt in record.step(step.name).attempts:
            if attempt.number < number and not attempt.state.terminal:
                status = confirm_stopped(self.backend, attempt)
                self._note(record.run_id, observed(record, step.name, attempt.number, status, self.clock.now()))

    def _submit(self, record: RunRecord, step: StepPlan, job: JobInput) -> str | None:
        """Record the intent, make the call, record its answer; a job that is known to exist is left alone.

        Returns the handle, or None if a cancel was asked for before the call.
        """
        last = record.step(step.name).last
        if last is not None and last.number == job.attempt and last.submitted:
            return last.handle
        spec = job_spec(record, step, job, self.clock.now())
        request = self.backend.render(spec)
        failpoint("before-intent")
        self._note(
            record.run_id,
            ev.Submitting(
                step=step.name,
                attempt=job.attempt,
                job_name=request.name,
                handle=request.handle,
                request_sha256=sha256_hex(canonical_json(request.body)),
                learning_rate=job.train.learning_rate if job.train else None,
                max_runtime_seconds=spec.limits.max_runtime_seconds if spec.limits else None,
                expires_at=spec.expires_at,
            ),
        )
        failpoint("after-intent")
        if self._cancelling(record.run_id):
            return None
        handle = self.backend.submit(request)
        failpoint("after-submit-before-record")
        try:
            self._note(record.run_id, ev.Submitted(step=step.name, attempt=job.attempt))
        except FencedError as fenced:
            if fenced.ended:
                # Another client cancelled the run between our look and our call: it could not know of this job.
                self.backend.stop(handle)
            raise
        failpoint("after-submitted")
        return handle

    def _wait(self, run_id: str, job: JobInput, handle: str) -> JobStatus:
        def on_look(status: JobStatus, changed: bool) -> None:  # noqa: FBT001 - the signature `wait` asks for
            if changed:
                record = self.store.record(run_id)
                self._note(run_id, observed(record, job.step, job.attempt, status, self.clock.now()))
                failpoint("while-polling")
            self.store.renew(run_id)

        return wait(handle, self.backend, self.clock, self.observer, on_look)

    def _take_result(self, run_id: str, step: StepPlan, job: JobInput, handle: str, status: JobStatus) -> RunRecord:
        if status.state is not JobState.SUCCEEDED and self._cancelling(run_id):
            return self._note(run_id, ev.Cancelled())
        if status.state is not JobState.SUCCEEDED:
            failure = verify.failure(self.backend, handle)
            error = conclude.job_error(run_id, job, status, failure)
            return self._fail(run_id, job, error, error.exit_code, conclude.cause(failure))
        try:
            if step.search is not None:
                batch = verify.batch_result(self.backend, handle, job)
                failpoint("after-result-before-record")
                event: ev.Event = ev.BatchFound(step=job.step, attempt=job.attempt, result=conclude.as_data(batch))
            elif step.sweep is not None:
                found = verify.lr_result(self.backend, handle, job)
                failpoint("after-result-before-record")
                event = ev.Measured(step=job.step, attempt=job.attempt, result=conclude.as_data(found))
            else:
                trained = verify.train_result(self.backend, handle, job)
                failpoint("after-result-before-record")
                event = ev.Trained(step=job.step, attempt=job.attempt, result=conclude.as_data(trained))
        except NoResultError as error:
            return self._fail(run_id, job, error, error.exit_code)
        record = self._note(run_id, event)
        failpoint("after-result-recorded")
        return record

    def _conclude(self, record: RunRecord, step: StepPlan) -> RunRecord:
        """Draw what follows from a finished step, once."""
        for event in (*planned_again.follow_ups(record, step, self.planner), *conclude.follow_ups(record, step)):
            record = self._note(record.run_id, event)
            failpoint("after-conclusion")
        return record

    def _cancelling(self, run_id: str) -> bool:
        return self.store.record(run_id).state == "cancelling"

    def _cancelled(self, run_id: str, job: JobInput) -> RunRecord:
        """End an attempt that a cancel overtook on its way to being a job."""
        record = self.store.record(run_id)
        attempt = next((a for a in record.step(job.step).attempts if a.number == job.attempt), None)
        if attempt is not None:
            status = confirm_stopped(self.backend, attempt)
            self._note(run_id, observed(record, job.step, job.attempt, status, self.clock.now()))
        return self._note(run_id, ev.Cancelled())

    def _fail(
        self, run_id: str, job: JobInput, error: GpuplanError, code: ExitCode, cause: ev.Cause | None = None
    ) -> RunRecord:
        failed = ev.Failed(
            step=job.step,
            attempt=job.attempt,
            exit_code=code,
            message=error.what,
            why=error.why,
            fix=error.fix,
            cause=cause,
        )
        return self._note(run_id, failed)

    def _note(self, run_id: str, event: ev.Event) -> RunRecord:
        """Make an event durable, tell the observer, and return the record as it now stands."""
        self.store.append(run_id, event)
        self.observer.event(event)
        return self.store.record(run_id)


def _attempt_number(last: Attempt | None) -> int:
    """Return the attempt to work on: the open one, or the next after one that failed."""
    if last is None:
        return 1
    over = last.failed or last.state in {JobState.FAILED, JobState.STOPPED}
    return last.number + 1 if over else last.number
