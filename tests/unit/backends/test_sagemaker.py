"""Jobs on SageMaker: created once whatever becomes of the reply, seen as they are, stopped for sure. AWS is played.

Each call goes through botocore to the point where it would be sent, so its parameters are those that AWS would get.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError

from gpuplan.aws.session import Session
from gpuplan.backends.base import JobSpec
from gpuplan.backends.sagemaker import SageMakerBackend
from gpuplan.core.errors import (
    CapacityError,
    CredentialsError,
    ExitCode,
    GpuplanError,
    MayBeBillingError,
    PlanRefusedError,
    ThrottledError,
    UnreachableError,
    UsageError,
)
from gpuplan.core.job_state import JobState
from gpuplan.planning.job_input import job_input
from gpuplan.planning.plan import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import MakePlan
    from gpuplan.workload.schema import Aws

RUN = "digits-0000000000001"
NAME = f"{RUN}-lr-find-1"
ARN = f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{NAME}"
NOT_FOUND = ("ValidationException", "Requested resource not found.")
NO_ANSWER = ReadTimeoutError(endpoint_url="https://api.sagemaker.us-east-1.amazonaws.com/")
NO_WAY = EndpointConnectionError(endpoint_url="https://api.sagemaker.us-east-1.amazonaws.com/")
Fault = tuple[str, str] | Exception
"""An error code with its message, or what botocore raises without an answer."""


@dataclass
class Service:
    """SageMaker's training jobs, and the payload on S3."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    before: dict[str, list[Fault | None]] = field(default_factory=dict)
    """Faults of an operation's next calls, which then have no effect; None lets a call through."""
    after: dict[str, list[Fault | dict[str, Any] | None]] = field(default_factory=dict)
    """The same for calls that take effect, and replies instead of the true ones."""
    hidden: int = 0
    """Looks at a job that do not show it yet."""
    stops_after: int = 2
    """Looks until a job that was asked to stop has ended."""
    ends_before_stop: bool = False
    retries: int = 0
    """How often botocore had sent the call before the answer that is an error."""
    calls: list[str] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, operation: str, parameters: dict[str, Any]) -> Fault | dict[str, Any]:
        self.calls.append(operation)
        fault: Fault | None = self._next(self.before, operation)
        if fault is not None:
            return fault
        take: Callable[[dict[str, Any]], Fault | dict[str, Any]] = getattr(self, f"_{operation}")
        reply = take(parameters)
        instead: Fault | dict[str, Any] | None = self._next(self.after, operation)
        return reply if instead is None else instead

    def _next(self, faults: dict[str, list[Any]], operation: str) -> Any:  # noqa: ANN401 - whatever was put there
        return faults[operation].pop(0) if faults.get(operation) else None

    def _HeadObject(self, parameters: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - AWS's name
        assert parameters["Bucket"] == "gpuplan-123456789012"
        return {"ETag": '"0"'}

    def _CreateTrainingJob(self, parameters: dict[str, Any]) -> Fault | dict[str, Any]:  # noqa: N802 - AWS's name
        name = parameters["TrainingJobName"]
        if name in self.jobs:
            return ("ResourceInUse", f"Job name must be unique: {name}")
        self.sent.append(parameters)
        self.jobs[name] = {"TrainingJobName": name, "TrainingJobArn": ARN, "TrainingJobStatus": "InProgress"}
        self.tags[ARN] = parameters["Tags"]
        return {"TrainingJobArn": ARN}

    def _DescribeTrainingJob(self, parameters: dict[str, Any]) -> Fault | dict[str, Any]:  # noqa: N802 - AWS's name
        job = self.jobs.get(parameters["TrainingJobName"])
        if job is None or self.hidden > 0:
            self.hidden -= 1
            return NOT_FOUND
        if job["TrainingJobStatus"] == "Stopping":
            self.stops_after -= 1
            if self.stops_after <= 0:
                job |= {"TrainingJobStatus": "Stopped", "SecondaryStatus": "Stopped", "BillableTimeInSeconds": 77}
        return dict(job)

    def _ListTags(self, parameters: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - AWS's name
        return {"Tags": self.tags[parameters["ResourceArn"]]}

    def _StopTrainingJob(self, parameters: dict[str, Any]) -> Fault | dict[str, Any]:  # noqa: N802 - AWS's name
        job = self.jobs[parameters["TrainingJobName"]]
        if self.ends_before_stop:
            job |= {"TrainingJobStatus": "Completed", "SecondaryStatus": "Completed"}
        if job["TrainingJobStatus"] != "InProgress":
            return ("ValidationException", f"The request was rejected because the job is {job['TrainingJobStatus']}")
        job["TrainingJobStatus"] = "Stopping"
        return {}


class Played(Session):
    """A session whose calls a `Service` answers, another in each test: clients take long to make."""

    def __init__(self) -> None:
        super().__init__("us-east-1")
        self.service = Service()
        self._played: set[str] = set()

    def client(self, service: str) -> Any:  # noqa: ANN401 - as the session's
        client = super().client(service)
        if service not in self._played:
            self._played.add(service)
            client.meta.events.register("provide-client-params", _keep)
            client.meta.events.register("before-call", self._answer)
        return client

    def _answer(self, model: Any, context: dict[str, Any], **_: object) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401 - botocore's
        answer = self.service.answer(model.name, context["parameters"])
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, tuple):
            code, message = answer
            metadata = {"HTTPStatusCode": 400, "RetryAttempts": self.service.retries}
            error = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}
            return SimpleNamespace(status_code=400), error
        return SimpleNamespace(status_code=200), answer


