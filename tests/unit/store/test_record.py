"""The record is a pure fold of the log: any prefix of a real log folds, and each state means what it says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.backends.fake import FakeBackend, Script, synthetic_results
from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.core.clock import SystemClock
from gpuplan.core.errors import ExitCode
from gpuplan.core.job_state import JobState
from gpuplan.engine.cancel import cancel
from gpuplan.engine.observer import Silent
from gpuplan.engine.run import Engine
from gpuplan.store import events as ev
from gpuplan.store.record import RunRecord, fold
from gpuplan.store.sqlite import RunStore
from gpuplan_job.contract import LR_RESULT_FILE, JobInput

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakePlan

RUN = "digits-0000000000001"
HANDLE = f"fake://{RUN}-lr-find-1"
SCENARIOS = ("healthy", "given-lr", "lr-only", "failed-then-resumed", "flat", "cancelled-then-resumed")
PLACES = st.tuples(st.sampled_from(SCENARIOS), st.floats(0, 1))
"""A scenario and how far into its log."""
Logs = dict[str, list[ev.Stored]]


def flat(job: JobInput) -> dict[str, bytes]:
    """Return a sweep that learned nothing."""
    files = synthetic_results(job)
    document = json.loads(files[LR_RESULT_FILE])
    for curve in document["curves"]:
        curve["losses"] = [2.3] * len(curve["losses"])
        curve["stop_reason"] = "completed"
    return {LR_RESULT_FILE: json.dumps(document).encode()}


def real_log(name: str, home: Path) -> list[ev.Stored]:
    """Return the log that the engine writes in a scenario."""
    store, root, clock = RunStore(home, SystemClock()), home / "fake", SystemClock()
    settings: dict[str, object] = {"launch.backend": "fake", "workload.epochs": 1}
    own: dict[str, dict[str, object]] = {"given-lr": {"lr.learning_rate": 0.05}, "lr-only": {"launch.pipeline": "lr"}}
    settings |= own.get(name, {})
    store.create(RUN, ev.Planned(plan=plan_from(Given(settings, dict.fromkeys(settings, "the test"), None)).plan))

    def drive(script: Script) -> None:
        Engine(store, FakeBackend(root, script), clock, Silent()).drive(RUN)

    match name:
        case "failed-then-resumed":
            drive(Script(states=(JobState.RUNNING, JobState.FAILED)))
            store.append(RUN, ev.Resumed())
        case "cancelled-then-resumed":
            store.append(RUN, ev.Submitting(step="lr-find", attempt=1, job_name="x", handle=HANDLE, request_sha256="0"))
            cancel(RUN, store, FakeBackend(root), clock)
            store.append(RUN, ev.Resumed())
    drive(Script(results=flat) if name == "flat" else Script())
    return store.events(RUN)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    return {name: real_log(name, tmp_path_factory.mktemp(name)) for name in SCENARIOS}


def prefix(logs: Logs, place: tuple[str, float]) -> list[ev.Stored]:
    log = logs[place[0]]
    return log[: 1 + round(place[1] * (len(log) - 1))]


def states(log: list[ev.Stored]) -> list[str]:
    """Return the run's states over its life, each named once in a row."""
    found = [fold(RUN, log[: end + 1]).state for end in range(len(log))]
    return [found[0], *(b for a, b in pairwise(found) if a != b)]


@given(PLACES)
def test_any_prefix_of_a_real_log_is_a_record(logs: Logs, place: tuple[str, float]) -> None:
    record = fold(RUN, prefix(logs, place))
    assert record.run_id == RUN
    assert [step.name for step in record.steps] == [step.name for step in record.plan.steps]


@given(PLACES)
def test_the_same_events_make_the_same_record_however_they_are_handed_over(
    logs: Logs, place: tuple[str, float]
) -> None:
    log = prefix(logs, place)
    read = [ev.Stored.model_validate_json(stored.canonical_json()) for stored in log]
    assert fold(RUN, log) == fold(RUN, iter(log)) == fold(RUN, read)


@given(PLACES)
def test_the_run_has_an_exit_code_when_and_only_when_it_is_over(logs: Logs, place: tuple[str, float]) -> None:
    record = fold(RUN, prefix(logs, place))
    assert (record.exit_code is None) == (record.state in {"planned", "running", "cancelling"})


