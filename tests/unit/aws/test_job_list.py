"""Listing what is in progress, against a service that pages as SageMaker says it does: it cuts, then it filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.aws.errors import AccessDeniedError
from gpuplan.aws.job_list import in_progress
from gpuplan.aws.session import Session
from gpuplan.core.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Sequence

Untyped = Any
"""botocore makes its clients' classes, and what they take, at run time."""
STATUSES = ("InProgress", "Completed", "Failed", "Stopping", "Stopped")


class Jobs:
    """A SageMaker client that knows jobs, the oldest first, and counts the pages it was asked for."""

    def __init__(self, jobs: Sequence[tuple[str, str]]) -> None:
        self.jobs = jobs
        self.pages = 0

    def list_training_jobs(self, **query: Untyped) -> dict[str, Any]:
        self.pages += 1
        assert (query["SortBy"], query["SortOrder"]) == ("CreationTime", "Descending")
        newest_first = self.jobs[::-1]
        start = int(query.get("NextToken", "0"))
        end = start + query["MaxResults"]
        page = [job for job in newest_first[start:end] if job[1] == query["StatusEquals"]]
        reply: dict[str, Any] = {"TrainingJobSummaries": [summary(*job) for job in page]}
        return reply | ({"NextToken": str(end)} if end < len(newest_first) else {})


class OnFake(Session):
    """A session whose one client is given."""

    def __init__(self, client: Untyped) -> None:
        super().__init__("us-east-1")
        self._client = client

    def client(self, service: str) -> Untyped:
        assert service == "sagemaker"
        return self._client


def summary(name: str, status: str) -> dict[str, str]:
    return {"TrainingJobName": name, "TrainingJobStatus": status, "SecondaryStatus": "Training"}


def running(count: int, prefix: str = "mine") -> list[tuple[str, str]]:
    return [(f"{prefix}-{number}", "InProgress") for number in range(count)]


def names(jobs: Sequence[tuple[str, str]]) -> list[str]:
    return [name for name, _ in jobs]


def test_a_hundred_running_jobs_are_one_call() -> None:
    jobs = Jobs(running(100))
    assert in_progress(OnFake(jobs), names(jobs.jobs)).keys() == set(names(jobs.jobs))
    assert jobs.pages == 1


def test_a_page_that_others_jobs_fill_is_turned() -> None:
    mine = running(100)
    jobs = Jobs([*mine, *running(150, "theirs")])
    assert in_progress(OnFake(jobs), names(mine)).keys() == set(names(mine))
    assert jobs.pages == 3


def test_an_empty_page_is_not_taken_for_the_last() -> None:
    mine = running(40)
    jobs = Jobs([*mine, *((f"done-{number}", "Completed") for number in range(120))])
    assert len(in_progress(OnFake(jobs), names(mine))) == 40


def test_reading_stops_where_describing_the_few_that_are_missing_is_as_cheap() -> None:
    mine = running(100)
    gone = [(f"gone-{number}", "Completed") for number in range(3)]
    jobs = Jobs([*gone, *running(5000, "old"), *mine])
    assert len(in_progress(OnFake(jobs), names([*mine, *gone]))) == 100
    assert jobs.pages == 1


def test_a_single_job_is_not_listed_for() -> None:
    jobs = Jobs(running(1))
    assert in_progress(OnFake(jobs), ["mine-0"]) == {}
    assert jobs.pages == 0


def test_a_summary_without_a_secondary_status_shows_nothing() -> None:
    class Terse(Jobs):
        def list_training_jobs(self, **query: Untyped) -> dict[str, Any]:
            reply = super().list_training_jobs(**query)
            for each in reply["TrainingJobSummaries"]:
                del each["SecondaryStatus"]
            return reply

    assert in_progress(OnFake(Terse(running(2))), ["mine-0", "mine-1"]) == {}


def test_a_summary_that_is_no_longer_in_progress_is_left_to_be_described() -> None:
    class Late(Jobs):
        def list_training_jobs(self, **query: Untyped) -> dict[str, Any]:
            reply = super().list_training_jobs(**query)
            reply["TrainingJobSummaries"][0]["TrainingJobStatus"] = "Completed"
            return reply

    assert in_progress(OnFake(Late(running(3))), names(running(3))).keys() == {"mine-0", "mine-1"}


def test_an_empty_reply_shows_nothing() -> None:
    class Garbled:
        def list_training_jobs(self, **query: Untyped) -> dict[str, Any]:
            del query
            return {}

    assert in_progress(OnFake(Garbled()), ["a", "b"]) == {}


@given(
    jobs=st.lists(st.sampled_from(STATUSES), max_size=400),
    watched=st.sets(st.integers(0, 500), max_size=60),
)
def test_what_it_shows_is_in_progress_and_wanted_and_it_reads_few_pages(jobs: list[str], watched: set[int]) -> None:
    known = [(f"job-{number}", status) for number, status in enumerate(jobs)]
    wanted = {f"job-{number}" for number in watched}
    client = Jobs(known)
    found = in_progress(OnFake(client), wanted)
    assert found.keys() <= {name for name, status in known if status == "InProgress"} & wanted
    assert all(each["TrainingJobName"] == name for name, each in found.items())
    assert client.pages <= len(wanted) / 4 + 1


@given(jobs=st.lists(st.sampled_from(STATUSES), max_size=100))
def test_of_an_account_that_fits_on_a_page_it_shows_all_that_is_in_progress(jobs: list[str]) -> None:
    known = [(f"job-{number}", status) for number, status in enumerate(jobs)]
    found = in_progress(OnFake(Jobs(known)), {"another", "one-more", *names(known)})
    assert found.keys() == {name for name, status in known if status == "InProgress"}


class TestOnBotocore:
    """With botocore's own model of the call between."""

    @pytest.fixture
    def client(self) -> Untyped:
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        return boto3.client("sagemaker", region_name="us-east-1", **keys)

    def test_the_request_and_the_reply_are_those_of_the_api(self, client: Untyped) -> None:
        first = {"StatusEquals": "InProgress", "SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": 100}
        arn = "arn:aws:sagemaker:us-east-1:123456789012:training-job/a"
        shown = summary("a", "InProgress") | {"TrainingJobArn": arn, "CreationTime": 0}
        with Stubber(client) as stub:
            stub.add_response("list_training_jobs", {"TrainingJobSummaries": [], "NextToken": "more"}, first)
            stub.add_response("list_training_jobs", {"TrainingJobSummaries": [shown]}, first | {"NextToken": "more"})
            assert in_progress(OnFake(client), list("abcdef")).keys() == {"a"}
            stub.assert_no_pending_responses()

    @pytest.mark.parametrize(
        ("code", "error"), [("AccessDeniedException", AccessDeniedError), ("ThrottlingException", UnreachableError)]
    )
    def test_a_refusal_is_one_of_gpuplans_errors(self, client: Untyped, code: str, error: type[Exception]) -> None:
        with Stubber(client) as stub:
            stub.add_client_error("list_training_jobs", code, "no")
            with pytest.raises(error):
                in_progress(OnFake(client), ["a", "b"])
