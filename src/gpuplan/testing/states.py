"""A training job as the platform knows it: its request, its states over time, its clock of billed seconds.

Written by the training-job API, the executor and a test's script; read by Describe and List. No effects.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event, RLock
from typing import Any

SPOT_BILLED_FRACTION = 0.35
"""The part of its training time that an emulated spot job is billed for. AWS's varies with the spot price."""

TERMINAL = {
    "Completed": "Completed",
    "Failed": "Failed",
    "Stopped": "Stopped",
    "MaxRuntimeExceeded": "Stopped",
    "MaxWaitTimeExceeded": "Stopped",
}
"""The last secondary states, and the primary state that each ends in."""

RUNNING = ("Downloading", "Training", "Uploading")
"""The secondary states that are billed; `Stopping` is too when one of them came before it."""

_MESSAGES = {
    "Starting": "Preparing the instances for training",
    "Pending": "Waiting for capacity",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Uploading": "Uploading generated training model",
    "Stopping": "Stopping the training job",
    "Interrupted": "Instances were interrupted. Waiting for spot capacity.",
    "Restarting": "Restarting the training job",
    "Completed": "Training job completed",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    "MaxWaitTimeExceeded": "Training job exceeded MaxWaitTimeInSeconds provided",
}


@dataclass(frozen=True)
class Transition:
    """One secondary state and when it held."""

    status: str
    started_at: datetime
    ended_at: datetime | None
    message: str


@dataclass(frozen=True)
class JobView:
    """What a test may read of a job; `request` is the CreateTrainingJob body exactly as it was received."""

    name: str
    arn: str
    account: str
    region: str
    order: int
    request: dict[str, Any]
    tags: dict[str, str]
    status: str
    secondary_status: str
    transitions: tuple[Transition, ...]
    failure_reason: str
    training_seconds: int | None
    billable_seconds: int | None

    @property
    def path(self) -> tuple[str, ...]:
        """The secondary states in order."""
        return tuple(transition.status for transition in self.transitions)


@dataclass
class TrainingJob:
    """The mutable record; every change goes through `enter` or `bill`, under its lock."""

    name: str
    arn: str
    account: str
    region: str
    order: int
    request: dict[str, Any]
    held: bool
    status: str = "InProgress"
    failure_reason: str = ""
    model_uri: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    created_monotonic: float = field(default_factory=time.monotonic)
    stop_requested: Event = field(default_factory=Event)
    lock: RLock = field(default_factory=RLock)
    _billed: int | None = None

    def __post_init__(self) -> None:
        self.enter("Starting")

    @property
    def secondary(self) -> str:
        """The current secondary state."""
        return self.transitions[-1].status

    @property
    def ended(self) -> bool:
        """Whether the job is in a state it will not leave."""
        return self.status in {"Completed", "Failed", "Stopped"}

    @property
    def started_at(self) -> datetime | None:
        """When billing began: with the first download phase, not with the wait for machines."""
        return next((each.started_at for each in self.transitions if each.status in RUNNING), None)

    @property
    def ended_at(self) -> datetime | None:
        """When the job ended."""
        return self.transitions[-1].started_at if self.ended else None

    @property
    def modified_at(self) -> datetime:
        """When the job last changed its state."""
        return self.transitions[-1].started_at

    def enter(self, secondary: str, reason: str = "") -> None:
        """Go to a secondary state, and with a last one, to its primary state. A job that ended stays as it is."""
        with self.lock:
            if self.ended:
                return
            now = datetime.now(UTC)
            if self.transitions:
                last = self.transitions[-1]
                self.transitions[-1] = Transition(last.status, last.started_at, now, last.message)
            self.transitions.append(Transition(secondary, now, None, reason or _MESSAGES.get(secondary, secondary)))
            self.status = TERMINAL.get(secondary, "Stopping" if self.status == "Stopping" else self.status)
            if secondary == "Stopping":
                self.status = "Stopping"
            if secondary == "Failed":
                self.failure_reason = reason

    def bill(self, seconds: int) -> None:
        """Let the job have trained so many seconds, whatever the clock says."""
        with self.lock:
            self._billed = seconds

    def training_seconds(self) -> int:
        """Return the seconds on machines so far, without the waits for spot capacity."""
        with self.lock:
            if self._billed is not None:
                return self._billed
            total, running, now = timedelta(), False, datetime.now(UTC)
            for each in self.transitions:
                running = each.status in RUNNING or (running and each.status == "Stopping")
                if running:
                    total += (each.ended_at or now) - each.started_at
            return max(1, round(total.total_seconds())) if total else 0

    def billable_seconds(self) -> int:
        """Return what is billed of `training_seconds`: all of it, or with spot a fraction."""
        spot = bool(self.request.get("EnableManagedSpotTraining"))
        return round(self.training_seconds() * (SPOT_BILLED_FRACTION if spot else 1.0))

    def view(self) -> JobView:
        """Return the job as it is now."""
        with self.lock:
            return JobView(
                name=self.name,
                arn=self.arn,
                account=self.account,
                region=self.region,
                order=self.order,
                request=json.loads(json.dumps(self.request)),
                tags=dict(self.tags),
                status=self.status,
                secondary_status=self.secondary,
                transitions=tuple(self.transitions),
                failure_reason=self.failure_reason,
                training_seconds=self.training_seconds() if self.ended else None,
                billable_seconds=self.billable_seconds() if self.ended else None,
            )