def _keep(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
    context["parameters"] = params


@dataclass
class Bench:
    """A backend on a played account, whose pauses take no time."""

    service: Service
    backend: SageMakerBackend
    pauses: list[float]


@pytest.fixture(scope="module")
def session() -> Iterator[Played]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        yield Played()


@pytest.fixture
def service(session: Played) -> Service:
    session.service = Service()
    return session.service


@pytest.fixture
def bench(session: Played, service: Service, aws: Aws, tmp_path: Path) -> Bench:
    pauses: list[float] = []
    return Bench(service, SageMakerBackend(aws, session, tmp_path, pauses.append), pauses)


@pytest.fixture
def spec(make_plan: MakePlan) -> JobSpec:
    plan = make_plan({"launch.instance": "g5", "launch.backend": "sagemaker"})
    job = job_input(plan, plan.steps[0], run_id=RUN, attempt=1, learning_rate=None)
    limits = Limits(max_runtime_seconds=1800, volume_gb=30)
    return JobSpec.of(plan.steps[0], job, owner="ada", limits=limits)


@pytest.fixture
def submit(bench: Bench, spec: JobSpec) -> Callable[[], str]:
    """Submit the job; when it expires is known by then."""
    request = bench.backend.render(replace(spec, expires_at=datetime(2026, 11, 26, tzinfo=UTC)))
    return lambda: bench.backend.submit(request)


HANDLE = f"sagemaker://us-east-1/{NAME}"


def running(service: Service, **details: object) -> None:
    """Put a job of the run there that some client created."""
    service.tags[ARN] = [{"Key": "gpuplan:run", "Value": RUN}]
    service.jobs[NAME] = {
        "TrainingJobName": NAME,
        "TrainingJobArn": ARN,
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": "Training",
        **details,
    }


class TestSubmit:
    """One CreateTrainingJob an attempt."""

    def test_what_was_rendered_is_what_is_sent(self, bench: Bench, spec: JobSpec, submit: Callable[[], str]) -> None:
        assert submit() == HANDLE
        [sent] = bench.service.sent
        rendered = bench.backend.render(spec).body
        assert {key: sent[key] for key in rendered if key != "Tags"} == {
            key: value for key, value in rendered.items() if key != "Tags"
        }
        assert {"Key": "gpuplan:expires-at", "Value": "2026-11-26T00:00:00Z"} in sent["Tags"]

    @pytest.mark.parametrize("unset", ["role_arn", "bucket"])
    def test_what_is_not_known_is_refused_before_any_call(
        self, session: Played, service: Service, spec: JobSpec, aws: Aws, tmp_path: Path, unset: str
    ) -> None:
        backend = SageMakerBackend(aws.model_copy(update={unset: None}), session, tmp_path)
        with pytest.raises(UsageError, match="is not known") as caught:
            backend.submit(backend.render(spec))
        assert "gpuplan infra deploy" in caught.value.fix
        assert service.calls == []

    def test_the_same_request_again_is_the_same_job(self, bench: Bench, submit: Callable[[], str]) -> None:
        assert submit() == submit() == HANDLE
        assert len(bench.service.sent) == 1

    def test_a_name_that_another_request_has_is_refused(self, bench: Bench, submit: Callable[[], str]) -> None:
        running(bench.service)
        bench.service.tags[ARN] = [{"Key": "gpuplan:fingerprint", "Value": "0" * 64}]
        with pytest.raises(PlanRefusedError, match="created by another request") as caught:
            submit()
        assert "0000000000" in caught.value.why
        assert NAME in caught.value.fix

    @pytest.mark.parametrize("reply", [NO_ANSWER, {}, ("InternalFailure", "try again")], ids=["lost", "cut", "5xx"])
    @pytest.mark.parametrize("hidden", [0, 3])
    def test_a_job_whose_reply_was_lost_is_found_and_adopted(
        self, bench: Bench, submit: Callable[[], str], reply: Fault | dict[str, Any], hidden: int
    ) -> None:
        bench.service.after["CreateTrainingJob"] = [reply]
        bench.service.hidden = hidden
        assert submit() == HANDLE
        assert len(bench.service.sent) == 1
        assert len(bench.pauses) == hidden

    @pytest.mark.parametrize("fault", [NO_WAY, ConnectTimeoutError(endpoint_url="https://x")], ids=["dns", "connect"])
    def test_a_job_that_was_not_created_is_looked_for_long_enough_and_then_said(
        self, bench: Bench, submit: Callable[[], str], fault: Fault
    ) -> None:
        bench.service.before["CreateTrainingJob"] = [fault]
        with pytest.raises(UnreachableError, match="was not created"):
            submit()
        assert sum(bench.pauses) >= bench.backend.visibility_seconds
        assert submit() == HANDLE, "and can be created then"

    @pytest.mark.parametrize("created", [True, False])
    @pytest.mark.parametrize(
        "look",
        [NO_ANSWER, ("ThrottlingException", "Rate exceeded"), ("ExpiredTokenException", "expired")],
        ids=["no answer", "throttled", "expired"],
    )
    def test_where_it_cannot_be_found_out_the_job_may_be_billing(
        self, bench: Bench, submit: Callable[[], str], look: Fault, *, created: bool
    ) -> None:
        faults: dict[str, list[Any]] = bench.service.after if created else bench.service.before
        faults["CreateTrainingJob"] = [NO_ANSWER]
        bench.service.before["DescribeTrainingJob"] = [look]
        with pytest.raises(MayBeBillingError, match=f"whether {NAME} was created is not known") as caught:
            submit()
        assert "gpuplan resume" in caught.value.fix
        assert submit() == HANDLE
        assert len(bench.service.sent) == 1

    @pytest.mark.parametrize(
        "look", [NO_ANSWER, ("AccessDeniedException", "not authorized to perform: sagemaker:DescribeTrainingJob")]
    )
    def test_a_name_in_use_that_cannot_be_looked_at_may_be_billing(
        self, bench: Bench, submit: Callable[[], str], look: Fault
    ) -> None:
        submit()
        bench.service.before["DescribeTrainingJob"] = [look]
        with pytest.raises(MayBeBillingError):
            submit()

    def test_a_name_in_use_that_is_not_shown_yet_is_waited_for(self, bench: Bench, submit: Callable[[], str]) -> None:
        submit()
        bench.service.hidden = 4
        assert submit() == HANDLE
        bench.service.hidden = 999
        with pytest.raises(MayBeBillingError, match="does not show"):
            submit()

    @pytest.mark.parametrize("hidden", [0, 3])
    def test_a_refusal_of_a_call_that_was_repeated_may_speak_of_the_job_it_made(
        self, bench: Bench, submit: Callable[[], str], hidden: int
    ) -> None:
        # The first call's reply was lost, and the job it made uses up the quota that the second is refused for.
        bench.service.after["CreateTrainingJob"] = [("ResourceLimitExceeded", "ml.g5.xlarge is 1 Instances")]
        bench.service.retries, bench.service.hidden = 1, hidden
        assert submit() == HANDLE

    def test_a_refusal_of_a_call_that_was_repeated_is_told_once_no_job_shows(
        self, bench: Bench, submit: Callable[[], str]
    ) -> None:
        bench.service.before["CreateTrainingJob"] = [("ResourceLimitExceeded", "ml.g5.xlarge is 0 Instances")]
        bench.service.retries = 2
        with pytest.raises(CapacityError, match="0 Instances"):
            submit()
        assert sum(bench.pauses) >= bench.backend.visibility_seconds

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (("ResourceLimitExceeded", "ml.g5.xlarge for training job usage is 0 Instances"), CapacityError),
            (("AccessDeniedException", "is not authorized to perform: sagemaker:CreateTrainingJob"), CredentialsError),
            (("UnrecognizedClientException", "The security token is invalid"), CredentialsError),
            (("ThrottlingException", "Rate exceeded"), ThrottledError),
            (("ValidationException", "Could not assume role"), UsageError),
        ],
    )
    def test_a_refusal_creates_nothing_and_is_told_as_what_it_is(
        self, bench: Bench, submit: Callable[[], str], fault: Fault, error: type[GpuplanError]
    ) -> None:
        bench.service.before["CreateTrainingJob"] = [fault]
        with pytest.raises(error):
            submit()
        assert bench.service.calls.count("DescribeTrainingJob") == 1, "for a job of a client before this one"
        assert bench.service.jobs == {}


