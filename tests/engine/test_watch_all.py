"""Watching many runs: what is read and asked, how often, when a run is at rest, and what a silent service does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gpuplan.backends.base import JobStatus
from gpuplan.backends.fake import FakeBackend
from gpuplan.core.errors import CredentialsError, ExitCode, StoreError, UnreachableError
from gpuplan.core.job_state import JobState
from gpuplan.engine.watch_all import Look, Watcher, watch_all
from gpuplan.store import events as ev
from gpuplan.store import lock
from gpuplan.store.sqlite import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from conftest import FakeClock, MakePlan
    from gpuplan.backends.base import Backend
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.store.record import RunRecord

RUNNING = JobStatus(JobState.RUNNING, "Training")
ENDED = JobStatus(JobState.SUCCEEDED, "Completed")
GONE = JobStatus(JobState.PENDING, "unknown", exists=False)


class Service(FakeBackend):
    """A backend whose jobs are in whatever state a test puts them."""

    poll_seconds = 20.0
    visibility_seconds = 60.0

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.now: dict[str, JobStatus] = {}
        self.asked: list[list[str]] = []
        self.answer: Callable[[], None] = lambda: None
        self.silent_on: set[str] = set()

    def poll_all(self, handles: Sequence[str]) -> dict[str, JobStatus]:
        self.asked.append(list(handles))
        self.answer()
        return {handle: self.now.get(handle, RUNNING) for handle in handles if handle not in self.silent_on}


class CountingStore(RunStore):
    """A store that counts how often a log was read."""

    reads = 0

    def record(self, run_id: str) -> RunRecord:
        self.reads += 1
        return super().record(run_id)


class Bench:
    """Runs whose logs a test writes, and a watcher on them."""

    def __init__(self, store: CountingStore, clock: FakeClock, plan: LaunchPlan, root: Path) -> None:
        self.store, self.clock, self.plan = store, clock, plan
        self.service = Service(root)
        self.watcher = Watcher(store, self.backend_of, clock)

    def backend_of(self, plan: LaunchPlan) -> Backend:
        del plan
        return self.service

    def run(self, number: int, *events: ev.Event) -> str:
        """Create a run with a submitted lr-find, and more events."""
        run_id = f"digits-{number:013d}"
        self.store.create(run_id, ev.Planned(plan=self.plan))
        self.write(run_id, *submitted(run_id), *events)
        return run_id

    def write(self, run_id: str, *events: ev.Event) -> None:
        for event in events:
            self.store.append(run_id, event)

    def look(self) -> Look:
        return self.watcher.look()

    def later(self, seconds: float = 20.0) -> Look:
        self.clock.sleep(seconds)
        return self.watcher.look()


def job(run_id: str, step: str = "lr-find", attempt: int = 1) -> str:
    return f"fake://{run_id}-{step}-{attempt}"


def submitted(run_id: str, step: str = "lr-find", attempt: int = 1) -> list[ev.Event]:
    intent = ev.Submitting(
        step=step, attempt=attempt, job_name=f"{run_id}-{step}-{attempt}", handle=job(run_id, step, attempt),
        request_sha256="0" * 64,
    )  # fmt: skip
    return [intent, ev.Submitted(step=step, attempt=attempt)]


def failed(step: str = "lr-find", attempt: int = 1) -> ev.Failed:
    return ev.Failed(step=step, attempt=attempt, exit_code=ExitCode.JOB_FAILED, message="it broke")


def ids(look: Look) -> list[str]:
    return [run.run_id for run in look.runs]


@pytest.fixture
def bench(tmp_path: Path, clock: FakeClock, make_plan: MakePlan) -> Bench:
    return Bench(CountingStore(tmp_path / "home", clock), clock, make_plan(), tmp_path / "fake")


class TestWhatIsFollowed:
    def test_every_run_that_is_not_over(self, bench: Bench) -> None:
        first, _, third = bench.run(1), bench.run(2, failed()), bench.run(3)
        assert ids(bench.look()) == [first, third]

    def test_the_service_knows_more_than_the_record(self, bench: Bench) -> None:
        bench.run(1)
        (run,) = bench.look().runs
        assert (run.state, run.step.name, run.step.state, run.step.detail) == (
            "running",
            "lr-find",
            "running",
            "Training",
        )

    def test_a_run_that_begins_while_others_are_watched(self, bench: Bench) -> None:
        first = bench.run(1)
        bench.look()
        second = bench.run(2)
        assert ids(bench.later()) == [first, second]

    def test_a_run_that_ends_stays_in_sight_with_its_exit_code(self, bench: Bench) -> None:
        run_id = bench.run(1)
        bench.look()
        bench.write(run_id, failed())
        (run,) = bench.later().runs
        assert (run.state, run.exit_code, run.goes_on) == ("failed", ExitCode.JOB_FAILED, False)

    def test_a_run_that_was_over_and_is_resumed(self, bench: Bench) -> None:
        run_id = bench.run(1, failed())
        assert bench.look().runs == ()
        bench.write(run_id, ev.Resumed(), *submitted(run_id, attempt=2))
        (run,) = bench.later().runs
        assert (run.step.attempt, run.goes_on) == (2, True)
        assert bench.later().runs[0].step.detail == "Training"

    def test_a_damaged_log_is_named_once_and_hides_no_other(self, bench: Bench) -> None:
        broken, sound = bench.run(1), bench.run(2)
        log = next(bench.store.folder(broken).glob("*.sqlite3"))
        log.write_bytes(b"this is no database, whatever its name says" * 100)
        looks = [bench.look(), bench.later(), bench.later()]
        assert [ids(look) for look in looks] == [[sound]] * 3
        assert [len(look.notes) for look in looks] == [1, 0, 0]
        assert broken in looks[0].notes[0]

    def test_a_log_that_breaks_while_it_is_watched_keeps_its_last_known_state(self, bench: Bench) -> None:
        run_id = bench.run(1)
        bench.look()
        next(bench.store.folder(run_id).glob("*.sqlite3")).write_bytes(b"gone" * 1000)
        look = bench.later()
        assert ids(look) == [run_id]
        assert look.notes

    def test_a_plan_whose_backend_cannot_be_made_is_named_and_hides_no_other(self, bench: Bench) -> None:
        bench.run(1)

        def refuse(plan: LaunchPlan) -> Backend:
            raise StoreError("no such backend", why=plan.backend)

        look = Watcher(bench.store, refuse, bench.clock).look()
        assert look.runs == ()
        assert "no such backend" in look.notes[0]

    def test_a_run_whose_folder_is_removed_is_let_go(self, bench: Bench) -> None:
        gone, stays = bench.run(1), bench.run(2)
        bench.look()
        folder = bench.store.folder(gone)
        folder.rename(folder.parent.parent / "elsewhere")
        assert ids(bench.later()) == [stays]


class TestHowOftenALogIsRead:
    def test_not_again_until_it_changes(self, bench: Bench) -> None:
        run_id = bench.run(1)
        bench.run(2, failed())
        for _ in range(10):
            bench.later()
        settled = bench.store.reads
        assert settled == 2 * 2  # once more each, for a write in the same tick of the file system's clock
        bench.write(run_id, ev.Observed(step="lr-find", attempt=1, state=JobState.RUNNING))
        for _ in range(10):
            bench.later()
        assert bench.store.reads == settled + 2

    def test_a_write_that_leaves_time_and_size_as_they_were_right_after_a_reading_is_not_missed(
        self, bench: Bench
    ) -> None:
        # An event more, so that the one to come finds room in the file as it is.
        run_id = bench.run(1, ev.Observed(step="lr-find", attempt=1, state=JobState.RUNNING))
        log = next(bench.store.folder(run_id).glob("*.sqlite3"))
        before = log.stat()
        bench.look()
        bench.write(run_id, failed())
        os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert log.stat().st_size == before.st_size
        assert bench.later().runs[0].state == "failed"

    def test_watching_writes_nothing(self, bench: Bench) -> None:
        bench.run(1)
        bench.service.now = {job("digits-0000000000001"): ENDED}
        files = sorted(bench.store.folder("digits-0000000000001").rglob("*"))
        before = {path: path.read_bytes() for path in files}
        for _ in range(3):
            bench.later()
        assert sorted(bench.store.folder("digits-0000000000001").rglob("*")) == files
        assert {path: path.read_bytes() for path in files} == before


class TestHowOftenAServiceIsAsked:
    def test_once_a_look_for_all_its_jobs(self, bench: Bench) -> None:
        runs = [bench.run(number) for number in range(1, 8)]
        bench.look()
        bench.later()
        assert [sorted(asked) for asked in bench.service.asked] == [[job(run_id) for run_id in runs]] * 2

    def test_not_before_its_time(self, bench: Bench) -> None:
        bench.run(1)
        bench.look()
        bench.later(5)
        bench.later(5)
        assert len(bench.service.asked) == 1
        assert bench.watcher.pause_seconds() == pytest.approx(5.0)  # the store is looked at more often
        bench.later(8)
        assert bench.watcher.pause_seconds() == pytest.approx(2.0, abs=0.01)

    def test_no_more_for_a_job_that_has_ended(self, bench: Bench) -> None:
        first, second = bench.run(1), bench.run(2)
        bench.service.now = {job(first): ENDED}
        bench.look()
        bench.later()
        assert bench.service.asked[1] == [job(second)]

    def test_each_of_two_services_for_its_own_jobs(self, bench: Bench, tmp_path: Path) -> None:
        first, second = bench.run(1), bench.run(2)
        services = [Service(tmp_path / "one"), Service(tmp_path / "two")]
        handed = iter(services)
        watcher = Watcher(bench.store, lambda _: next(handed), bench.clock)
        watcher.look()
        assert [service.asked for service in services] == [[[job(first)]], [[job(second)]]]

    def test_first_for_what_it_left_unanswered(self, bench: Bench) -> None:
        first, second = bench.run(1), bench.run(2)
        bench.service.silent_on = {job(second)}
        bench.look()
        bench.service.silent_on = {job(first)}
        bench.later()
        assert bench.service.asked[1] == [job(second), job(first)]

    def test_what_is_known_of_jobs_does_not_pile_up(self, bench: Bench) -> None:
        run_id = bench.run(1)
        for attempt in range(1, 6):
            bench.later()
            done = ev.Observed(step="lr-find", attempt=attempt, state=JobState.FAILED)
            bench.write(run_id, done, *submitted(run_id, attempt=attempt + 1))
        bench.later()
        jobs = bench.watcher._jobs
        assert [len(known) for known in (jobs._seen, jobs._answered, jobs._missing_since)] == [1, 1, 0]


class TestWhenARunIsAtRest:
    def test_while_its_job_lives_it_is_not(self, bench: Bench) -> None:
        bench.run(1)
        assert bench.look().runs[0].goes_on

    def test_when_its_job_has_ended_and_nobody_drives_it(self, bench: Bench) -> None:
        run_id = bench.run(1)
        bench.service.now = {job(run_id): ENDED}
        for look in (bench.look(), bench.later(), bench.later(600)):
            (run,) = look.runs
            assert (run.state, run.step.state, run.goes_on) == ("running", "verifying", False)

    def test_not_as_long_as_a_client_drives_it(self, bench: Bench) -> None:
        run_id = bench.run(1)
        bench.service.now = {job(run_id): ENDED}
        with lock.hold(bench.store.folder(run_id), run_id, bench.clock):
            assert bench.look().runs[0].goes_on
        assert not bench.later().runs[0].goes_on

    def test_a_driver_that_records_the_end_and_goes_during_the_look_is_not_missed(self, bench: Bench) -> None:
        run_id = bench.run(1)
        bench.service.now = {job(run_id): ENDED}
        bench.service.answer = lambda: bench.write(run_id, failed())
        (run,) = bench.look().runs
        assert (run.state, run.exit_code, run.goes_on) == ("failed", ExitCode.JOB_FAILED, False)

    def test_a_job_that_is_not_to_be_seen_is_given_the_time_in_which_it_may_appear(self, bench: Bench) -> None:
        run_id = bench.run(1)
        bench.service.now = {job(run_id): GONE}
        assert bench.look().runs[0].goes_on
        assert bench.later(40).runs[0].goes_on
        assert not bench.later(40).runs[0].goes_on

    def test_a_job_that_appears_late_is_followed(self, bench: Bench) -> None:
        run_id = bench.run(1)
        bench.service.now = {job(run_id): GONE}
        with lock.hold(bench.store.folder(run_id), run_id, bench.clock):
            bench.look()
            bench.later(300)
            bench.service.now.clear()
            bench.later()
        assert bench.later().runs[0].goes_on

    def test_a_resume_wakes_it(self, bench: Bench) -> None:
        run_id = bench.run(1)
        bench.service.now = {job(run_id): ENDED}
        assert not bench.look().runs[0].goes_on
        over = ev.Observed(step="lr-find", attempt=1, state=JobState.FAILED)
        bench.write(run_id, over, ev.Resumed(), *submitted(run_id, attempt=2))
        assert bench.later().runs[0].goes_on
        assert bench.later().runs[0].step.detail == "Training"


class TestAServiceThatDoesNotAnswer:
    def silence(self) -> None:
        raise UnreachableError("AWS does not answer", why="no route to host")

    def test_is_waited_for(self, bench: Bench) -> None:
        bench.run(1)
        bench.look()
        bench.service.answer = self.silence
        looks = [bench.later() for _ in range(40)]
        assert all(look.runs[0].goes_on for look in looks)
        assert sum(len(look.notes) for look in looks) == len(looks[0].notes) > 0
        bench.service.answer = lambda: None
        assert bench.later().runs[0].step.detail == "Training"
        assert bench.watcher.errors == []

    def test_is_given_up_after_a_quarter_of_an_hour_of_its_silence(self, bench: Bench) -> None:
        bench.run(1)
        bench.service.answer = self.silence
        looks = [bench.look(), *(bench.later() for _ in range(50))]
        asked = len(bench.service.asked)
        assert 900 / 20 <= asked <= 900 / 20 + 2
        assert not looks[-1].runs[0].goes_on
        assert [error.exit_code for error in bench.watcher.errors] == [ExitCode.CAPACITY]

    def test_that_refuses_the_credentials_is_given_up_at_once_and_the_others_go_on(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        bench.run(1), bench.run(2)

        def refuse() -> None:
            raise CredentialsError("the session has expired", fix="aws sso login")

        services = [Service(tmp_path / "one"), Service(tmp_path / "two")]
        services[0].answer = refuse
        handed = iter(services)
        watcher = Watcher(bench.store, lambda _: next(handed), bench.clock)
        look = watcher.look()
        assert [run.goes_on for run in look.runs] == [False, True]
        assert any("aws sso login" in note for note in look.notes)
        bench.clock.sleep(100)
        assert [run.goes_on for run in watcher.look().runs] == [False, True]
        assert [len(service.asked) for service in services] == [1, 2]


def test_the_watch_ends_when_nothing_goes_on(bench: Bench) -> None:
    run_id = bench.run(1)
    looks: list[Look] = []

    def on_look(look: Look) -> None:
        looks.append(look)
        if bench.clock.elapsed > 100:
            bench.service.now = {job(run_id): ENDED}

    watch_all(bench.watcher, bench.clock, on_look)
    assert [look.runs[0].goes_on for look in looks] == [True] * (len(looks) - 1) + [False]
    assert 120 <= bench.clock.elapsed < 130


def test_without_an_open_run_the_watch_is_over_at_once(bench: Bench) -> None:
    bench.run(1, failed())
    looks: list[Look] = []
    watch_all(bench.watcher, bench.clock, looks.append)
    assert [look.runs for look in looks] == [()]
    assert bench.clock.elapsed < 1
