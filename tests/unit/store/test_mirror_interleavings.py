"""Two machines on one run, in any order, with lost, refused and late writes and kills: what must hold all the same."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.core.errors import LockedError, UnreachableError
from gpuplan.core.job_state import JobState
from gpuplan.core.objects import ConflictError, Fetched
from gpuplan.store.events import CancelRequested, Observed, Planned, Resumed, Submitting
from gpuplan.store.mirror import MirroredStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.planning.plan import LaunchPlan

RUN = "digits-0000000000001"
MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a folder of its own in it
MACHINES = st.sampled_from(["one", "two"])
FAULTS = st.sampled_from(["lost", "refused", "late", "killed", "unreadable"])


class Killed(BaseException):
    """Stands for SIGKILL between the head and the disk."""


@dataclass
class Clock:
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
class Objects:
    """One object, whose every change is checked as it is made."""

    clock: Clock
    stored: tuple[bytes, str, datetime] | None = None
    faults: list[str] = field(default_factory=list)
    late: list[tuple[bytes, str | None, str]] = field(default_factory=list)
    versions: int = 0
    writer: str = ""
    """Token of the client that is at work."""

    def get_with_etag(self, key: str, unless: str = "") -> Fetched | None:
        self._arrive()
        if self.faults[:1] == ["unreadable"]:
            self.faults.pop()
            raise UnreachableError("no answer")
        if self.stored is None:
            raise FileNotFoundError(key)
        data, etag, written = self.stored
        return None if etag == unless else Fetched(data, etag, (self.clock.time - written).total_seconds())

    def swap(self, key: str, data: bytes, etag: str | None) -> str:
        self._arrive()
        fault = self.faults.pop() if self.faults and self.faults != ["unreadable"] else ""
        if fault == "late":
            self.late.append((data, etag, self.writer))
        if fault in {"late", "refused"}:
            raise UnreachableError("no answer")
        if not self._apply(data, etag, self.writer):
            raise ConflictError(key)
        if fault == "lost":
            raise UnreachableError("the reply was lost")
        if fault == "killed":
            raise Killed
        return f"v{self.versions}"

    def folders(self, prefix: str) -> Iterator[str]:
        del prefix
        yield RUN

    def locate(self, key: str) -> str:
        return key

    def head(self) -> dict[str, Any]:
        assert self.stored is not None
        document: dict[str, Any] = json.loads(self.stored[0])
        return document

    def _arrive(self) -> None:
        """Let the writes arrive that were given up by their writers."""
        while self.late:
            self._apply(*self.late.pop())

    def _apply(self, data: bytes, etag: str | None, writer: str) -> bool:
        if (self.stored[1] if self.stored else None) != etag:
            return False
        if self.stored:
            check_change(self.head(), json.loads(data), writer)
        self.versions += 1
        self.stored = (data, f"v{self.versions}", self.clock.time)
        return True


def check_change(old: dict[str, Any], new: dict[str, Any], writer: str) -> None:
    """Check one change of the head: history stays, and only a take or a cancel is written without holding the lease."""
    count = len(old["events"])
    assert new["events"][:count] == old["events"]
    added = [item["event"]["kind"] for item in new["events"][count:]]
    assert len(added) <= 1
    before, after = old["lease"], new["lease"]
    if after["number"] != before["number"]:
        assert (after["number"], after["holder"]["token"], added) == (before["number"] + 1, writer, [])
    elif writer != before["holder"]["token"]:
        assert added == ["cancel-requested"]
        assert after.pop("silent_seconds") >= before.pop("silent_seconds")
        assert after == before


@cache
def plan() -> LaunchPlan:
    given = {"launch.backend": "fake", "workload.epochs": 2}
    return plan_from(Given(given, dict.fromkeys(given, "the test"), None)).plan


class TwoMachines(RuleBasedStateMachine):
    """Each machine has one client at a time: the lock of the operating system sees to that."""

    @initialize()
    def begin(self) -> None:
        # In memory where there is such a folder: nothing here is about what survives a loss of power.
        self.root = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.clock = Clock()
        self.objects = Objects(self.clock)
        self.looks = 0
        self.clients = {name: self.client(name) for name in ("one", "two")}
        with self.mortal("one") as store:
            store.create(RUN, Planned(plan=plan()))

    def client(self, name: str) -> MirroredStore:
        return MirroredStore(self.root / name, self.clock, self.objects, "gpuplan")

    @rule(name=MACHINES, take_over=st.booleans())
    def take(self, name: str, *, take_over: bool) -> None:
        with self.mortal(name) as store:
            store.take(RUN, take_over=take_over)

    @rule(name=MACHINES)
    def submit(self, name: str) -> None:
        with self.mortal(name) as store:
            number = len(store.record(RUN).step("lr-find").attempts) + 1
            token = store._holder.token
            event = Submitting(step="lr-find", attempt=number, job_name=token, handle="h", request_sha256="0" * 64)
            store.append(RUN, event)

    @rule(name=MACHINES)
    def observe(self, name: str) -> None:
        self.looks += 1
        with self.mortal(name) as store:
            store.append(RUN, Observed(step="lr-find", attempt=1, state=JobState.RUNNING, detail=f"{self.looks}"))
            assert self.observed()[-1:] == [f"{self.looks}"], "what was appended is there"

    @rule(name=MACHINES)
    def resume(self, name: str) -> None:
        with self.mortal(name) as store:
            store.append(RUN, Resumed())

    @rule(name=MACHINES)
    def cancel(self, name: str) -> None:
        with self.mortal(name) as store:
            store.append(RUN, CancelRequested())

    @rule(name=MACHINES)
    def renew(self, name: str) -> None:
        with self.mortal(name) as store:
            store.renew(RUN)

    @rule(name=MACHINES)
    def release(self, name: str) -> None:
        with self.mortal(name) as store:
            store.release(RUN)

    @rule(name=MACHINES)
    def restart(self, name: str) -> None:
        self.clients[name] = self.client(name)

    @rule(seconds=st.sampled_from([0.5, 2.0, 130.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    @rule(fault=FAULTS)
    def arm(self, fault: str) -> None:
        self.objects.faults = [fault]

    @invariant()
    def no_copy_is_ahead_of_the_head(self) -> None:
        self.objects._arrive()
        events = self.objects.head()["events"]
        for store in self.clients.values():
            if store.local.has(RUN):
                copied = [item.document() for item in store.local.events(RUN)]
                assert copied == events[: len(copied)]

    @invariant()
    def an_attempt_is_begun_by_one_driver_alone(self) -> None:
        begun: dict[int, set[str]] = {}
        for event in self.events("submitting"):
            begun.setdefault(event["attempt"], set()).add(event["job_name"])
        assert all(len(drivers) == 1 for drivers in begun.values())

    @invariant()
    def nothing_is_recorded_twice(self) -> None:
        assert len(set(self.observed())) == len(self.observed())

    def observed(self) -> list[str]:
        return [event["detail"] for event in self.events("observed")]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [item["event"] for item in self.objects.head()["events"] if item["event"]["kind"] == kind]

    def mortal(self, name: str) -> Mortal:
        return Mortal(self, name)

    def teardown(self) -> None:
        self.objects.faults = []
        newcomer = self.client("three")
        assert [item.document() for item in newcomer.events(RUN)] == self.objects.head()["events"]
        shutil.rmtree(self.root, ignore_errors=True)


@dataclass
class Mortal:
    """A client at work: refusals are its business, and one that is killed is replaced by a new process."""

    world: TwoMachines
    name: str

    def __enter__(self) -> MirroredStore:
        store = self.world.clients[self.name]
        self.world.objects.writer = store._holder.token
        return store

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is Killed:
            self.world.restart(self.name)
        return kind is not None and issubclass(kind, (Killed, LockedError, UnreachableError))


TwoMachines.TestCase.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestTwoMachines = TwoMachines.TestCase
