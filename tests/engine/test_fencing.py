"""One run, several machines: taken up elsewhere, taken over, cancelled from afar, killed or paused anywhere.

Real processes where the operating system matters; they run this file as a script.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpuplan.backends.fake import FakeBackend, Script
from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.core.clock import SystemClock
from gpuplan.core.errors import ExitCode, GpuplanError, LockedError, UnreachableError
from gpuplan.core.job_state import JobState
from gpuplan.core.objects import ConflictError, Fetched
from gpuplan.engine.observer import Silent
from gpuplan.engine.run import Engine
from gpuplan.store.events import CancelRequested, Event, Observed, Planned
from gpuplan.store.mirror import MirroredStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import FakeClock
    from gpuplan.backends.base import JobSpec, JobStatus, Request
    from gpuplan.planning.plan import LaunchPlan

RUN = "digits-0000000000001"
JOBS = [f"{RUN}-lr-find-1", f"{RUN}-train-1"]


class Objects:
    """An object store in a folder, shared by processes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.puts = self.gets = 0
        self.down = False
        self.dies_at_put = int(os.environ.get("DIES_AT_PUT", "0"))
        self.die: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)

    def get_with_etag(self, key: str, unless: str = "") -> Fetched | None:
        self.gets += 1
        self._answer()
        with self._locked():
            path = self._root / key
            data = path.read_bytes()
            etag = hashlib.sha256(data).hexdigest()
            return None if etag == unless else Fetched(data, etag, max(0.0, time.time() - path.stat().st_mtime))

    def swap(self, key: str, data: bytes, etag: str | None) -> str:
        self.puts += 1
        self._answer()
        path = self._root / key
        with self._locked():
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
            if found != etag:
                raise ConflictError(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(data)
            temporary.rename(path)
        if self.puts == self.dies_at_put:
            self.die()
        return hashlib.sha256(data).hexdigest()

    def folders(self, prefix: str) -> Iterator[str]:
        yield from sorted(path.name for path in (self._root / prefix).iterdir())

    def locate(self, key: str) -> str:
        return str(self._root / key)

    def kinds(self) -> list[str]:
        document = json.loads((self._root / f"gpuplan/runs/{RUN}/state.json").read_bytes())
        return [item["event"]["kind"] for item in document["events"]]

    def _answer(self) -> None:
        if self.down:
            raise UnreachableError("no answer")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@cache
def plan() -> LaunchPlan:
    given = {"launch.backend": "fake", "workload.epochs": 2}
    return plan_from(Given(given, dict.fromkeys(given, "the test"), None)).plan


def main(root: Path, machine: str, action: str) -> None:
    """Act as one client in a process of its own."""
    store = MirroredStore(root / machine, SystemClock(), Objects(root / "s3"), "gpuplan")
    try:
        if action == "launch":
            store.create(RUN, Planned(plan=plan()))
        with store.driving(store.resolve(RUN), take_over=action == "take-over"):
            record = Engine(store, FakeBackend(root / "jobs"), SystemClock(), Silent()).drive(RUN)
    except GpuplanError as error:
        print(error.what)
        sys.exit(error.exit_code)
    print(record.state)


def start(root: Path, machine: str, action: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, str(root), machine, action]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, out.strip()


PAUSES = [
    "after-intent",
    "after-submit-before-record",
    "after-submitted",
    "while-polling",
    "after-result-before-record",
]


@pytest.mark.parametrize("where", PAUSES)
def test_a_driver_that_was_paused_and_taken_over_is_fenced_when_it_wakes(tmp_path: Path, where: str) -> None:
    paused = start(tmp_path, "one", "launch", GPUPLAN_FAILPOINT=f"{where}:stop")
    _, status = os.waitpid(paused.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"nothing reaches failpoint {where}"
    try:
        code, said = finish(start(tmp_path, "two", "resume"))
        assert code == ExitCode.LOCKED, "who drives may be alive: nobody takes the run without being told to"
        assert "is being driven by" in said
        assert finish(start(tmp_path, "two", "take-over")) == (0, "succeeded")
    finally:
        paused.send_signal(signal.SIGCONT)
    code, said = finish(paused)
    assert code == ExitCode.LOCKED
    assert said.startswith("fenced: ")
    assert FakeBackend(tmp_path / "jobs").created() == JOBS
    objects = Objects(tmp_path / "s3")
    assert (objects.kinds().count("measured"), objects.kinds().count("trained")) == (1, 1)
    for machine in ("one", "two"):
        store = MirroredStore(tmp_path / machine, SystemClock(), objects, "gpuplan")
        assert [item.event.kind for item in store.local.events(RUN)] == objects.kinds()


@pytest.mark.parametrize("put", [1, 2, 5])
@pytest.mark.parametrize("machine", ["one", "two"])
def test_a_driver_killed_between_head_and_disk_is_followed_by_any_machine(
    tmp_path: Path, put: int, machine: str
) -> None:
    assert finish(start(tmp_path, "one", "launch", DIES_AT_PUT=str(put)))[0] == -signal.SIGKILL
    action = "resume" if machine == "one" else "take-over"
    assert finish(start(tmp_path, machine, action)) == (0, "succeeded")
    assert FakeBackend(tmp_path / "jobs").created() == JOBS


def test_of_machines_that_take_a_run_up_at_once_one_drives(tmp_path: Path) -> None:
    objects = Objects(tmp_path / "s3")
    first = MirroredStore(tmp_path / "first", SystemClock(), objects, "gpuplan")
    first.create(RUN, Planned(plan=plan()))
    first.release(RUN)
    clients = [start(tmp_path, f"machine-{number}", "resume") for number in range(3)]
    ends = sorted(finish(client) for client in clients)
    assert (0, "succeeded") in ends
    assert {code for code, _ in ends} <= {ExitCode.OK, ExitCode.LOCKED}
    assert FakeBackend(tmp_path / "jobs").created() == JOBS
    assert objects.kinds().count("trained") == 1


class Site:
    """Machines, a bucket and jobs inside this process."""

    def __init__(self, root: Path, clock: FakeClock) -> None:
        self.root, self.clock = root, clock
        self.objects = Objects(root / "s3")

    def client(self, machine: str) -> MirroredStore:
        return MirroredStore(self.root / machine, self.clock, self.objects, "gpuplan")

    def backend(self, script: Script | None = None) -> FakeBackend:
        return FakeBackend(self.root / "jobs", script)

    def launched(self) -> MirroredStore:
        store = self.client("one")
        store.create(RUN, Planned(plan=plan()))
        return store


@pytest.fixture
def site(tmp_path: Path, clock: FakeClock) -> Site:
    return Site(tmp_path, clock)


class Detached(BaseException):
    """Stands for Ctrl-C in the driving client."""


class Detaching(Silent):
    """An observer that detaches when a job runs."""

    def event(self, event: Event) -> None:
        if isinstance(event, Observed) and event.state is JobState.RUNNING:
            raise Detached


def test_a_detached_run_is_taken_up_at_once_on_another_machine(site: Site) -> None:
    one, two = site.launched(), site.client("two")
    with pytest.raises(Detached), one.driving(RUN):
        Engine(one, site.backend(), site.clock, Detaching()).drive(RUN)
    run_id = two.resolve("digits")
    with two.driving(run_id):
        assert Engine(two, site.backend(), site.clock, Silent()).drive(run_id).state == "succeeded"
    assert site.backend().created() == JOBS
    site.clock.sleep(2)
    assert one.record(RUN).state == "succeeded", "the first machine sees how it ended"


def test_a_run_costs_one_write_an_event_and_a_look_a_change_of_state(site: Site) -> None:
    class Slow(FakeBackend):
        poll_seconds = 20.0

    hour = (JobState.STARTING, *[JobState.RUNNING] * 180, JobState.SUCCEEDED)
    one = site.launched()
    with one.driving(RUN):
        Engine(one, Slow(site.root / "jobs", Script(states=hour)), site.clock, Silent()).drive(RUN)
    events = len(site.objects.kinds())
    renewals = 2 * 3600 // 120
    assert events == 16
    assert site.objects.puts <= events + renewals
    assert site.objects.gets <= 8


def test_a_driver_that_is_taken_over_while_its_job_runs_leaves_the_job_to_the_other(site: Site) -> None:
    one, two = site.launched(), site.client("two")

    class Overtaken(FakeBackend):
        def poll(self, handle: str) -> JobStatus:
            status = super().poll(handle)
            if status.state is JobState.RUNNING and not two.run_ids():
                two.adopt(RUN)
                two.take(RUN, take_over=True)
            return status

    with pytest.raises(LockedError, match="fenced"), one.driving(RUN):
        Engine(one, Overtaken(site.root / "jobs"), site.clock, Silent()).drive(RUN)
    assert Engine(two, site.backend(), site.clock, Silent()).drive(RUN).state == "succeeded"
    assert site.backend().created() == JOBS


def test_a_cancel_from_another_machine_before_the_submit_keeps_the_job_from_starting(site: Site) -> None:
    one, two = site.launched(), site.client("two")

    class Cancelled(FakeBackend):
        def render(self, spec: JobSpec) -> Request:
            two.append(RUN, CancelRequested())
            return super().render(spec)

    with one.driving(RUN):
        record = Engine(one, Cancelled(site.root / "jobs"), site.clock, Silent()).drive(RUN)
    assert record.state == "cancelled"
    assert site.backend().created() == []
    site.clock.sleep(2)
    assert two.record(RUN).state == "cancelled"


def test_a_cancel_from_another_machine_while_the_job_runs_ends_the_run(site: Site) -> None:
    one, two = site.launched(), site.client("two")

    class Cancelled(FakeBackend):
        def poll(self, handle: str) -> JobStatus:
            status = super().poll(handle)
            if status.state is JobState.RUNNING:
                two.append(RUN, CancelRequested())
                self.stop(handle)
            return status

    with one.driving(RUN):
        record = Engine(one, Cancelled(site.root / "jobs"), site.clock, Silent()).drive(RUN)
    assert record.state == "cancelled"
    assert site.backend().created() == JOBS[:1]


@pytest.mark.parametrize("after_puts", [1, 2])
def test_without_the_object_store_nothing_is_submitted(site: Site, after_puts: int) -> None:
    one = site.launched()
    assert site.objects.puts == 1

    def go_down() -> None:
        site.objects.down = True

    site.objects.dies_at_put, site.objects.die = after_puts, go_down
    if after_puts == 1:
        go_down()
    with pytest.raises(UnreachableError), one.driving(RUN):
        Engine(one, site.backend(), site.clock, Silent()).drive(RUN)
    assert len(site.backend().created()) == after_puts - 1
    site.objects.down = False
    two = site.client("two")
    with two.driving(two.resolve(RUN), take_over=True):
        assert Engine(two, site.backend(), site.clock, Silent()).drive(RUN).state == "succeeded"
    assert site.backend().created() == JOBS


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def test_death_around_any_write_of_the_head_then_another_machine_does_each_step_once(
    tmp_path: Path, clock: FakeClock
) -> None:
    deaths = 0
    for put in range(2, 100):
        site = Site(tmp_path / f"{put}", clock)
        one = site.launched()

        def die() -> None:
            raise Killed

        site.objects.dies_at_put, site.objects.die = put, die
        try:
            Engine(one, site.backend(), clock, Silent()).drive(RUN)
        except Killed:
            deaths += 1
        else:
            break
        two = site.client("two")
        with two.driving(two.resolve(RUN), take_over=True):
            record = Engine(two, site.backend(), clock, Silent()).drive(RUN)
        assert record.state == "succeeded", put
        assert site.backend().created() == JOBS, put
        kinds = site.objects.kinds()
        assert (kinds.count("measured"), kinds.count("decided"), kinds.count("trained")) == (1, 1, 1), put
    assert deaths > 10, "the loop must have died in many places"


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
