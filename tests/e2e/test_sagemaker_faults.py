"""What AWS's API may do to a run: each fault ends as docs/faults.md says, and no job is created or paid for twice."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpuplan.aws.session import Session
from gpuplan.backends.sagemaker import SageMakerBackend
from gpuplan.core.errors import (
    CredentialsError,
    ExitCode,
    GpuplanError,
    MayBeBillingError,
    ThrottledError,
    UnreachableError,
)
from gpuplan.core.job_state import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.bench import Bench
    from gpuplan.store.record import RunRecord
    from gpuplan.testing import JobView

pytest_plugins = ("tests.e2e.bench",)

ROOT = Path(__file__).resolve().parents[2]
FOR_EVER = None
HTML = b"<html><body>502 Bad Gateway</body></html>"


@pytest.fixture
def run_id(bench: Bench) -> str:
    """Record a run of lr-find alone; nothing of it is submitted yet."""
    return bench.start(bench.plan(launch__pipeline="lr"))


def created(bench: Bench, run_id: str) -> list[str]:
    """Return what was created of a run: step and attempt."""
    return [job.name.removeprefix(f"{run_id}-") for job in bench.jobs(run_id)]


def after(looks: int, act: Callable[[JobView], None]) -> Callable[[JobView], None]:
    """Return a play in which nothing happens for so many looks at a job."""
    left = looks

    def play(job: JobView) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            act(job)

    return play


def failure(record: RunRecord) -> tuple[ExitCode | None, str]:
    """Return a failed run's exit code and all it says."""
    assert record.failure is not None
    return record.exit_code, f"{record.failure.message} | {record.failure.why} | {record.failure.fix}"


