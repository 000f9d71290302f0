"""Cancelling: nothing new starts, what runs is stopped and confirmed, also where only the intent was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpuplan.backends.base import JobStatus
from gpuplan.backends.fake import FakeBackend, Script
from gpuplan.core.errors import LockedError, MayBeBillingError
from gpuplan.core.job_state import JobState
from gpuplan.engine.cancel import cancel
from gpuplan.engine.run import Engine
from gpuplan.store import lock
from gpuplan.store.events import Observed, Planned, Resumed, Submitting

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import FakeClock, MakePlan, Recorder
    from gpuplan.store.sqlite import RunStore

RUN = "digits-0000000000001"


class Detached(BaseException):
    """Stands for Ctrl-C in the driving client."""


class DetachingRecorder:
    """An observer that detaches when a job runs."""

    def event(self, event: object) -> None:
        if isinstance(event, Observed) and event.state is JobState.RUNNING:
            raise Detached

    def progress(self, progress: object) -> None:
        del progress


def running(store: RunStore, clock: FakeClock, root: Path, make_plan: MakePlan) -> FakeBackend:
    """Leave a run whose lr-find runs and that nobody drives."""
    backend = FakeBackend(root, Script(states=(JobState.RUNNING,)))
    store.create(RUN, Planned(plan=make_plan()))
    with pytest.raises(Detached):
        Engine(store, backend, clock, DetachingRecorder()).drive(RUN)
    return backend


def test_a_detached_run_is_stopped_and_says_so(
    store: RunStore, clock: FakeClock, tmp_path: Path, make_plan: MakePlan
) -> None:
    backend = running(store, clock, tmp_path / "fake", make_plan)
    record = cancel(RUN, store, backend, clock)
    assert record.state == "cancelled"
    assert record.live_handles() == []
    last = record.step("lr-find").last
    assert last is not None
    assert last.cost_usd is not None, "a cancelled attempt is accounted for too"
    assert cancel(RUN, store, backend, clock).state == "cancelled", "cancelling twice is cancelling once"


def test_an_intent_without_an_answer_is_stopped_too(
    store: RunStore, clock: FakeClock, tmp_path: Path, make_plan: MakePlan
) -> None:
    backend = FakeBackend(tmp_path / "fake")
    store.create(RUN, Planned(plan=make_plan()))
    handle = f"fake://{RUN}-lr-find-1"
    intent = Submitting(step="lr-find", attempt=1, job_name=f"{RUN}-lr-find-1", handle=handle, request_sha256="0" * 64)
    store.append(RUN, intent)
    assert cancel(RUN, store, backend, clock).state == "cancelled"


def test_a_cancelled_run_can_be_resumed_with_a_new_attempt(
    store: RunStore, clock: FakeClock, recorder: Recorder, tmp_path: Path, make_plan: MakePlan
) -> None:
    cancel(RUN, store, running(store, clock, tmp_path / "fake", make_plan), clock)
    store.append(RUN, Resumed())
    record = Engine(store, FakeBackend(tmp_path / "fake"), clock, recorder).drive(RUN)
    assert record.state == "succeeded"
    assert [attempt.number for attempt in record.step("lr-find").attempts] == [1, 2]


def test_a_job_that_will_not_stop_is_reported_as_maybe_billing(
    store: RunStore, clock: FakeClock, tmp_path: Path, make_plan: MakePlan
) -> None:
    class Stubborn(FakeBackend):
        def stop(self, handle: str) -> JobStatus:
            return JobStatus(JobState.STOPPING, handle)

    running(store, clock, tmp_path / "fake", make_plan)
    with pytest.raises(MayBeBillingError) as caught:
        cancel(RUN, store, Stubborn(tmp_path / "fake", Script(states=(JobState.RUNNING,))), clock)
    assert "gpuplan cancel" in caught.value.fix


def test_a_second_client_is_refused_with_who_holds_the_run(
    store: RunStore, clock: FakeClock, make_plan: MakePlan
) -> None:
    store.create(RUN, Planned(plan=make_plan()))
    folder = store.folder(RUN)
    with lock.hold(folder, RUN, clock):
        assert lock.is_held(folder)
        with pytest.raises(LockedError, match=r"process \d+, since 2026"), lock.hold(folder, RUN, clock):
            pass
    assert not lock.is_held(folder)