class TestPoll:
    """What SageMaker says of a job."""

    def test_a_job_that_is_not_there_does_not_exist(self, bench: Bench) -> None:
        status = bench.backend.poll(HANDLE)
        assert (status.state, status.exists) == (JobState.PENDING, False)

    def test_a_running_job_is_told_in_its_own_words_and_has_no_bill_yet(self, bench: Bench) -> None:
        running(bench.service, BillableTimeInSeconds=12)
        status = bench.backend.poll(HANDLE)
        assert (status.state, status.detail, status.exists) == (JobState.RUNNING, "Training", True)
        assert (status.billable_seconds, status.exit_code) == (None, None)

    def test_a_job_that_has_ended_has_a_bill_and_what_ended_it(self, bench: Bench) -> None:
        end = {"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxRuntimeExceeded", "BillableTimeInSeconds": 1800}
        running(bench.service, **end)
        status = bench.backend.poll(HANDLE)
        assert (status.state, status.billable_seconds) == (JobState.STOPPED, 1800)
        assert status.exit_code is ExitCode.OVER_BUDGET

    @pytest.mark.parametrize("reply", [NO_ANSWER, {}, ("ThrottlingException", "Rate exceeded")])
    def test_no_answer_is_no_state(self, bench: Bench, reply: Fault | dict[str, Any]) -> None:
        running(bench.service)
        bench.service.after["DescribeTrainingJob"] = [reply]
        with pytest.raises(UnreachableError):
            bench.backend.poll(HANDLE)

    def test_credentials_that_have_ended_are_said(self, bench: Bench) -> None:
        bench.service.before["DescribeTrainingJob"] = [("ExpiredTokenException", "expired")]
        with pytest.raises(CredentialsError):
            bench.backend.poll(HANDLE)


