"""Waiting for a job: a service that is silent for a while is waited for; silence for good and a lost job are not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.backends.base import JobStatus, LogPage
from gpuplan.core.errors import CredentialsError, ThrottledError, UnreachableError
from gpuplan.core.job_state import JobState
from gpuplan.engine.observer import Silent
from gpuplan.engine.wait import wait
from gpuplan_job.contract import Progress

if TYPE_CHECKING:
    from conftest import FakeClock, Recorder
    from gpuplan.backends.base import Backend

HANDLE = "sagemaker://us-east-1/digits-0000000000001-train-1"
RUNNING = JobStatus(JobState.RUNNING, "Training")
DONE = JobStatus(JobState.SUCCEEDED, "Completed")
GONE = JobStatus(JobState.PENDING, "no such job", exists=False)
SILENT = UnreachableError("no answer")
QUARTER_HOUR = 900


@dataclass
class Service:
    """Answers looks one after another, the last one for ever; an error among them is raised."""

    answers: list[JobStatus | Exception]
    lines: list[tuple[str, ...] | Exception] = field(default_factory=list)
    poll_seconds: float = 20.0
    visibility_seconds: float = 60.0
    looks: int = 0
    cursors: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def poll(self, handle: str) -> JobStatus:
        assert handle == HANDLE
        answer = self.answers[min(self.looks, len(self.answers) - 1)]
        self.looks += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def logs(self, handle: str, cursor: str = "") -> LogPage:
        assert handle == HANDLE
        self.cursors.append(cursor)
        page = self.lines.pop(0) if self.lines else ()
        if isinstance(page, Exception):
            raise page
        return LogPage(page, f"{len(self.cursors)}")

    def stop(self, handle: str) -> JobStatus:
        self.stopped.append(handle)
        return JobStatus(JobState.STOPPED, "never created", exists=False)


@dataclass
class Looks:
    """What the caller was told."""

    seen: list[tuple[JobStatus, bool]] = field(default_factory=list)

    def __call__(self, status: JobStatus, changed: bool) -> None:  # noqa: FBT001 - the signature that `wait` asks for
        self.seen.append((status, changed))

    @property
    def details(self) -> list[str]:
        """The service's words, each change once."""
        return [status.detail for status, changed in self.seen if changed]


def waited(service: Service, clock: FakeClock, recorder: Recorder | None = None) -> tuple[JobStatus, Looks]:
    """Wait for the job that a service plays; return how it ended and what was told on the way."""
    looks = Looks()
    status = wait(HANDLE, cast("Backend", service), clock, recorder or Silent(), looks)
    return status, looks


def progress(done: int) -> str:
    return Progress("train", "epoch 1 of 2", done, 10, {"loss": 1.0}).to_line()


def test_every_look_is_told_and_whether_it_is_news(clock: FakeClock) -> None:
    starting, downloading = JobStatus(JobState.STARTING, "Starting"), JobStatus(JobState.RUNNING, "Downloading")
    status, looks = waited(Service([starting, starting, downloading, RUNNING, RUNNING, DONE]), clock)
    assert status == DONE
    assert [changed for _, changed in looks.seen] == [True, False, True, True, False, True]
    assert looks.details == ["Starting", "Downloading", "Training", "Completed"], "a new word is news, the state or not"
    assert clock.elapsed == 5 * 20.0


@pytest.mark.parametrize("end", [JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED])
def test_the_end_is_told_once_and_waited_for_no_longer(clock: FakeClock, end: JobState) -> None:
    service = Service([JobStatus(end, "over")])
    status, looks = waited(service, clock)
    assert (status.state, len(looks.seen), service.looks) == (end, 1, 1)
    assert clock.elapsed == 0


