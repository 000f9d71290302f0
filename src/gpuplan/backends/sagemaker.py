"""Jobs as SageMaker training jobs: one CreateTrainingJob an attempt, whose name is the key that makes it happen once.

Nothing about a job is kept on this machine: any client that can reach the account finds it by its handle. What the
request looks like is `aws.training_job`'s business, where things lie `aws.layout`'s.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from gpuplan.aws import code, images, job_list, layout, one_job, request_check, states, training_job
from gpuplan.aws.errors import AccessDeniedError
from gpuplan.aws.logs import Logs
from gpuplan.aws.results import Results
from gpuplan.aws.s3 import Bucket
from gpuplan.aws.session import Session
from gpuplan.backends.base import JobHandle, JobSpec, JobStatus, LogPage, Request
from gpuplan.core.errors import (
    CredentialsError,
    GpuplanError,
    MayBeBillingError,
    PlanRefusedError,
    ThrottledError,
    UnreachableError,
    UsageError,
)
from gpuplan.core.failpoint import failpoint
from gpuplan.core.frozen import Unknown
from gpuplan.core.job_state import JobState
from gpuplan.own_code import shelf
from gpuplan.planning.plan import Limits
from gpuplan_job import data

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gpuplan.workload.schema import Aws

_NO_ROLE = "no role given: --role, or gpuplan infra deploy"
_STOP_SECONDS = 420.0
"""SageMaker leaves a job 120 s between SIGTERM and SIGKILL, then uploads what it wrote."""
_LOOKS = 3
_LEAST_VISIBILITY, _MOST_VISIBILITY = 1.0, 60.0
_LIMITS_OF_NO_PLAN = Limits(max_runtime_seconds=24 * 3600, volume_gb=30)
_GONE = JobStatus(JobState.PENDING, "SageMaker shows no such job", exists=False)


def create(home: Path, aws: Aws) -> SageMakerBackend:
    """Return the backend that works as `aws` says, with wheels and users' code under `home`; it calls nothing yet."""
    return SageMakerBackend(aws, Session(aws.region, aws.profile), home / "wheels")