class TestStop:
    """A stop is over when SageMaker says so."""

    def test_a_running_job_is_stopped_and_waited_for(self, bench: Bench) -> None:
        running(bench.service)
        bench.service.stops_after = 5
        status = bench.backend.stop(HANDLE)
        assert (status.state, status.billable_seconds) == (JobState.STOPPED, 77)
        assert bench.service.calls.count("StopTrainingJob") == 1
        assert len(bench.pauses) == 4
        assert bench.backend.stop(HANDLE) == status
        assert bench.service.calls.count("StopTrainingJob") == 1, "once it has ended there is nothing to stop"

    def test_a_job_that_ends_between_the_look_and_the_call_has_ended(self, bench: Bench) -> None:
        running(bench.service)
        bench.service.ends_before_stop = True
        assert bench.backend.stop(HANDLE).state is JobState.SUCCEEDED
        assert bench.service.calls.count("StopTrainingJob") == 1

    def test_a_job_that_was_never_created_is_looked_for_and_then_stopped_for_good(self, bench: Bench) -> None:
        status = bench.backend.stop(HANDLE)
        assert (status.state, status.exists) == (JobState.STOPPED, False)
        assert sum(bench.pauses) >= bench.backend.visibility_seconds
        assert "StopTrainingJob" not in bench.service.calls

    def test_a_job_that_shows_late_is_stopped_all_the_same(self, bench: Bench) -> None:
        running(bench.service)
        bench.service.hidden = 3
        assert bench.backend.stop(HANDLE).state is JobState.STOPPED
        assert bench.service.calls.count("StopTrainingJob") == 1

    def test_another_runs_job_of_the_same_name_is_left_alone(self, bench: Bench) -> None:
        running(bench.service)
        bench.service.tags[ARN] = [{"Key": "gpuplan:run", "Value": "digits-0000000000002"}]
        status = bench.backend.stop(HANDLE)
        assert (status.state, status.exists) == (JobState.STOPPED, False)
        assert "StopTrainingJob" not in bench.service.calls

    def test_a_job_whose_tags_may_not_be_read_is_stopped_as_ours(self, bench: Bench) -> None:
        running(bench.service)
        bench.service.before["ListTags"] = [("AccessDeniedException", "not authorized to perform: sagemaker:ListTags")]
        assert bench.backend.stop(HANDLE).state is JobState.STOPPED
        assert bench.service.calls.count("StopTrainingJob") == 1

    def test_a_job_that_does_not_end_is_not_said_to_have_ended(self, bench: Bench) -> None:
        running(bench.service)
        bench.service.stops_after = 10**6
        assert bench.backend.stop(HANDLE).state is JobState.STOPPING
        assert 400 <= sum(bench.pauses) < 600, "longer than SageMaker leaves a job, and not for ever"


