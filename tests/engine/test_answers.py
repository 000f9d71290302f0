"""What AWS may answer to a submit or at a job's end, and leaving on purpose: recorded as it is, and resumed."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from gpuplan.backends.base import JobStatus
from gpuplan.backends.fake import FakeBackend, Script
from gpuplan.core.errors import (
    CapacityError,
    CredentialsError,
    ExitCode,
    GpuplanError,
    LockedError,
    MayBeBillingError,
    StoreError,
    UnreachableError,
    UsageError,
)
from gpuplan.core.job_state import JobState
from gpuplan.engine.run import Engine
from gpuplan.store.events import CancelRequested

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import FakeClock, MakePlan
    from engine.conftest import Bench
    from gpuplan.backends.base import JobSpec, Request
    from gpuplan.store.events import Event

RUN = "digits-0000000000001"
G5: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}


class Recording(FakeBackend):
    """Remembers what it was asked to render; its submit fails with an error, before or after it took effect."""

    def __init__(self, root: Path, error: GpuplanError | None = None, *, created: bool = False) -> None:
        super().__init__(root)
        self.specs: list[JobSpec] = []
        self._error, self._created = error, created

    def render(self, spec: JobSpec) -> Request:
        self.specs.append(spec)
        return super().render(spec)

    def submit(self, request: Request) -> str:
        if self._error is None or self._created:
            super().submit(request)
        if self._error is not None:
            raise self._error
        return request.handle


class Billed(FakeBackend):
    """Says at a job's end what AWS says of it."""

    def __init__(self, root: Path, script: Script, end: JobStatus) -> None:
        super().__init__(root, script)
        self._end = end

    def poll(self, handle: str) -> JobStatus:
        status = super().poll(handle)
        return self._end if status.state.terminal else status


@pytest.mark.parametrize("created", [False, True], ids=["not created", "created"])
@pytest.mark.parametrize(
    "error",
    [
        MayBeBillingError("no answer at all"),
        UnreachableError("no answer, and no job to be seen"),
        LockedError("another driver has the run"),
    ],
)
def test_where_nobody_knows_whether_the_job_exists_the_attempt_stays_open(
    bench: Bench, make_plan: MakePlan, error: GpuplanError, *, created: bool
) -> None:
    bench.start(make_plan())
    with pytest.raises(type(error)):
        bench.drive(backend=Recording(bench.root, error, created=created))
    record = bench.store.record(RUN)
    assert record.state == "running"
    assert record.live_handles() == [f"fake://{RUN}-lr-find-1"]
    assert bench.kinds()[-1] == "submitting"
    assert bench.resume().state == "succeeded"
    assert bench.backend().created() == [f"{RUN}-lr-find-1", f"{RUN}-train-1"], "adopted or created, never twice"


def test_a_request_that_is_sent_again_is_the_same_request(bench: Bench, make_plan: MakePlan, clock: FakeClock) -> None:
    bench.start(make_plan(G5 | {"launch.max_cost": Decimal(20)}))
    first = Recording(bench.root, MayBeBillingError("no answer at all"))
    with pytest.raises(MayBeBillingError):
        bench.drive(backend=first)
    clock.sleep(3 * 24 * 3600)
    again = Recording(bench.root)
    assert bench.resume(backend=again).state == "succeeded"
    assert again.specs[0] == first.specs[0]
    assert again.specs[0].owner == "ada"
    assert again.specs[0].expires_at is not None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CapacityError("quota of 0"), ExitCode.CAPACITY),
        (CredentialsError("expired"), ExitCode.CREDENTIALS),
        (UsageError("no such role"), ExitCode.USAGE),
    ],
)
def test_a_submit_that_failed_is_a_failure_with_its_exit_code_and_can_be_tried_again(
    bench: Bench, make_plan: MakePlan, error: GpuplanError, code: ExitCode
) -> None:
    bench.start(make_plan())
    record = bench.drive(backend=Recording(bench.root, error))
    assert (record.state, record.exit_code) == ("failed", code)
    assert record.failure is not None
    assert record.failure.message == error.what
    assert bench.resume().state == "succeeded"
    assert bench.backend().created() == [f"{RUN}-lr-find-2", f"{RUN}-train-1"]


def test_what_cannot_be_recorded_is_not_submitted(bench: Bench, make_plan: MakePlan) -> None:
    class Full:
        """A store whose disk is full."""

        record = staticmethod(bench.store.record)
        renew = staticmethod(bench.store.renew)

        def append(self, run_id: str, event: Event) -> None:
            raise StoreError(f"cannot record {event.kind} of {run_id}")

    bench.start(make_plan())
    with pytest.raises(StoreError, match="cannot record submitting"):
        Engine(Full(), bench.backend(), bench.clock, bench.recorder).drive(RUN)
    assert bench.backend().created() == []


