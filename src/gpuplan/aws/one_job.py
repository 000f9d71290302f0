"""One training job as SageMaker shows it: its description, its tags, whose it is. Read-only.

Called by the SageMaker backend; lists of jobs are `job_list`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan.aws import layout, training_job
from gpuplan.aws.errors import AccessDeniedError, part
from gpuplan.core.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpuplan.aws.session import Session


def describe(session: Session, name: str) -> dict[str, Any] | None:
    """Return what SageMaker says of a job; None if it shows none of that name.

    Raises:
        UnreachableError: no answer, or one that cannot be read.
        CredentialsError: `sagemaker:DescribeTrainingJob` is not allowed.
    """
    client = session.client("sagemaker")
    try:
        with session.calling("sagemaker:DescribeTrainingJob", passes=("ValidationException", "ResourceNotFound")):
            job: dict[str, Any] = client.describe_training_job(TrainingJobName=name)
    except client.exceptions.ClientError:  # "Requested resource not found."
        return None
    if "TrainingJobStatus" not in job:
        raise UnreachableError(f"SageMaker's description of {name} could not be read")
    return job


def tags(session: Session, job: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a described job.

    Raises:
        AccessDeniedError: `sagemaker:ListTags` is not allowed.
        GpuplanError: as `errors.calling`.
    """
    found: dict[str, str] = {}
    pages = session.client("sagemaker").get_paginator("list_tags")
    with session.calling("sagemaker:ListTags"):
        for page in pages.paginate(ResourceArn=part(job, "TrainingJobArn")):
            found |= {tag["Key"]: tag["Value"] for tag in part(page, "Tags")}
    return found


def is_of_its_run(session: Session, name: str) -> bool:
    """Tell whether the job of a name is of the run in it, and not another's; where tags may not be read, it counts as.

    Raises:
        GpuplanError: as `errors.calling`.
    """
    job = describe(session, name)
    try:
        return job is None or tags(session, job).get(training_job.RUN_TAG) == layout.run_id(name)
    except AccessDeniedError:
        return True