@given(PLACES)
def test_what_is_done_stays_done_and_no_attempt_is_forgotten(logs: Logs, place: tuple[str, float]) -> None:
    before, after = fold(RUN, prefix(logs, place)), fold(RUN, logs[place[0]])
    for early, late in zip(before.steps, after.steps, strict=True):
        assert late.done or not early.done
        assert [a.handle for a in late.attempts[: len(early.attempts)]] == [a.handle for a in early.attempts]


@given(PLACES)
def test_a_job_is_alive_from_its_intent_until_it_is_seen_to_have_ended(logs: Logs, place: tuple[str, float]) -> None:
    log = prefix(logs, place)
    alive: dict[tuple[str, int], str] = {}
    for event in (stored.event for stored in log):
        if isinstance(event, ev.Submitting):
            alive[event.step, event.attempt] = event.handle
        if isinstance(event, ev.Observed) and event.state.terminal:
            del alive[event.step, event.attempt]
    assert sorted(fold(RUN, log).live_handles()) == sorted(alive.values())


@pytest.mark.parametrize(
    ("name", "life", "code"),
    [
        ("healthy", ["planned", "running", "succeeded"], ExitCode.OK),
        ("given-lr", ["planned", "running", "succeeded"], ExitCode.OK),
        ("lr-only", ["planned", "running", "succeeded"], ExitCode.OK),
        ("failed-then-resumed", ["planned", "running", "failed", "running", "succeeded"], ExitCode.OK),
        ("flat", ["planned", "running", "failed"], ExitCode.NO_RESULT),
        (
            "cancelled-then-resumed",
            ["planned", "running", "cancelling", "cancelled", "running", "succeeded"],
            ExitCode.OK,
        ),
    ],
)
def test_a_run_goes_through_its_states_in_order(logs: Logs, name: str, life: list[str], code: ExitCode) -> None:
    assert states(logs[name]) == life
    assert fold(RUN, logs[name]).exit_code is code


def test_a_cancelled_run_stands_for_interrupted(logs: Logs) -> None:
    log = logs["cancelled-then-resumed"]
    end = next(place for place, stored in enumerate(log) if stored.event.kind == "cancelled")
    assert fold(RUN, log[: end + 1]).exit_code is ExitCode.INTERRUPTED


def test_a_failure_is_told_until_the_run_is_resumed(logs: Logs) -> None:
    log = logs["failed-then-resumed"]
    failed = next(place for place, stored in enumerate(log) if stored.event.kind == "failed")
    record = fold(RUN, log[: failed + 1])
    assert record.failure is not None
    assert record.exit_code is ExitCode.JOB_FAILED
    assert fold(RUN, log[: failed + 2]).failure is None
    assert [attempt.failed for attempt in fold(RUN, log).step("lr-find").attempts] == [True, False]


class Written:
    """A log written by hand, for states that a healthy engine passes through too quickly."""

    def __init__(self, make_plan: MakePlan, *events: ev.Event) -> None:
        times = (datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=s) for s in range(999))
        everything = [ev.Planned(plan=make_plan()), *events]
        self.log = [
            ev.Stored(seq=place, at=at, event=event)
            for place, (at, event) in enumerate(zip(times, everything, strict=False))
        ]

    def record(self) -> RunRecord:
        return fold(RUN, self.log)


def submitting(attempt: int = 1) -> ev.Submitting:
    name = f"{RUN}-lr-find-{attempt}"
    return ev.Submitting(
        step="lr-find", attempt=attempt, job_name=name, handle=f"fake://{name}", request_sha256="0" * 64
    )


def observed(state: JobState, attempt: int = 1) -> ev.Observed:
    return ev.Observed(step="lr-find", attempt=attempt, state=state)


def test_an_intent_without_an_answer_may_be_alive(make_plan: MakePlan) -> None:
    record = Written(make_plan, submitting()).record()
    last = record.step("lr-find").last
    assert last is not None
    assert not last.submitted
    assert record.live_handles() == [HANDLE]