def test_detaching_leaves_as_soon_as_a_job_is_submitted_and_resume_goes_on(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan())
    record = bench.drive(detach=True)
    assert record.state == "running"
    assert record.exit_code is None
    assert bench.kinds() == ["planned", "submitting", "submitted"]
    assert bench.clock.elapsed < 1, "nothing was waited for"
    assert bench.resume().state == "succeeded"
    assert bench.backend().created() == [f"{RUN}-lr-find-1", f"{RUN}-train-1"]


def test_detaching_from_a_job_that_runs_already_submits_nothing(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan())
    bench.drive(detach=True)
    before = bench.kinds()
    assert bench.drive(detach=True).state == "running"
    assert bench.kinds() == before


def test_detaching_from_a_submit_that_fails_records_the_failure(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan())
    record = bench.drive(backend=Recording(bench.root, CapacityError("quota of 0")), detach=True)
    assert record.exit_code is ExitCode.CAPACITY


@pytest.mark.parametrize(
    ("end", "code", "says"),
    [
        (JobStatus(JobState.STOPPED, "MaxRuntimeExceeded: AWS ended it", exit_code=ExitCode.OVER_BUDGET), 6, "limit"),
        (JobStatus(JobState.STOPPED, "MaxWaitTimeExceeded", exit_code=ExitCode.CAPACITY), 4, "got no instance"),
        (JobStatus(JobState.FAILED, "Failed: CapacityError", exit_code=ExitCode.CAPACITY), 4, "got no instance"),
        (JobStatus(JobState.FAILED, "Failed: AlgorithmError"), 7, "AlgorithmError"),
    ],
)
def test_an_end_that_the_service_caused_has_its_own_exit_code_and_fix(
    bench: Bench, make_plan: MakePlan, end: JobStatus, code: int, says: str
) -> None:
    bench.start(make_plan())
    failing = Script(states=(JobState.RUNNING, end.state), results=lambda _: {})
    record = bench.drive(backend=Billed(bench.root, failing, end))
    assert record.exit_code == code
    assert record.failure is not None
    assert says in record.failure.message
    assert record.failure.fix
    assert bench.resume().state == "succeeded"


def test_what_the_service_bills_is_what_the_run_cost(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan(G5))
    end = JobStatus(JobState.SUCCEEDED, "Completed", billable_seconds=1800)
    record = bench.drive(backend=Billed(bench.root, Script(), end))
    costs = [step.attempts[0].cost_usd for step in record.steps]
    assert costs == [Decimal("1.408") / 2, Decimal("7.09") / 2]
    assert [step.attempts[0].billable_seconds for step in record.steps] == [1800, 1800]


def test_a_budget_that_is_used_up_ends_the_run_before_the_next_submit(bench: Bench, make_plan: MakePlan) -> None:
    bench.start(make_plan(G5 | {"launch.max_cost": Decimal(5)}))
    # Half an hour more than the limit that was sent: AWS stops a job late.
    end = JobStatus(JobState.STOPPED, "MaxRuntimeExceeded", billable_seconds=13_000, exit_code=ExitCode.OVER_BUDGET)
    first = bench.drive(backend=Billed(bench.root, Script(states=(JobState.STOPPED,)), end))
    assert first.exit_code is ExitCode.OVER_BUDGET
    record = bench.resume()
    assert record.exit_code is ExitCode.OVER_BUDGET
    assert record.failure is not None
    assert "--max-cost $5.00" in record.failure.message
    assert bench.backend().created() == [f"{RUN}-lr-find-1"]


def test_what_the_end_of_an_earlier_attempt_cost_counts_against_the_next_one(bench: Bench, make_plan: MakePlan) -> None:
    class Late(Recording):
        """An attempt whose submit failed ran all the same: its stop says for how long."""

        def stop(self, handle: str) -> JobStatus:
            super().stop(handle)
            return JobStatus(JobState.STOPPED, "Stopped", billable_seconds=11_500)

    bench.start(make_plan(G5 | {"launch.max_cost": Decimal(5)}))
    assert bench.drive(backend=Recording(bench.root, UsageError("refused, it said"), created=True)).state == "failed"
    late = Late(bench.root)
    cost = Decimal("1.408") * 11_500 / 3600
    assert bench.resume(backend=late).step("lr-find").attempts[0].cost_usd == cost
    limits, planned = late.specs[0].limits, bench.store.record(RUN).plan.steps[0].limits
    assert limits is not None
    assert planned is not None
    assert limits.max_runtime_seconds == int((5 - cost) / Decimal("1.408") * 3600) < planned.max_runtime_seconds


def test_a_cancel_that_meets_a_request_that_cannot_be_made_ends_as_cancelled(bench: Bench, make_plan: MakePlan) -> None:
    class Unable(FakeBackend):
        def render(self, spec: JobSpec) -> Request:
            bench.store.append(RUN, CancelRequested())
            raise UsageError(f"no request for {spec.name}")

    bench.start(make_plan())
    record = bench.drive(backend=Unable(bench.root))
    assert record.state == "cancelled"
    assert record.live_handles() == []
