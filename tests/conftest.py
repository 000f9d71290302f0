"""What many tests share: a plan made by the real pipelines, a clock that never waits, an observer that remembers."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import botocore.session
import pytest
from hypothesis import settings as hypothesis_settings

from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.store.sqlite import RunStore
from gpuplan.workload.schema import Aws, setting_fields

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.store.events import Event
    from gpuplan_job.contract import Progress


def pytest_configure() -> None:
    """Forget what this machine says of AWS and of gpuplan's settings, before any test module plans with it."""
    # A busy machine is no defect: no test fails for its time.
    hypothesis_settings.register_profile("untimed", deadline=None)
    hypothesis_settings.load_profile("untimed")
    settings = {field.variable for field in setting_fields()}
    for name in list(os.environ):
        if name.startswith("AWS_") or name in settings:
            del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    if "PYTEST_XDIST_WORKER" not in os.environ:
        # One for all workers, never the user's: what is traced for one test is there for the next.
        os.environ["GPUPLAN_HOME"] = tempfile.mkdtemp(prefix="gpuplan-tests-")
    # What the SDK and moto load stays for good; a search through all of it for garbage takes a quarter of a second.
    gc.set_threshold(50_000, 20, 100)
    # Each session reads the services' descriptions anew, half a second of the thousand commands the tests run.
    botocore.session.create_loader = functools.cache(botocore.session.create_loader)


def pytest_unconfigure() -> None:
    """Leave nothing of the tests' gpuplan behind."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["GPUPLAN_HOME"], ignore_errors=True)


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


@pytest.fixture(scope="session")
def new_clock() -> type[FakeClock]:
    """Make clocks where one for each test is not enough, as in properties."""
    return FakeClock


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> RunStore:
    return RunStore(tmp_path / "home", clock)


@pytest.fixture
def aws() -> Aws:
    """Settings of an account that a plan needs to know nothing more of."""
    return Aws(
        region="us-east-1",
        role_arn="arn:aws:iam::123456789012:role/gpuplan-execution",
        bucket="gpuplan-123456789012",
    )
