"""SageMaker's API of training jobs: create, describe, list, stop, tags. Answered before moto sees the call.

Called by the HTTP front from many threads. It keeps the records and hands new jobs to whoever runs them; it runs none.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING, Any

from gpuplan.testing import describe, model_rules, request_rules
from gpuplan.testing.errors import ApiError, EmulatorError, invalid
from gpuplan.testing.job_faults import CAPACITY_REASON
from gpuplan.testing.paging import page
from gpuplan.testing.states import TrainingJob

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan.testing.job_faults import JobFaults
    from gpuplan.testing.quotas import Quotas
    from gpuplan.testing.request_rules import Estate
    from gpuplan.testing.wire import Incoming

RETIRED = ("ml.p3.2xlarge", "ml.p3.8xlarge", "ml.p3.16xlarge")
"""Types that AWS no longer offers, though its enums still name them."""

_INPUTS = {
    "CreateTrainingJob": "CreateTrainingJobRequest",
    "DescribeTrainingJob": "DescribeTrainingJobRequest",
    "ListTrainingJobs": "ListTrainingJobsRequest",
    "StopTrainingJob": "StopTrainingJobRequest",
    "AddTags": "AddTagsInput",
    "ListTags": "ListTagsInput",
    "DeleteTags": "DeleteTagsInput",
}
_MAX_TAGS = 50
_JOBS_A_PAGE = 10


@dataclass
class TrainingJobs:
    """Every training job of every account and region of one emulator."""

    faults: JobFaults
    quotas: Quotas
    estate: Callable[[Incoming], Estate]
    start: Callable[[TrainingJob], None]
    hold: Callable[[], bool]
    not_offered: set[str] = field(default_factory=lambda: set(RETIRED))
    _jobs: dict[tuple[str, str, str], TrainingJob] = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock)

    def handles(self, call: Incoming) -> bool:
        """Tell whether a call is about training jobs."""
        if call.service != "sagemaker" or call.operation not in _INPUTS:
            return False
        return "Tags" not in call.operation or b":training-job/" in call.body

    def answer(self, call: Incoming) -> dict[str, Any]:
        """Carry a call out and return its result document; ApiError is AWS's refusal."""
        body = json.loads(call.body or b"{}")
        model_rules.check(_INPUTS[call.operation], body)
        operations: dict[str, Callable[[Incoming, dict[str, Any]], dict[str, Any]]] = {
            "CreateTrainingJob": self._create,
            "DescribeTrainingJob": self._describe,
            "ListTrainingJobs": self._list,
            "StopTrainingJob": self._stop,
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": self._delete_tags,
        }
        return operations[call.operation](call, body)

    def all(self) -> list[TrainingJob]:
        """Return every job in the order of creation."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            self._settle(job)
        return jobs

    def named(self, name: str) -> TrainingJob:
        """Return a job by its name, whatever its region; EmulatorError if there is none."""
        for job in self.all():
            if job.name == name:
                return job
        raise EmulatorError(f"no training job is named {name!r}", why=f"there are: {[job.name for job in self.all()]}")

    def _create(self, call: Incoming, body: dict[str, Any]) -> dict[str, Any]:
        request_rules.check_request(body)
        resources = body["ResourceConfig"]
        if resources["InstanceType"] in self.not_offered:
            raise ApiError(
                "ResourceLimitExceeded",
                f"The requested resource training-job/{resources['InstanceType']} is not available in this region",
            )
        request_rules.check_estate(body, call.region, self.estate(call))
        name = body["TrainingJobName"]
        arn = f"arn:aws:sagemaker:{call.region}:{call.account}:training-job/{name}"
        with self._lock:
            if (call.account, call.region, name) in self._jobs:
                raise ApiError(
                    "ResourceInUse",
                    "Training job names must be unique within an AWS account and region, and a training job with this "
                    f"name already exists ({arn})",
                )
            self._check_quota(call, body)
            job = TrainingJob(name, arn, call.account, call.region, len(self._jobs), body, held=self.hold())
            job.tags = {tag["Key"]: tag["Value"] for tag in body.get("Tags", [])}
            self._jobs[call.account, call.region, name] = job
        if self.faults.takes_capacity(resources["InstanceType"]):
            job.enter("Failed", CAPACITY_REASON)
        elif not job.held:
            self.start(job)
        return {"TrainingJobArn": arn}

    def _check_quota(self, call: Incoming, body: dict[str, Any]) -> None:
        spot, wanted = bool(body.get("EnableManagedSpotTraining")), body["ResourceConfig"]
        used = sum(
            job.request["ResourceConfig"]["InstanceCount"]
            for job in self._jobs.values()
            if not job.ended
            and (job.account, job.region) == (call.account, call.region)
            and job.request["ResourceConfig"]["InstanceType"] == wanted["InstanceType"]
            and bool(job.request.get("EnableManagedSpotTraining")) == spot
        )
        self.quotas.check(wanted["InstanceType"], spot=spot, requested=wanted["InstanceCount"], used=used)

    def _describe(self, call: Incoming, body: dict[str, Any]) -> dict[str, Any]:
        job = self._visible(call, body["TrainingJobName"])
        return describe.describe(job, self.faults.shows(job.name))

    def _list(self, call: Incoming, body: dict[str, Any]) -> dict[str, Any]:
        visible = [
            job
            for job in self.all()
            if (job.account, job.region) == (call.account, call.region)
            and not self.faults.hides(job.name, job.created_monotonic)
        ]
        jobs = describe.chosen(visible, body)
        summaries = [(job.status, describe.summary(job, self.faults.shows(job.name))) for job in jobs]
        cut = page("TrainingJobSummaries", summaries, body, _JOBS_A_PAGE)
        # AWS cuts pages first and filters them by status then: one may be short or empty, and others follow.
        status = body.get("StatusEquals")
        return cut | {
            "TrainingJobSummaries": [shown for real, shown in cut["TrainingJobSummaries"] if status in {None, real}]
        }

    def _stop(self, call: Incoming, body: dict[str, Any]) -> dict[str, Any]:
        job = self._visible(call, body["TrainingJobName"])
        with job.lock:
            if job.ended:
                raise invalid(f"The request was rejected because the training job is in status {job.status}.")
            if job.status != "Stopping":
                job.enter("Stopping")
        job.stop_requested.set()
        return {}

    def _add_tags(self, call: Incoming, body: dict[str, Any]) -> dict[str, Any]:
        request_rules.check_tags(body["Tags"])
        job = self._tagged(call, body)
        with job.lock:
            tags = job.tags | {tag["Key"]: tag["Value"] for tag in body["Tags"]}
            if len(tags) > _MAX_TAGS:
                raise ApiError("ResourceLimitExceeded", f"A resource can have at most {_MAX_TAGS} tags.")
            job.tags = tags
        return {"Tags": _tag_list(tags)}

    def _list_tags(self, call: Incoming, body: dict[str, Any]) -> dict[str, Any]:
        tags = _tag_list(self._tagged(call, body).tags)
        return page("Tags", tags, body, _MAX_TAGS)

    def _delete_tags(self, call: Incoming, body: dict[str, Any]) -> dict[str, Any]:
        job = self._tagged(call, body)
        with job.lock:
            job.tags = {key: value for key, value in job.tags.items() if key not in body["TagKeys"]}
        return {}

    def _tagged(self, call: Incoming, body: dict[str, Any]) -> TrainingJob:
        return self._visible(call, body["ResourceArn"].rpartition("/")[2])

    def _visible(self, call: Incoming, name: str) -> TrainingJob:
        with self._lock:
            job = self._jobs.get((call.account, call.region, name))
        if job is None or self.faults.hides(name, job.created_monotonic):
            raise invalid("Requested resource not found.")
        self._settle(job)
        return job

    def _settle(self, job: TrainingJob) -> None:
        """Let a job that no process runs stop by itself, when its time in Stopping is over."""
        with job.lock:
            if job.held and job.secondary == "Stopping":
                began = job.transitions[-1].started_at.timestamp()
                if time.time() - began >= self.faults.stopping_seconds(job.name):
                    job.enter("Stopped")


def _tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