class TestCreating:
    """CreateTrainingJob, which costs money and knows no token but the name."""

    def test_two_throttled_calls_are_waited_out_unseen(
        self, bench: Bench, run_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_MAX_ATTEMPTS")
        aws = bench.plan().provenance.settings.aws
        backend = SageMakerBackend(aws, Session("us-east-1"), bench.home, bench.clock.sleep)
        bench.aws.faults.refuse("CreateTrainingJob", "ThrottlingException", times=2)
        assert bench.drive(run_id, backend).state == "succeeded"
        assert created(bench, run_id) == ["lr-find-1"]

    @pytest.mark.parametrize(
        ("code", "status"), [("ThrottlingException", 400), ("InternalFailure", 500), ("ServiceUnavailable", 503)]
    )
    def test_a_call_that_fails_for_ever_creates_nothing_and_resume_asks_for_the_same_job(
        self, bench: Bench, run_id: str, code: str, status: int
    ) -> None:
        bench.aws.faults.refuse("CreateTrainingJob", code, status, times=FOR_EVER)
        with pytest.raises(UnreachableError, match="CreateTrainingJob") as caught:
            bench.drive(run_id)
        assert caught.value.exit_code is ExitCode.CAPACITY
        assert isinstance(caught.value, ThrottledError) == (code == "ThrottlingException")
        assert created(bench, run_id) == []
        bench.aws.faults.clear()
        assert bench.drive(run_id).state == "succeeded"
        assert created(bench, run_id) == ["lr-find-1"]

    @pytest.mark.parametrize("body", [b"", HTML, None], ids=["empty", "html", "half"])
    def test_an_answer_that_is_garbled_or_cut_is_looked_up_and_the_job_adopted(
        self, bench: Bench, run_id: str, body: bytes | None
    ) -> None:
        bench.aws.faults.garbage("CreateTrainingJob", body)
        assert bench.drive(run_id).state == "succeeded"
        assert created(bench, run_id) == ["lr-find-1"]

    def test_a_job_that_is_not_shown_yet_is_neither_created_again_nor_called_gone(
        self, bench: Bench, run_id: str
    ) -> None:
        bench.aws.faults.hide("*", seconds=0.15)
        play = after(2, bench.finish)

        def slowly(job: JobView) -> None:
            time.sleep(0.1)  # a job hides by the real clock, the client waits by the played one
            play(job)

        bench.play = slowly
        assert bench.drive(run_id).state == "succeeded"
        assert created(bench, run_id) == ["lr-find-1"]

    def test_no_capacity_is_exit_4_and_resume_tries_again_as_another_attempt(self, bench: Bench, run_id: str) -> None:
        bench.aws.faults.capacity("ml.g5.xlarge")
        record = bench.drive(run_id)
        code, said = failure(record)
        assert code is ExitCode.CAPACITY
        assert "got no instance" in said
        assert f"gpuplan resume {run_id}" in said
        assert record.steps[0].attempts[0].cost_usd == 0
        assert bench.drive(run_id).state == "succeeded"
        assert created(bench, run_id) == ["lr-find-1", "lr-find-2"]

    def test_spot_capacity_that_never_comes_is_exit_4(self, bench: Bench) -> None:
        run_id = bench.start(bench.plan(launch__pipeline="train", lr__learning_rate=0.1, launch__spot=True))
        bench.play = lambda job: bench.aws.advance(job.name, "MaxWaitTimeExceeded")
        code, said = failure(bench.drive(run_id))
        assert code is ExitCode.CAPACITY
        assert "waiting for spot capacity" in said

    def test_a_quota_that_create_itself_meets_is_exit_4_with_the_quotas_name(self, bench: Bench, run_id: str) -> None:
        bench.aws.quota("ml.g5.xlarge", 0)
        code, said = failure(bench.drive(run_id))
        assert code is ExitCode.CAPACITY
        assert "ml.g5.xlarge for training job usage" in said
        assert "gpuplan doctor --instance g5.xlarge" in said
        assert created(bench, run_id) == []
        bench.aws.quota("ml.g5.xlarge", 1)
        assert bench.drive(run_id).state == "succeeded"

    def test_a_type_that_the_region_no_longer_has_is_exit_4(self, bench: Bench, run_id: str) -> None:
        bench.aws.not_offered.add("ml.g5.xlarge")
        try:
            code, said = failure(bench.drive(run_id))
        finally:
            bench.aws.not_offered.discard("ml.g5.xlarge")
        assert code is ExitCode.CAPACITY
        assert "ml.g5.xlarge is not available in this region" in said
        assert created(bench, run_id) == []


class TestANameThatIsTaken:
    """ResourceInUse: by ourselves, by a foreign job, by a job whose tags come in pages."""

    @pytest.fixture
    def foreign(self, bench: Bench, run_id: str) -> str:
        """Create a job of somebody else's under the name that the run will want."""
        probe = bench.start(bench.plan(launch__pipeline="lr"))
        bench.drive(probe, detach=True)
        name = f"{run_id}-lr-find-1"
        theirs = bench.jobs(probe)[0].request | {"TrainingJobName": name, "Tags": [{"Key": "team", "Value": "b"}]}
        bench.aws.client("sagemaker").create_training_job(**theirs)
        return name

    def test_a_foreign_job_is_refused_and_never_stopped(self, bench: Bench, run_id: str, foreign: str) -> None:
        code, said = failure(bench.drive(run_id))
        assert code is ExitCode.PLAN_REFUSED
        assert "created by another request" in said
        assert foreign in said
        bench.play = lambda job: None if job.name == foreign else bench.finish(job)
        assert bench.drive(run_id).state == "succeeded"
        assert created(bench, run_id) == ["lr-find-1", "lr-find-2"]
        assert bench.aws.job(foreign).status == "InProgress"

    def test_a_cancel_leaves_a_foreign_job_alone(self, bench: Bench, run_id: str, foreign: str) -> None:
        bench.play = lambda _: None
        assert bench.drive(run_id).exit_code is ExitCode.PLAN_REFUSED
        assert bench.cancel(run_id).state == "cancelled"
        assert bench.aws.job(foreign).status == "InProgress"

    def test_our_own_job_is_known_by_a_tag_on_a_later_page(self, bench: Bench, run_id: str) -> None:
        request = run_in_doubt(bench, run_id)
        first = {"Tags": [{"Key": "cost-center", "Value": "7"}], "NextToken": "1"}
        second = {"Tags": request["Tags"]}
        for body in (first, second):
            bench.aws.faults.garbage("ListTags", json.dumps(body).encode())
        assert bench.drive(run_id).state == "succeeded"
        assert created(bench, run_id) == ["lr-find-1"]

    def test_tags_that_cannot_be_read_leave_the_question_open(self, bench: Bench, run_id: str) -> None:
        run_in_doubt(bench, run_id)
        bench.aws.faults.garbage("ListTags", HTML)
        with pytest.raises(MayBeBillingError, match="not known"):
            bench.drive(run_id)
        assert bench.drive(run_id).state == "succeeded"
        assert created(bench, run_id) == ["lr-find-1"]


def run_in_doubt(bench: Bench, run_id: str) -> dict[str, list[dict[str, str]]]:
    """Leave a run whose job exists while its record does not know; return the job's request."""
    bench.aws.faults.lose_reply("CreateTrainingJob")
    bench.aws.faults.refuse("DescribeTrainingJob", "InternalFailure")
    with pytest.raises(MayBeBillingError):
        bench.drive(run_id)
    return bench.jobs(run_id)[0].request


class TestWaiting:
    """A job that runs goes on whatever the client sees of it."""

    @pytest.mark.parametrize("fault", ["throttled", "500", "html", "half"])
    def test_looks_that_fail_are_taken_again(self, bench: Bench, run_id: str, fault: str) -> None:
        bench.drive(run_id, detach=True)
        bench.aws.log(bench.jobs(run_id)[0].name, "a line", "another")
        for operation in ("DescribeTrainingJob", "DescribeLogStreams", "GetLogEvents"):
            if fault in {"html", "half"}:
                bench.aws.faults.garbage(operation, HTML if fault == "html" else None, times=2)
            else:
                code = "ThrottlingException" if fault == "throttled" else "InternalFailure"
                bench.aws.faults.refuse(operation, code, times=2)
        bench.play = after(7, bench.finish)
        before = bench.aws.calls_of("GetLogEvents")
        assert bench.drive(run_id).state == "succeeded"
        assert created(bench, run_id) == ["lr-find-1"]
        assert bench.aws.calls_of("GetLogEvents") > before + 2

    @pytest.mark.parametrize("fault", ["no group", "no stream", "denied", "throttled for ever"])
    def test_a_log_that_is_not_there_changes_nothing(self, bench: Bench, run_id: str, fault: str) -> None:
        bench.drive(run_id, detach=True)
        if fault == "no group":
            bench.aws.faults.refuse("DescribeLogStreams", "ResourceNotFoundException", times=FOR_EVER)
        elif fault == "no stream":
            bench.aws.log(bench.jobs(run_id)[0].name, "a line")
            bench.aws.faults.refuse("GetLogEvents", "ResourceNotFoundException", times=FOR_EVER)
        else:
            code = "AccessDeniedException" if fault == "denied" else "ThrottlingException"
            bench.aws.faults.refuse("DescribeLogStreams", code, times=FOR_EVER)
        bench.play = after(2, bench.finish)
        assert bench.drive(run_id).state == "succeeded"

    def test_an_aws_that_stays_silent_ends_the_client_after_a_quarter_of_an_hour_and_not_the_job(
        self, bench: Bench, run_id: str
    ) -> None:
        bench.drive(run_id, detach=True)
        bench.aws.faults.refuse("DescribeTrainingJob", "ServiceUnavailable", times=FOR_EVER)
        bench.play = lambda _: None
        begun = bench.clock.elapsed
        patient = bench.backend(bench.plan(), poll_seconds=90.0)
        with pytest.raises(UnreachableError) as caught:
            bench.drive(run_id, patient)
        assert caught.value.exit_code is ExitCode.CAPACITY
        assert 900 <= bench.clock.elapsed - begun < 1100
        assert bench.jobs(run_id)[0].status == "InProgress"
        bench.aws.faults.clear()
        bench.play = bench.finish
        assert bench.drive(run_id).state == "succeeded"

    def test_credentials_that_expire_end_the_client_with_exit_3_and_not_the_job(
        self, bench: Bench, run_id: str
    ) -> None:
        bench.aws.faults.refuse("DescribeTrainingJob", "ExpiredTokenException", times=FOR_EVER, skip=1)
        bench.play = lambda job: bench.aws.advance(job.name, "Training")
        with pytest.raises(CredentialsError, match="expired") as caught:
            bench.drive(run_id)
        assert caught.value.exit_code is ExitCode.CREDENTIALS
        assert bench.jobs(run_id)[0].status == "InProgress"
        bench.aws.faults.clear()
        bench.play = bench.finish
        assert bench.drive(run_id).state == "succeeded"
        assert created(bench, run_id) == ["lr-find-1"]

    def test_states_that_nobody_has_heard_of_bill_and_are_waited_out(self, bench: Bench, run_id: str) -> None:
        bench.drive(run_id, detach=True)
        shown = iter([("InProgress", "Quantum"), ("Hibernating", "Training"), ("InProgress", "Entangled")])
        seen: set[JobState] = set()

        def later(job: JobView) -> None:
            seen.add(bench.store().record(run_id).steps[0].attempts[0].state)
            states = next(shown, None)
            if states is None:
                bench.aws.faults.clear()
                bench.finish(job)
            else:
                bench.aws.faults.status(job.name, secondary=states[1], primary=states[0])

        bench.play = later
        assert bench.drive(run_id).state == "succeeded"
        assert JobState.UNKNOWN in seen
        assert JobState.UNKNOWN.billing
        assert not JobState.UNKNOWN.terminal

    def test_fields_that_nobody_has_heard_of_are_passed_over(self, bench: Bench, run_id: str) -> None:
        bench.drive(run_id, detach=True)
        odd = {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Training", "Qubits": 7, "Mood": {"of": ["day"]}}
        bench.aws.faults.garbage("DescribeTrainingJob", json.dumps(odd).encode(), times=2)
        bench.play = after(3, bench.finish)
        assert bench.drive(run_id).state == "succeeded"

    def test_more_jobs_than_a_page_are_seen_in_a_call_a_page(self, bench: Bench) -> None:
        names = [f"bench-{number:013d}-train-1" for number in range(150)]
        shown = {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Training", "CreationTime": 0}
        summaries = [shown | {"TrainingJobName": name, "TrainingJobArn": name} for name in names]
        pages = (
            {"TrainingJobSummaries": summaries[:100], "NextToken": "100"},
            {"TrainingJobSummaries": summaries[100:]},
        )
        for page in pages:
            bench.aws.faults.garbage("ListTrainingJobs", json.dumps(page).encode())
        before = bench.aws.calls_of("DescribeTrainingJob")
        handles = [f"sagemaker://us-east-1/{name}" for name in names]
        found = bench.backend(bench.plan()).poll_all(handles)
        assert found.keys() == set(handles)
        assert {status.state for status in found.values()} == {JobState.RUNNING}
        assert bench.aws.calls_of("DescribeTrainingJob") == before


class TestStopping:
    """A stop is done when AWS says that the job has ended, not when it took the call."""

    def test_a_job_that_ends_just_before_the_stop_is_no_error(self, bench: Bench, run_id: str) -> None:
        bench.drive(run_id, detach=True)
        name = bench.jobs(run_id)[0].name
        bench.aws.faults.refuse("StopTrainingJob", "ValidationException", message="the job is in status Completed")
        bench.play = lambda job: bench.aws.advance(job.name, "Stopped")
        assert bench.cancel(run_id).state == "cancelled"
        assert bench.aws.job(name).status == "Stopped"

    def test_a_stop_that_is_not_answered_says_so_and_can_be_repeated(self, bench: Bench, run_id: str) -> None:
        bench.drive(run_id, detach=True)
        bench.aws.faults.refuse("StopTrainingJob", "InternalFailure", times=1)
        with pytest.raises(GpuplanError) as caught:
            bench.cancel(run_id)
        assert caught.value.exit_code in {ExitCode.CAPACITY, ExitCode.MAY_BE_BILLING}
        assert bench.cancel(run_id).state == "cancelled"


def test_every_row_of_the_fault_table_names_tests_that_there_are() -> None:
    table = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|.*\| (\S.*) \|$", table, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    tests: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        name = path.stem.removeprefix("test_")
        tests[name] = tests.get(name, "") + path.read_text(encoding="utf-8")
    for number, shown_by in rows:
        named = re.findall(r"(\w+)::(\w+)", shown_by)
        assert named, f"row {number} names no test"
        for file, test in named:
            assert f"def test_{test}(" in tests[file], f"row {number}: {file} has no test_{test}"