@pytest.mark.parametrize(("poll", "visibility"), [(0.05, 1.0), (1.0, 3.0), (20.0, 60.0), (3600.0, 60.0)])
def test_a_new_job_may_be_unknown_for_some_looks_but_for_a_minute_at_most(
    aws: Aws, tmp_path: Path, poll: float, visibility: float
) -> None:
    backend = SageMakerBackend(aws.model_copy(update={"poll_seconds": poll}), Session("us-east-1"), tmp_path)
    assert (backend.poll_seconds, backend.visibility_seconds) == (poll, visibility)


def test_files_lie_in_the_bucket_below_the_attempt_and_checkpoints_below_the_step(aws: Aws, tmp_path: Path) -> None:
    backend = SageMakerBackend(aws, Session("us-east-1"), tmp_path)
    root = f"s3://{aws.bucket}/gpuplan/runs/{RUN}/lr-find"
    assert backend.locate(HANDLE, "lr_result.json") == f"{root}/1/results/lr_result.json"
    assert backend.locate(HANDLE, "checkpoints/best.ckpt") == f"{root}/checkpoints/best.ckpt"


@pytest.mark.parametrize("override", [None, "123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer:1"])
def test_an_own_image_goes_over_the_table(aws: Aws, tmp_path: Path, spec: JobSpec, override: str | None) -> None:
    backend = SageMakerBackend(aws.model_copy(update={"image": override}), Session("us-east-1"), tmp_path)
    image = backend.render(spec).body["AlgorithmSpecification"]["TrainingImage"]
    assert image == override or (override is None and image.startswith("763104351884.dkr.ecr.us-east-1"))
