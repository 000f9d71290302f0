"""A bench for the engine: one run in a real store, driven against a fake backend as often as a test likes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from gpuplan.backends.fake import FakeBackend, Script
from gpuplan.engine.run import Engine
from gpuplan.store.events import Planned, Resumed

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import FakeClock, Recorder
    from gpuplan.backends.base import Backend
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.store.record import RunRecord
    from gpuplan.store.sqlite import RunStore


@dataclass(frozen=True)
class Bench:
    """One run and what drives it."""

    store: RunStore
    clock: FakeClock
    recorder: Recorder
    root: Path
    run: str = "digits-0000000000001"

    def another(self, run: str) -> Bench:
        """Return the bench of another run, whose jobs are kept elsewhere."""
        return replace(self, root=self.root.with_name(run), run=run)

    def backend(self, script: Script | None = None) -> FakeBackend:
        return FakeBackend(self.root, script)

    def start(self, plan: LaunchPlan) -> None:
        self.store.create(self.run, Planned(plan=plan, owner="ada"))

    def drive(self, script: Script | None = None, backend: Backend | None = None, *, detach: bool = False) -> RunRecord:
        engine = Engine(self.store, backend or self.backend(script), self.clock, self.recorder)
        return engine.drive(self.run, detach=detach)

    def resume(self, script: Script | None = None, backend: Backend | None = None) -> RunRecord:
        """Drive on as `gpuplan resume` does."""
        if self.store.record(self.run).state in {"failed", "cancelled", "cancelling"}:
            self.store.append(self.run, Resumed())
        return self.drive(script, backend)

    def kinds(self) -> list[str]:
        return [stored.event.kind for stored in self.store.events(self.run)]


@pytest.fixture
def bench(store: RunStore, clock: FakeClock, recorder: Recorder, tmp_path: Path) -> Bench:
    return Bench(store, clock, recorder, tmp_path / "fake")
