"""The events of a run: everything that was decided or seen, in order, and enough to rebuild the record from nothing.

Written by the engine and by `cancel`, read by `store.record`. An event is never changed; a new kind goes to the end.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.core.job_state import JobState
from gpuplan.planning.advice.critical_batch import CriticalBatch
from gpuplan.planning.memory.estimate import MemoryEstimate
from gpuplan.planning.money.cost import Cost
from gpuplan.planning.plan import LaunchPlan
from gpuplan.planning.speed.throughput import Hours
from gpuplan_job.contract import Decision, FailureKind


class OfAttempt(Frozen):
    """Base of the events that speak of one attempt of one step."""

    step: str
    attempt: int


class Planned(Frozen):
    """The run exists: its plan as agreed."""

    kind: Literal["planned"] = "planned"
    plan: LaunchPlan
    owner: str = ""
    """Who launched it."""


class Submitting(OfAttempt):
    """Intent, durable before any call that creates a job."""

    kind: Literal["submitting"] = "submitting"
    job_name: str
    handle: str
    request_sha256: str
    learning_rate: float | None = None
    max_runtime_seconds: int | None = None
    """The limit sent, where it is tighter than the plan's or equal; None where none is sent."""
    expires_at: datetime | None = None


class Submitted(OfAttempt):
    """The call was answered: the job exists."""

    kind: Literal["submitted"] = "submitted"


class Observed(OfAttempt):
    """The job's state changed."""

    kind: Literal["observed"] = "observed"
    state: JobState
    detail: str = ""
    cost_usd: Decimal | Unknown | None = None
    """What the attempt cost; set where the state is terminal."""
    billable_seconds: int | None = None
    """What the service said it bills on each instance; None where the cost is from this client's clock."""


class Measured(OfAttempt):
    """lr-find is done; its verified result, whole, so that any rule can be applied to it again."""

    kind: Literal["measured"] = "measured"
    result: dict[str, Any]


class Decided(Frozen):
    """What the rule and the transfer policy made of the measurement."""

    kind: Literal["decided"] = "decided"
    decision: Decision


class Replanned(Frozen):
    """The training's estimates with what lr-find measured."""

    kind: Literal["replanned"] = "replanned"
    time_hours: Hours | Unknown
    cost_usd: Cost | Unknown
    memory: MemoryEstimate | Unknown | None = None
    """None in records of versions that did not measure it."""


class Trained(OfAttempt):
    """The training is done; its verified result."""

    kind: Literal["trained"] = "trained"
    result: dict[str, Any]


class Cause(Frozen):
    """What a job itself said of its failure."""

    kind: FailureKind
    rank: int | None = None
    """The rank that failed first; None where none is to blame."""
    exit_code: int | None = None
    """What that rank's process ended with, where it ended by itself."""
    signal: str = ""
    """The signal that ended it."""
    where: str = ""
    """The line of the user's own code that it came from."""
    last_lines: tuple[str, ...] = ()
    """What that rank printed last, oldest first."""


class Failed(OfAttempt):
    """A step ended without a usable result; a later attempt may follow."""

    kind: Literal["failed"] = "failed"
    exit_code: int
    message: str
    why: str = ""
    fix: str = ""
    cause: Cause | None = None
    """None where the job left no account of it, or did not fail itself."""


class CancelRequested(Frozen):
    """Someone asked for the end of the run: nothing new may be submitted after this."""

    kind: Literal["cancel-requested"] = "cancel-requested"


class Cancelled(Frozen):
    """Every job of the run is confirmed as stopped."""

    kind: Literal["cancelled"] = "cancelled"


class Resumed(Frozen):
    """A client took the run up again; a cancel or a failure before this no longer holds it back."""

    kind: Literal["resumed"] = "resumed"


class Advised(Frozen):
    """Whether more GPUs would pay, by what lr-find measured."""

    kind: Literal["advised"] = "advised"
    critical_batch: CriticalBatch | Unknown


class BatchFound(OfAttempt):
    """find-batch is done; its verified result, whole."""

    kind: Literal["batch-found"] = "batch-found"
    result: dict[str, Any]


class PlannedAgain(Frozen):
    """The run's plan at the batch that find-batch found, in force from here on: the same steps, the rest anew."""

    kind: Literal["planned-again"] = "planned-again"
    plan: LaunchPlan


Event = Annotated[
    Planned
    | Submitting
    | Submitted
    | Observed
    | Measured
    | Decided
    | Replanned
    | Trained
    | Failed
    | CancelRequested
    | Cancelled
    | Resumed
    | Advised
    | BatchFound
    | PlannedAgain,
    Field(discriminator="kind"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class Stored(Frozen):
    """An event with its place and time in the log."""

    seq: int
    at: datetime
    event: Event
