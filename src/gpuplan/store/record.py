"""The record of a run: a pure fold of its events, rebuildable from them alone.

The engine decides from it, reports print it. It holds nothing the events do not.
"""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from gpuplan.core.errors import ExitCode
from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.core.job_state import JobState
from gpuplan.planning.advice.critical_batch import CriticalBatch
from gpuplan.planning.plan import LaunchPlan
from gpuplan.store import events as ev
from gpuplan_job.contract import BatchResult, Decision, LrResult, TrainResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpuplan.planning.warm_up import WarmUpPlan

RunState = Literal["planned", "running", "succeeded", "failed", "cancelling", "cancelled"]
_RESULTS = {"measured": "lr_result", "trained": "train_result", "batch-found": "batch_result"}
"""Where the record keeps the result that an event brings."""


class Attempt(Frozen):
    """One try at a step."""

    number: int
    job_name: str
    handle: str
    submitted: bool = False
    """The create call was answered; False leaves open whether the job exists."""
    state: JobState = JobState.PENDING
    started_at: datetime
    ended_at: datetime | None = None
    cost_usd: Decimal | Unknown | None = None
    learning_rate: float | None = None
    billable_seconds: int | None = None
    max_runtime_seconds: int | None = None
    expires_at: datetime | None = None
    running_since: datetime | None = None
    """When it was first seen running, the start of what is billed."""
    failed: bool = False
    """It gave no usable result, whatever the job itself says; going on means another attempt."""


class StepRecord(Frozen):
    """What became of one planned step."""

    name: str
    attempts: tuple[Attempt, ...] = ()
    done: bool = False
    """Its result was fetched and verified."""

    @property
    def last(self) -> Attempt | None:
        """The newest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def state(self) -> str:
        """The step in one word: `waiting`, a job state, or `verifying` while a finished job's result is not in."""
        if self.last is None:
            return "waiting"
        if self.last.failed and not self.done:
            return JobState.FAILED.value
        if self.last.state is JobState.SUCCEEDED and not self.done:
            return "verifying"
        return self.last.state.value


class RunRecord(Frozen):
    """Everything known of a run."""

    run_id: str
    plan: LaunchPlan
    """The plan in force: the one agreed on, or the one that was made again at the batch that find-batch found."""
    agreed_plan_id: str
    """Of the plan that was agreed on when the run was created."""
    owner: str
    created_at: datetime
    state: RunState
    steps: tuple[StepRecord, ...]
    batch_result: dict[str, Any] | None = None
    lr_result: dict[str, Any] | None = None
    decision: Decision | None = None
    replanned: ev.Replanned | None = None
    critical_batch: CriticalBatch | Unknown | None = None
    """Whether more GPUs would pay; None before lr-find has measured it."""
    train_result: dict[str, Any] | None = None
    failure: ev.Failed | None = None

    def step(self, name: str) -> StepRecord:
        """Return the record of a planned step."""
        return next(step for step in self.steps if step.name == name)

    def live_handles(self) -> list[str]:
        """Return the handles of all jobs that may live: intended or submitted, and not known to have ended."""
        attempts = (attempt for step in self.steps for attempt in step.attempts)
        return [attempt.handle for attempt in attempts if not attempt.state.terminal]

    def batch_found(self) -> BatchResult | None:
        """Return find-batch's result, None before there is one."""
        return None if self.batch_result is None else BatchResult.from_json(json.dumps(self.batch_result))

    def measured(self) -> LrResult | None:
        """Return lr-find's result, None before there is one."""
        return None if self.lr_result is None else LrResult.from_json(json.dumps(self.lr_result))

    def trained(self) -> TrainResult | None:
        """Return the training's result, None before there is one."""
        return None if self.train_result is None else TrainResult.from_json(json.dumps(self.train_result))

    @property
    def warmup(self) -> WarmUpPlan | None:
        """The training's warm-up; None before there is a learning rate."""
        planned, decision = self.plan.lr.warmup, self.decision
        if planned is None or self.plan.lr.learning_rate is not None:
            return planned
        return planned.for_lr(decision.multiplier) if decision and decision.multiplier else None

    @property
    def exit_code(self) -> ExitCode | None:
        """The exit code the run stands for; None while it is open."""
        if self.state == "succeeded":
            return ExitCode.OK
        if self.state == "cancelled":
            return ExitCode.INTERRUPTED
        return ExitCode(self.failure.exit_code) if self.state == "failed" and self.failure else None


def fold(run_id: str, stored: Iterable[ev.Stored]) -> RunRecord:
    """Return the record that a run's events add up to.

    Raises:
        ValueError: the log is empty, does not begin with its plan, or has two.
    """
    builder: _Builder | None = None
    for item in stored:
        if builder is None:
            builder = _Builder(run_id, item)
        else:
            builder.apply(item)
    if builder is None:
        raise ValueError(f"{run_id}: the event log is empty")
    return builder.record()