@pytest.mark.parametrize("state", JobState)
def test_a_job_may_be_alive_unless_it_is_known_to_have_ended(make_plan: MakePlan, state: JobState) -> None:
    record = Written(make_plan, submitting(), observed(state)).record()
    assert record.live_handles() == ([] if state in {"succeeded", "failed", "stopped"} else [HANDLE])


def test_a_job_that_ended_has_an_end_and_one_that_runs_has_none(make_plan: MakePlan) -> None:
    log = Written(make_plan, submitting(), observed(JobState.RUNNING), observed(JobState.SUCCEEDED)).log
    ends = []
    for end in (3, 4):
        last = fold(RUN, log[:end]).step("lr-find").last
        assert last is not None
        ends.append(last.ended_at)
    assert ends == [None, log[3].at]


def test_it_runs_since_it_was_first_seen_to_run_whatever_interrupts_it(make_plan: MakePlan) -> None:
    states = (JobState.STARTING, JobState.RUNNING, JobState.STARTING, JobState.RUNNING, JobState.STOPPED)
    log = Written(make_plan, submitting(), *map(observed, states)).log
    since = []
    for end in range(2, len(log) + 1):
        last = fold(RUN, log[:end]).step("lr-find").last
        assert last is not None
        since.append(last.running_since)
    assert since == [None, None, *[log[3].at] * 4]


def test_what_was_sent_and_what_was_billed_is_kept_with_the_attempt(make_plan: MakePlan) -> None:
    expires = datetime(2026, 11, 30, tzinfo=UTC)
    intent = submitting().model_copy(update={"max_runtime_seconds": 3600, "expires_at": expires})
    ended = observed(JobState.STOPPED).model_copy(update={"billable_seconds": 1234})
    record = Written(make_plan, intent, observed(JobState.RUNNING), ended).record()
    last = record.step("lr-find").last
    assert last is not None
    assert (last.max_runtime_seconds, last.expires_at, last.billable_seconds) == (3600, expires, 1234)


def test_whoever_launched_a_run_owns_it(make_plan: MakePlan) -> None:
    written = Written(make_plan, submitting())
    assert written.record().owner == ""
    written.log[0] = written.log[0].model_copy(update={"event": ev.Planned(plan=make_plan(), owner="ada")})
    assert written.record().owner == "ada"


def test_a_step_is_verifying_until_its_result_is_in(make_plan: MakePlan) -> None:
    step = Written(make_plan, submitting(), observed(JobState.SUCCEEDED)).record().step("lr-find")
    assert (step.state, step.done) == ("verifying", False)
    assert Written(make_plan).record().step("lr-find").state == "waiting"


def test_the_same_intent_twice_is_one_attempt(make_plan: MakePlan) -> None:
    step = Written(make_plan, submitting(), submitting(), submitting(2)).record().step("lr-find")
    assert [attempt.number for attempt in step.attempts] == [1, 2]


def test_news_of_an_old_attempt_says_nothing_of_the_new_one(make_plan: MakePlan) -> None:
    late = observed(JobState.STOPPED, attempt=1)
    record = Written(make_plan, submitting(), submitting(2), observed(JobState.RUNNING, 2), late).record()
    assert [attempt.state for attempt in record.step("lr-find").attempts] == [JobState.STOPPED, JobState.RUNNING]
    assert record.live_handles() == [submitting(2).handle]


def test_a_cancel_request_is_not_lost_on_an_intent_that_races_it(make_plan: MakePlan) -> None:
    record = Written(make_plan, ev.CancelRequested(), submitting()).record()
    assert record.state == "cancelling"
    assert record.live_handles() == [HANDLE]


@pytest.mark.parametrize("state", ["planned", "running"])
def test_an_open_run_has_no_exit_code(make_plan: MakePlan, state: str) -> None:
    events = {"planned": [], "running": [submitting()]}[state]
    record = Written(make_plan, *events).record()
    assert (record.state, record.exit_code) == (state, None)


def test_a_log_without_its_plan_is_refused(make_plan: MakePlan) -> None:
    with pytest.raises(ValueError, match="empty"):
        fold(RUN, [])
    with pytest.raises(ValueError, match="not with its plan"):
        fold(RUN, Written(make_plan, ev.Resumed()).log[1:])
    with pytest.raises(ValueError, match="second plan"):
        Written(make_plan, ev.Planned(plan=make_plan())).record()
