"""What many tests share: a plan made by the real pipelines, a clock that never waits, an observer that remembers."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import pytest

from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.store.sqlite import RunStore

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.store.events import Event
    from gpuplan_job.contract import Progress


@dataclass
class FakeClock:
    """Time that passes only when someone sleeps, and a little with every look."""

    time: datetime = datetime(2026, 11, 22, tzinfo=UTC)
    elapsed: float = 0.0

    def now(self) -> datetime:
        self.sleep(0.001)
        return self.time

    def monotonic(self) -> float:
        return self.elapsed

    def sleep(self, seconds: float) -> None:
        self.elapsed += seconds
        self.time += timedelta(seconds=seconds)


@dataclass
class Recorder:
    """An observer that remembers what it was told."""

    events: list[Event] = field(default_factory=list)
    progressed: list[Progress] = field(default_factory=list)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def progress(self, progress: Progress) -> None:
        self.progressed.append(progress)


class MakePlan(Protocol):
    """Make a plan from settings by dotted key, on the CPU of a test machine unless they say otherwise."""

    def __call__(self, values: dict[str, object] | None = None) -> LaunchPlan: ...


@pytest.fixture
def make_plan() -> MakePlan:
    def make(values: dict[str, object] | None = None) -> LaunchPlan:
        given = {"launch.backend": "fake", "workload.epochs": 2} | (values or {})
        return plan_from(Given(given, dict.fromkeys(given, "the test"), None)).plan

    return make


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> RunStore:
    return RunStore(tmp_path / "home", clock)