class _Builder:
    """The fold's accumulator: mutable inside one call of `fold`, never seen outside."""

    def __init__(self, run_id: str, first: ev.Stored) -> None:
        if not isinstance(first.event, ev.Planned):
            raise ValueError(f"{run_id}: the event log begins with {first.event.kind!r}, not with its plan")  # noqa: TRY004 - a damaged log is a bad value, not a bad type
        self._run_id = run_id
        self._created_at = first.at
        self._plan = first.event.plan
        self._agreed = first.event.plan.plan_id
        self._owner = first.event.owner
        self._attempts: dict[str, list[Attempt]] = {step.name: [] for step in self._plan.steps}
        self._done: set[str] = set()
        self._state: RunState = "planned"
        self._values: dict[str, Any] = {}

    def apply(self, item: ev.Stored) -> None:
        """Take in one event."""
        self._apply_to_step(item.event, item.at)
        self._apply_to_run(item)
        self._apply_to_plan(item)
        if self._complete() and self._state not in {"failed", "cancelled"}:
            self._state = "succeeded"

    def _apply_to_step(self, event: ev.Event, at: datetime) -> None:
        match event:
            case ev.Submitting():
                self._begin_attempt(event, at)
            case ev.Submitted():
                self._change(event, submitted=True)
            case ev.Observed():
                self._change(event, state=event.state, **self._seen(event, at))
            case ev.Measured() | ev.Trained() | ev.BatchFound():
                self._done.add(event.step)
                self._values[_RESULTS[event.kind]] = event.result
            case ev.Failed():
                self._change(event, failed=True)
                self._end(event, at)
            case _:
                pass

    def _apply_to_run(self, item: ev.Stored) -> None:
        match item.event:
            case ev.Failed() as event:
                self._values["failure"] = event
                self._state = "failed"
            case ev.Decided() as event:
                self._values["decision"] = event.decision
            case ev.Replanned() as event:
                self._values["replanned"] = event
            case ev.Advised() as event:
                self._values["critical_batch"] = event.critical_batch
            case ev.Submitting() if self._state != "cancelling":
                self._state = "running"
            case ev.CancelRequested():
                self._state = "cancelling"
            case ev.Cancelled():
                self._state = "cancelled"
            case ev.Resumed():
                self._state = "running"
                self._values.pop("failure", None)
            case _:
                pass

    def _apply_to_plan(self, item: ev.Stored) -> None:
        if isinstance(item.event, ev.Planned):
            raise ValueError(f"{self._run_id}: a second plan at event {item.seq}")  # noqa: TRY004 - a damaged log is a bad value, not a bad type
        if isinstance(item.event, ev.PlannedAgain):
            if [step.name for step in item.event.plan.steps] != list(self._attempts):
                raise ValueError(f"{self._run_id}: planned again with other steps at event {item.seq}")
            self._plan = item.event.plan

    def record(self) -> RunRecord:
        """Return the frozen record."""
        steps = tuple(
            StepRecord(name=name, attempts=tuple(attempts), done=name in self._done)
            for name, attempts in self._attempts.items()
        )
        return RunRecord(
            run_id=self._run_id,
            plan=self._plan,
            agreed_plan_id=self._agreed,
            owner=self._owner,
            created_at=self._created_at,
            state=self._state,
            steps=steps,
            **self._values,
        )

    def _begin_attempt(self, event: ev.Submitting, at: datetime) -> None:
        attempts = self._of(event.step)
        if not attempts or attempts[-1].number < event.attempt:
            attempts.append(
                Attempt(
                    number=event.attempt,
                    job_name=event.job_name,
                    handle=event.handle,
                    started_at=at,
                    learning_rate=event.learning_rate,
                    max_runtime_seconds=event.max_runtime_seconds,
                    expires_at=event.expires_at,
                )
            )

    def _seen(self, event: ev.Observed, at: datetime) -> dict[str, object]:
        """Return what the event of a state says besides the state."""
        if event.state.terminal:
            return {"ended_at": at, "cost_usd": event.cost_usd, "billable_seconds": event.billable_seconds}
        attempt = next((a for a in self._of(event.step) if a.number == event.attempt), None)
        first = event.state is JobState.RUNNING and attempt is not None and attempt.running_since is None
        return {"running_since": at} if first else {}

    def _change(self, event: ev.OfAttempt, **changes: object) -> None:
        """Change the attempt that an event speaks of, which need not be the newest."""
        attempts = self._of(event.step)
        for index, attempt in enumerate(attempts):
            if attempt.number == event.attempt:
                attempts[index] = attempt.model_copy(update=changes)

    def _end(self, event: ev.OfAttempt, at: datetime) -> None:
        """Give an attempt its end where no job's end was seen."""
        if any(a.number == event.attempt and a.ended_at is None for a in self._of(event.step)):
            self._change(event, ended_at=at)

    def _of(self, step: str) -> list[Attempt]:
        if step not in self._attempts:
            raise ValueError(f"{self._run_id}: an event of step {step!r}, which its plan does not have")
        return self._attempts[step]

    def _complete(self) -> bool:
        """Tell whether every step is done and a range test has led to an LR."""
        decision: Decision | None = self._values.get("decision")
        decided = "lr-find" not in self._attempts or (decision is not None and decision.verdict == "ok")
        return decided and self._done == set(self._attempts)
