"""Which training jobs are in progress: one ListTrainingJobs call shows up to a hundred of them.

Called by the SageMaker backend when it is asked for many jobs at once. A summary has no FailureReason and no billed
time, so what has ended is the caller's to describe. Read-only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    from gpuplan.aws.session import Session

_PAGE = 100
_WORTH = 4
"""Jobs that must still be missing for each page read before another is: describing fewer is as cheap."""


def in_progress(session: Session, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the summaries of those of the named jobs that the newest pages show as in progress.

    A job that is not among them may have ended, be stopping, not exist, or be older than the pages that were worth
    reading: SageMaker cuts the list of all jobs into pages before it filters by status, so a page may be short or empty
    and others follow. For n names it reads at most n / 4 + 1 pages, and none for a single name.

    Raises:
        AccessDeniedError: `sagemaker:ListTrainingJobs` is not allowed.
        GpuplanError: as `errors.calling`.
    """
    wanted = set(names)
    found: dict[str, dict[str, Any]] = {}
    if len(wanted) <= 1:
        return found
    client = session.client("sagemaker")
    query = {"StatusEquals": "InProgress", "SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": _PAGE}
    pages = 0
    while len(wanted) - len(found) >= _WORTH * pages:
        with session.calling("sagemaker:ListTrainingJobs"):
            reply = client.list_training_jobs(**query)
        pages += 1
        for summary in reply.get("TrainingJobSummaries", []):
            # The request's filter is not proof: a job may end between filtering and writing the summary.
            if summary.get("TrainingJobStatus") == "InProgress" and summary.get("SecondaryStatus"):
                name = summary.get("TrainingJobName")
                if name in wanted:
                    found[name] = summary
        token = reply.get("NextToken")
        if not token or len(found) == len(wanted):
            break
        query["NextToken"] = token
    return found