class SageMakerBackend:
    """Runs jobs on SageMaker."""

    def __init__(self, aws: Aws, session: Session, wheels: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self.poll_seconds = aws.poll_seconds
        self.visibility_seconds = min(_MOST_VISIBILITY, max(_LEAST_VISIBILITY, _LOOKS * aws.poll_seconds))
        self._aws = aws
        self._session = session
        self._wheels = wheels
        self._sleep = sleep

    def render(self, spec: JobSpec) -> Request:
        """Return the CreateTrainingJob request.

        Raises:
            UsageError: SageMaker would refuse it.
        """
        job = spec.job_input
        site = training_job.Site(
            bucket=self._aws.bucket,
            role_arn=self._aws.role_arn or Unknown(unknown=_NO_ROLE),
            image=self._image(spec.compute_capability),
            code=layout.code_folder(self._aws.prefix, code.digest_for(job, wheels=self._aws.wheels)),
            network_isolation=self._aws.network_isolation,
        )
        machine = training_job.Machine(spec.instance_type, spec.instances, spec.spot, spec.limits or _LIMITS_OF_NO_PLAN)
        place = layout.attempt_place(self._aws.prefix, job.run_id, job.step, job.attempt)
        body = training_job.request(spec.name, job, machine, site, place, data.s3_location(job.workload.data))
        body["Tags"] = training_job.tags(job, body, spec.owner, spec.expires_at)
        faults = request_check.faults(body)
        if faults:
            raise UsageError(
                f"SageMaker would refuse the request of {job.step}: {faults[0]}", why="; ".join(faults[1:])
            )
        handle = layout.handle(self._aws.region, spec.name)
        return Request(spec.name, handle, body, training_job.LEARNING_RATE_AT)

    def submit(self, request: Request) -> JobHandle:
        """Upload the code if need be and create the job, or adopt the one that this very request created.

        Raises:
            UsageError: role, bucket or image are not known, or AWS refuses a value.
            CredentialsError, CapacityError: AWS refuses.
            PlanRefusedError: the name is taken by another request.
            UnreachableError: AWS does not answer, and shows no such job.
            MayBeBillingError: AWS does not answer, and whether the job was created cannot be found out.
        """
        missing = list(request_check.unknowns(request.body))
        if missing:
            path, reason = missing[0]
            raise UsageError(
                f"{path} is not known: {reason}", fix="gpuplan infra deploy    or give --role and --bucket"
            )
        self.upload_code(request)
        failpoint("aws/after-code-upload")
        client = self._session.client("sagemaker")
        try:
            with self._session.calling("sagemaker:CreateTrainingJob", passes=("ResourceInUse",)):
                reply = client.create_training_job(**request.body)
        except GpuplanError as error:
            return self._after_error(request, error)
        except client.exceptions.ResourceInUse as error:
            # Our own earlier call whose reply was lost, or botocore's retry of it.
            if self._found(request, str(error)):
                return request.handle
            raise _unsure(request, "SageMaker has the name, but does not show the job", str(error)) from error
        if not reply.get("TrainingJobArn"):  # a cut or garbled reply reads as an empty one
            return self._after_error(request, UnreachableError("SageMaker's reply could not be read"))
        return request.handle

    def upload_code(self, request: Request) -> None:
        """Put payload, wheels and the user's code where the request's code channel looks, unless they are there."""
        job = training_job.told(request.body)
        wheels = self._wheels if self._aws.wheels else None
        taken = partial(shelf.taken, self._wheels.parent)
        code.upload_for(job, wheels=wheels, taken=taken, bucket=self._bucket(), prefix=self._aws.prefix)

    def poll(self, handle: JobHandle) -> JobStatus:
        """Return what SageMaker says of the job."""
        job = one_job.describe(self._session, layout.job_name(handle))
        if job is None:
            return _GONE
        state = states.job_state(job["TrainingJobStatus"], job.get("SecondaryStatus", ""))
        return JobStatus(
            state,
            states.detail(job),
            billable_seconds=job.get("BillableTimeInSeconds") if state.terminal else None,
            exit_code=states.exit_code(job) if state.terminal else None,
        )

    def poll_all(self, handles: Sequence[JobHandle]) -> dict[JobHandle, JobStatus]:
        """Return the states of many jobs: those in progress at a call a hundred, the others at a call each."""
        try:
            listed = job_list.in_progress(self._session, [layout.job_name(handle) for handle in handles])
        except AccessDeniedError:
            listed = {}  # who may not list may still describe
        found: dict[JobHandle, JobStatus] = {}
        rest: list[JobHandle] = []
        for handle in handles:
            summary = listed.get(layout.job_name(handle))
            if summary is None:
                rest.append(handle)
            else:
                state = states.job_state(summary["TrainingJobStatus"], summary["SecondaryStatus"])
                found[handle] = JobStatus(state, states.detail(summary))
        for handle in rest:
            try:
                found[handle] = self.poll(handle)
            except UnreachableError:
                if not found:
                    raise
                break  # more calls would only meet the same throttling
        return found

    def fetch(self, handle: JobHandle, name: str) -> bytes:
        """Return a result document of the job, as it was published once."""
        place = layout.place_of(self._aws.prefix, layout.job_name(handle))
        return Results(self._bucket(), place).document(name)

    def logs(self, handle: JobHandle, cursor: str = "") -> LogPage:
        """Return new lines of all its hosts' CloudWatch streams."""
        lines, cursor = Logs(self._session).page(layout.job_name(handle), cursor)
        return LogPage(tuple(lines), cursor)

    def stop(self, handle: JobHandle) -> JobStatus:
        """Stop the job and wait until SageMaker says that it has ended."""
        name = layout.job_name(handle)
        status = self._wait(handle, lambda status: status.exists, self.visibility_seconds)
        if not status.exists:
            return replace(status, state=JobState.STOPPED, detail="never created")
        if not status.state.terminal and not one_job.is_of_its_run(self._session, name):
            return JobStatus(JobState.STOPPED, "never created: another's job has the name", exists=False)
        if not status.state.terminal:
            client = self._session.client("sagemaker")
            try:
                with self._session.calling("sagemaker:StopTrainingJob", passes=("ValidationException",)):
                    client.stop_training_job(TrainingJobName=name)
            except client.exceptions.ClientError:
                pass  # it has ended between the look and the call
            failpoint("aws/after-stop")
            status = self._wait(handle, lambda status: status.state.terminal, _STOP_SECONDS)
        return status

    def locate(self, handle: JobHandle, name: str) -> str:
        """Return the S3 URL of a file of the job."""
        place = layout.place_of(self._aws.prefix, layout.job_name(handle))
        return f"s3://{self._aws.bucket}/{place.file(name)}"

    def _image(self, compute_capability: str | None) -> str | Unknown:
        found = images.image(self._aws.region, compute_capability, self._aws.image)
        return found if isinstance(found, Unknown) else found.uri

    def _bucket(self) -> Bucket:
        if self._aws.bucket is None:
            raise UsageError(training_job.NO_BUCKET, fix="gpuplan infra deploy    or give --bucket")
        account = self._aws.role_arn.split(":")[4] if self._aws.role_arn else None
        return Bucket(self._session, self._aws.bucket, account)

    def _adopted(self, request: Request) -> bool:
        """Tell whether the job exists and is ours.

        Raises:
            PlanRefusedError: it exists and was created by another request.
        """
        job = one_job.describe(self._session, request.name)
        if job is None:
            return False
        found = one_job.tags(self._session, job).get(training_job.FINGERPRINT_TAG)
        wanted = {tag["Key"]: tag["Value"] for tag in request.body["Tags"]}[training_job.FINGERPRINT_TAG]
        if found != wanted:
            raise PlanRefusedError(
                f"a training job {request.name} exists and was created by another request",
                why=f"its fingerprint is {str(found)[:10]}, this request's is {wanted[:10]}",
                fix=f"aws sagemaker describe-training-job --training-job-name {request.name}",
            )
        return True

    def _after_error(self, request: Request, error: GpuplanError) -> JobHandle:
        """Find out whether the job exists although the create call was answered with an error, or not at all.

        Raises:
            GpuplanError: it does not, for the reason that `error` gives.
        """
        if _may_have_been_made(error):
            found = self._found(request, error.what)
        else:
            found = False
            with suppress(CredentialsError, UnreachableError):  # this call created nothing; a client before may have
                found = self._adopted(request)
        if found:
            return request.handle
        if isinstance(error, UnreachableError):
            what = f"{request.name} was not created: {error.what}"
            raise type(error)(what, why=error.why, fix=error.fix) from error
        raise error

    def _found(self, request: Request, why: str) -> bool:
        """Tell whether the request's job exists; one that is not shown yet is waited for.

        Raises:
            PlanRefusedError: it exists and was created by another request.
            MayBeBillingError: that cannot be found out.
        """
        try:
            self._wait(request.handle, lambda status: status.exists, self.visibility_seconds)
            return self._adopted(request)
        except (CredentialsError, UnreachableError) as error:
            raise _unsure(request, error.what, why) from error

    def _wait(self, handle: JobHandle, done: Callable[[JobStatus], bool], seconds: float) -> JobStatus:
        """Look at a job until `done` says so or the time is over; the time is counted in pauses."""
        pause = min(self.poll_seconds, 5.0)
        left = seconds
        while True:
            status = self.poll(handle)
            if done(status) or left <= 0:
                return status
            self._sleep(pause)
            left -= pause


def _unsure(request: Request, what: str, why: str) -> MayBeBillingError:
    return MayBeBillingError(
        f"whether {request.name} was created is not known: {what}",
        why=f"{why}; its intent is recorded, and if it runs, its own time limit ends it",
        fix="gpuplan resume    once AWS answers again: it adopts the job or creates it, never twice",
    )


def _may_have_been_made(error: GpuplanError) -> bool:
    """Tell whether a create call may have created its job, whatever its last answer was.

    botocore repeats a call whose reply was lost, and the answer to the repetition tells nothing of the call before: a
    refusal for the quota, say, that the job itself uses up. Of a refusal that was cut only the HTTP status is left.
    """
    if isinstance(error, UnreachableError) and not isinstance(error, ThrottledError):
        return True
    response = getattr(error.__cause__, "response", {})
    cut = str(response.get("Error", {}).get("Code", "")).isdigit()
    return cut or bool(response.get("ResponseMetadata", {}).get("RetryAttempts"))
