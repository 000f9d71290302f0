"""SageMaker's words for a job: each one known, an unknown one still billing, and nothing over before AWS says so."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.aws.states import detail, exit_code, job_state
from gpuplan.core.errors import ExitCode
from gpuplan.core.job_state import JobState


def words(shape: str) -> list[str]:
    """Return the values of an enumeration in SageMaker's API model."""
    model = botocore.session.get_session().get_service_model("sagemaker")
    return list(model.shape_for(shape).enum)


STATUSES = words("TrainingJobStatus")
SECONDARIES = words("SecondaryStatus")
ENDS = {"Completed": JobState.SUCCEEDED, "Failed": JobState.FAILED, "Stopped": JobState.STOPPED}
ANY_STATUS = st.sampled_from(STATUSES) | st.text(max_size=20)
ANY_SECONDARY = st.sampled_from(SECONDARIES) | st.text(max_size=20)


@pytest.mark.parametrize("secondary", SECONDARIES)
def test_every_word_of_the_api_for_a_job_in_progress_is_known(secondary: str) -> None:
    state = job_state("InProgress", secondary)
    assert state is not JobState.UNKNOWN
    assert not state.terminal


@given(ANY_STATUS, ANY_SECONDARY)
def test_a_job_is_over_when_and_only_when_its_status_says_so(status: str, secondary: str) -> None:
    state = job_state(status, secondary)
    assert state.terminal == (status in ENDS)
    assert state is ENDS.get(status, state)


@given(ANY_STATUS, st.text(max_size=20).filter(lambda text: text not in SECONDARIES))
def test_a_word_nobody_has_heard_of_is_unknown_unless_the_status_tells(status: str, secondary: str) -> None:
    state = job_state(status, secondary)
    assert state is {**ENDS, "Stopping": JobState.STOPPING}.get(status, JobState.UNKNOWN)


@pytest.mark.parametrize(
    ("secondary", "state"),
    [
        ("Pending", JobState.PENDING),
        ("Starting", JobState.STARTING),
        ("Interrupted", JobState.STARTING),
        ("Restarting", JobState.STARTING),
        ("Downloading", JobState.RUNNING),
        ("Training", JobState.RUNNING),
        ("Uploading", JobState.RUNNING),
        ("MaxRuntimeExceeded", JobState.STOPPING),
    ],
)
def test_what_is_billed_runs_and_what_waits_does_not(secondary: str, state: JobState) -> None:
    assert job_state("InProgress", secondary) is state


def test_a_stop_counts_whatever_the_job_still_does() -> None:
    assert {job_state("Stopping", secondary) for secondary in SECONDARIES} == {JobState.STOPPING}


def test_the_detail_is_the_services_own_word_with_the_reason_of_a_failure() -> None:
    assert detail({"TrainingJobStatus": "InProgress", "SecondaryStatus": "Downloading"}) == "Downloading"
    assert detail({"TrainingJobStatus": "InProgress"}) == "InProgress"
    failed = {"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "FailureReason": " AlgorithmError: no GPU\n"}
    assert detail(failed) == "Failed: AlgorithmError: no GPU"
    assert detail({}) == ""


@pytest.mark.parametrize(
    ("job", "code", "says"),
    [
        ({"SecondaryStatus": "MaxRuntimeExceeded"}, ExitCode.OVER_BUDGET, "time limit"),
        ({"SecondaryStatus": "MaxWaitTimeExceeded"}, ExitCode.CAPACITY, "waiting for spot capacity"),
        (
            {"SecondaryStatus": "Failed", "FailureReason": "CapacityError: Unable to provision requested ML instance"},
            ExitCode.CAPACITY,
            "Unable to provision",
        ),
        ({"SecondaryStatus": "Failed", "FailureReason": "AlgorithmError: exit code 1"}, None, "exit code 1"),
        ({"SecondaryStatus": "Stopped"}, None, "Stopped"),
        ({"SecondaryStatus": "Completed"}, None, "Completed"),
    ],
)
def test_an_end_that_aws_caused_says_so_and_has_its_own_exit_code(
    job: dict[str, Any], code: ExitCode | None, says: str
) -> None:
    assert exit_code(job) is code
    assert says in detail(job)


@given(
    st.dictionaries(st.sampled_from(["TrainingJobStatus", "SecondaryStatus", "FailureReason"]), st.text(max_size=30))
)
def test_whatever_is_described_can_be_told(job: dict[str, str]) -> None:
    assert isinstance(detail(job), str)
    assert exit_code(job) in {None, ExitCode.OVER_BUDGET, ExitCode.CAPACITY}
