"""What a backend is: six functions, and the frozen values that go in and out of them.

The engine and the commands know backends only through this file. A dry run prints what `render` returns, and `submit`
sends exactly that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from gpuplan import backends
from gpuplan.core.errors import UsageError
from gpuplan.core.names import did_you_mean
from gpuplan_job import discover

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from gpuplan.core.errors import ExitCode
    from gpuplan.core.job_state import JobState
    from gpuplan.planning.plan import Limits, StepPlan
    from gpuplan.workload.schema import Aws
    from gpuplan_job.contract import JobInput

JobHandle = str
"""URL of a job, `local://digits-01k.../train/1`: enough for any client to find it again."""


@dataclass(frozen=True)
class JobSpec:
    """What to run: one attempt of one step, where, and for how long at most."""

    job_input: JobInput
    instance_type: str
    instances: int = 1
    spot: bool = False
    compute_capability: str | None = None
    limits: Limits | None = None
    owner: str = ""
    """Who launched the run."""
    expires_at: datetime | None = None
    """When the job must be over whatever happens; None in a plan, which has no time yet."""

    @classmethod
    def of(
        cls, step: StepPlan, job: JobInput, *, owner: str, limits: Limits | None, expires_at: datetime | None = None
    ) -> JobSpec:
        """Return what to run for a planned step; `limits` may be tighter than the plan's."""
        return cls(
            job_input=job,
            instance_type=step.instance_type,
            instances=step.instances,
            spot=step.spot,
            compute_capability=step.compute_capability,
            limits=limits,
            owner=owner,
            expires_at=expires_at,
        )

    @property
    def name(self) -> str:
        """The job's name, a function of run, step and attempt alone: asking twice names the same job."""
        return f"{self.job_input.run_id}-{self.job_input.step}-{self.job_input.attempt}"


@dataclass(frozen=True)
class Request:
    """Exactly what a backend will send, as JSON-ready data.

    The handle is known before the call, so an intent that was recorded can be looked up even if the reply was lost.
    """

    name: str
    handle: JobHandle
    body: dict[str, Any]
    learning_rate_at: tuple[str, ...] = ()
    """Where in the body of a training its learning rate stands: a plan that does not know it yet says so there."""


@dataclass(frozen=True)
class JobStatus:
    """A look at a job."""

    state: JobState
    detail: str = ""
    """The service's own word for it, for people."""
    exists: bool = True
    """False: the backend knows no such job, it was never created or has been deleted."""
    billable_seconds: int | None = None
    """What the service bills, on each instance; None where it has not said."""
    exit_code: ExitCode | None = None
    """What a failure means where the service itself says it: no capacity, the time limit; None leaves it open."""


@dataclass(frozen=True)
class LogPage:
    """New complete lines of a job's log, and the cursor that continues after them."""

    lines: tuple[str, ...]
    cursor: str


class Backend(Protocol):
    """A place to run jobs."""

    poll_seconds: float
    """How often it makes sense to look at a job."""
    visibility_seconds: float
    """How long a job that was just created may be unknown to its own service."""

    def render(self, spec: JobSpec) -> Request:
        """Return what `submit` would send. Pure: no call, no file, no credentials."""
        ...

    def submit(self, request: Request) -> JobHandle:
        """Start the job, or return the handle of the one that already has this name and request.

        Raises:
            GpuplanError: it cannot be started, or the name is taken by a different request.
        """
        ...

    def poll(self, handle: JobHandle) -> JobStatus:
        """Return the job's state now; a job that was never created is PENDING."""
        ...

    def poll_all(self, handles: Sequence[JobHandle]) -> dict[JobHandle, JobStatus]:
        """Return the states of many jobs, in fewer calls than `poll` for each where the service has a way.

        A job that could not be asked for is left out; ask for it first the next time.

        Raises:
            UnreachableError: no job's state could be learnt.
        """
        ...

    def fetch(self, handle: JobHandle, name: str) -> bytes:
        """Return a file the job wrote.

        Raises:
            FileNotFoundError: the job wrote no file of that name.
        """
        ...

    def logs(self, handle: JobHandle, cursor: str = "") -> LogPage:
        """Return the complete log lines after `cursor`; never waits."""
        ...

    def stop(self, handle: JobHandle) -> JobStatus:
        """End the job and all its processes; returns once that is confirmed or the grace has run out. Idempotent."""
        ...

    def locate(self, handle: JobHandle, name: str) -> str:
        """Return where a person finds a file of the job: a path or a URL."""
        ...


def names() -> list[str]:
    """Return the backends this installation has."""
    return discover.names(backends)


def create(name: str, home: Path, aws: Aws) -> Backend:
    """Return the backend of that name: here it keeps its files under `home`, in AWS it works as `aws` says.

    It calls nothing yet.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        module = discover.load(backends, name)
    except LookupError as error:
        raise UsageError(
            f"this installation has no backend {name!r}",
            why=did_you_mean(name, names()),
            fix="--backend local --device cpu    rehearses it on this machine, with the same number of processes",
        ) from error
    return cast("Backend", module.create(home, aws))