@given(st.lists(st.sampled_from([RUNNING, SILENT, ThrottledError("slow down")]), max_size=44))
def test_silence_for_a_while_is_waited_out(new_clock: type[FakeClock], answers: list[JobStatus | Exception]) -> None:
    status, looks = waited(Service([*answers, DONE]), new_clock())
    assert status == DONE
    assert len(looks.seen) == answers.count(RUNNING) + 1, "what was not answered is not told"
    assert sum(changed for _, changed in looks.seen) == 1 + (RUNNING in answers)


def test_silence_for_a_quarter_of_an_hour_is_raised_and_not_before(clock: FakeClock) -> None:
    with pytest.raises(UnreachableError, match="no answer"):
        waited(Service([RUNNING, SILENT]), clock)
    assert QUARTER_HOUR < clock.elapsed <= QUARTER_HOUR + 2 * 20.0


def test_an_answer_starts_the_quarter_of_an_hour_anew(clock: FakeClock) -> None:
    silent: list[JobStatus | Exception] = [SILENT] * 40
    status, _ = waited(Service([*silent, RUNNING, *silent, RUNNING, *silent, DONE]), clock)
    assert status == DONE
    assert clock.elapsed > 2 * QUARTER_HOUR


def test_credentials_that_end_while_waiting_are_said_at_once(clock: FakeClock) -> None:
    with pytest.raises(CredentialsError):
        waited(Service([RUNNING, CredentialsError("expired")]), clock)
    assert clock.elapsed == 20.0


def test_a_job_just_created_may_be_invisible_for_as_long_as_its_service_needs(clock: FakeClock) -> None:
    service = Service([GONE, GONE, GONE, RUNNING, DONE])
    status, looks = waited(service, clock)
    assert status == DONE
    assert looks.details == ["Training", "Completed"]
    assert service.stopped == []


def test_a_job_that_stays_invisible_is_stopped_and_has_failed(clock: FakeClock) -> None:
    service = Service([GONE])
    status, looks = waited(service, clock)
    assert (status.state, status.detail) == (JobState.FAILED, "it is gone")
    assert looks.seen == [(status, True)]
    assert service.stopped == [HANDLE], "what is left of it must not go on unseen"
    assert service.visibility_seconds <= clock.elapsed <= service.visibility_seconds + 20.0


def test_a_job_that_was_seen_may_vanish_for_a_moment_only(clock: FakeClock) -> None:
    status, _ = waited(Service([RUNNING, GONE, GONE, RUNNING, DONE]), clock)
    assert status == DONE
    status, _ = waited(Service([RUNNING, GONE]), clock)
    assert status.state is JobState.FAILED


def test_silence_does_not_count_as_being_gone(clock: FakeClock) -> None:
    silent: list[JobStatus | Exception] = [SILENT] * 10
    status, _ = waited(Service([RUNNING, *silent, RUNNING, DONE]), clock)
    assert status == DONE


def test_a_service_without_delay_is_believed_at_once(clock: FakeClock) -> None:
    status, _ = waited(Service([GONE], visibility_seconds=0.0), clock)
    assert status.state is JobState.FAILED
    assert clock.elapsed == 0


def test_the_newest_progress_is_passed_on_and_each_line_asked_for_once(clock: FakeClock, recorder: Recorder) -> None:
    service = Service([RUNNING, RUNNING, DONE], lines=[(progress(1), "noise", progress(2)), (), ("noise", progress(3))])
    waited(service, clock, recorder)
    assert [progressed.done for progressed in recorder.progressed] == [2, 3]
    assert service.cursors == ["", "1", "2"]


@pytest.mark.parametrize("error", [SILENT, CredentialsError("logs:GetLogEvents is not allowed")])
def test_a_log_that_cannot_be_read_stops_nothing_and_is_read_later(
    clock: FakeClock, recorder: Recorder, error: Exception
) -> None:
    service = Service([RUNNING, RUNNING, DONE], lines=[(progress(1),), error, (progress(2),)])
    status, looks = waited(service, clock, recorder)
    assert status == DONE
    assert looks.details == ["Training", "Completed"]
    assert [progressed.done for progressed in recorder.progressed] == [1, 2]
    assert service.cursors == ["", "1", "1"]
