"""Runs mirrored in an object store: the head first, this machine's copy never ahead, one driver, the others fenced."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gpuplan.core.errors import ExitCode, LockedError, StoreError, UnreachableError, UsageError
from gpuplan.core.job_state import JobState
from gpuplan.core.objects import ConflictError, Fetched
from gpuplan.store.events import Cancelled, CancelRequested, Failed, Observed, Planned, Resumed, Submitting
from gpuplan.store.lease import FencedError
from gpuplan.store.mirror import MirroredStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from conftest import FakeClock, MakePlan

RUN = "digits-0000000000001"
KEY = f"gpuplan/runs/{RUN}/state.json"
SUBMITTING = Submitting(step="lr-find", attempt=1, job_name="j", handle="fake://j", request_sha256="0" * 64)
FAILED = Failed(step="lr-find", attempt=1, exit_code=7, message="it failed")


def seen(detail: str) -> Observed:
    return Observed(step="lr-find", attempt=1, state=JobState.RUNNING, detail=detail)


@dataclass
class Objects:
    """An object store in memory; `faults` says what happens to the next calls, one each."""

    clock: FakeClock
    objects: dict[str, tuple[bytes, str, datetime]] = field(default_factory=dict)
    faults: list[str | Callable[[], None]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    versions: int = 0

    def get_with_etag(self, key: str, unless: str = "") -> Fetched | None:
        self.calls.append("get")
        self._fault()
        if key not in self.objects:
            raise FileNotFoundError(key)
        data, etag, written = self.objects[key]
        if etag == unless:
            return None
        return Fetched(data, etag, (self.clock.time - written).total_seconds())

    def swap(self, key: str, data: bytes, etag: str | None) -> str:
        self.calls.append("put")
        lost = self._fault()
        if (self.objects[key][1] if key in self.objects else None) != etag:
            raise ConflictError(key)
        self.versions += 1
        self.objects[key] = (data, f"v{self.versions}", self.clock.time)
        if lost:
            raise UnreachableError("the reply was lost")
        return f"v{self.versions}"

    def folders(self, prefix: str) -> Iterator[str]:
        self.calls.append("list")
        self._fault()
        yield from sorted({key.removeprefix(prefix).split("/")[0] for key in self.objects if key.startswith(prefix)})

    def locate(self, key: str) -> str:
        return f"memory://{key}"

    def _fault(self) -> bool:
        """Play the next fault, and tell whether it is the reply that gets lost."""
        fault = self.faults.pop(0) if self.faults else ""
        if callable(fault):
            fault()
        elif fault == "down":
            raise UnreachableError("no answer")
        return fault == "lost"

    def document(self) -> dict[str, object]:
        document: dict[str, object] = json.loads(self.objects[KEY][0])
        return document

    def kinds(self) -> list[str]:
        events = self.document()["events"]
        assert isinstance(events, list)
        return [item["event"]["kind"] for item in events]


@pytest.fixture
def objects(clock: FakeClock) -> Objects:
    return Objects(clock)


@pytest.fixture
def machine(objects: Objects, clock: FakeClock, tmp_path: Path) -> Callable[[str], MirroredStore]:
    """Start a client, a new process each time, on the machine of a name."""
    return lambda name: MirroredStore(tmp_path / name, clock, objects, "gpuplan")


@pytest.fixture
def here(machine: Callable[[str], MirroredStore], make_plan: MakePlan) -> MirroredStore:
    """Return the client that has just created the run, and drives it."""
    store = machine("here")
    store.create(RUN, Planned(plan=make_plan()))
    return store


@pytest.fixture
def there(here: MirroredStore, machine: Callable[[str], MirroredStore]) -> MirroredStore:
    del here
    return machine("there")


def kinds(store: MirroredStore) -> list[str]:
    """Return what is on a machine, without looking at the head."""
    return [stored.event.kind for stored in store.local.events(RUN)]


class TestHeadFirst:
    def test_an_event_is_in_the_head_and_on_disk(self, here: MirroredStore, objects: Objects) -> None:
        here.append(RUN, SUBMITTING)
        here.append(RUN, FAILED)
        assert objects.kinds() == kinds(here) == ["planned", "submitting", "failed"]
        assert objects.document()["schema"] == "gpuplan.run-head/1"
        assert here.record(RUN).state == "failed"

    def test_the_copy_on_disk_is_the_head_to_the_letter(
        self, here: MirroredStore, there: MirroredStore, objects: Objects
    ) -> None:
        here.append(RUN, SUBMITTING)
        there.adopt(RUN)
        assert there.local.events(RUN) == here.local.events(RUN)
        assert [item.document() for item in there.local.events(RUN)] == objects.document()["events"]
        assert there.record(RUN) == here.record(RUN)

    def test_without_the_object_store_nothing_is_recorded(self, here: MirroredStore, objects: Objects) -> None:
        objects.faults = ["down", "down"]
        with pytest.raises(UnreachableError):
            here.append(RUN, SUBMITTING)
        assert objects.kinds() == kinds(here) == ["planned"]
        here.append(RUN, SUBMITTING)
        assert objects.kinds() == kinds(here) == ["planned", "submitting"]

    def test_a_run_that_cannot_be_begun_leaves_nothing_here(
        self, machine: Callable[[str], MirroredStore], objects: Objects, make_plan: MakePlan
    ) -> None:
        store = machine("here")
        objects.faults = ["down", "down"]
        with pytest.raises(UnreachableError):
            store.create(RUN, Planned(plan=make_plan()))
        assert store.run_ids() == []
        assert not store.folder(RUN).exists()
        store.create(RUN, Planned(plan=make_plan()))

    def test_a_run_id_that_is_taken_elsewhere_is_refused(
        self, there: MirroredStore, objects: Objects, make_plan: MakePlan
    ) -> None:
        before = objects.objects[KEY]
        with pytest.raises(StoreError, match="already a run"):
            there.create(RUN, Planned(plan=make_plan({"workload.epochs": 9})))
        assert objects.objects[KEY] == before
        assert there.run_ids() == []

    @pytest.mark.parametrize("faults", [["lost"], ["lost", "down"]])
    def test_a_lost_reply_is_resolved_by_reading_back_or_by_the_next_write(
        self, here: MirroredStore, objects: Objects, faults: list[str | Callable[[], None]]
    ) -> None:
        objects.faults = faults
        if "down" in faults:
            with pytest.raises(UnreachableError):
                here.append(RUN, SUBMITTING)
            assert kinds(here) == ["planned"], "behind the head, never ahead"
        else:
            here.append(RUN, SUBMITTING)
        here.append(RUN, FAILED)
        assert objects.kinds() == kinds(here) == ["planned", "submitting", "failed"]

    def test_a_lost_reply_with_a_cancel_on_top_is_resolved_too(
        self, here: MirroredStore, there: MirroredStore, objects: Objects
    ) -> None:
        def cancel() -> None:
            there.append(RUN, CancelRequested())

        objects.faults = ["lost", cancel]
        here.append(RUN, SUBMITTING)
        assert objects.kinds() == kinds(here) == ["planned", "submitting", "cancel-requested"]

    def test_a_client_killed_between_head_and_disk_catches_up(
        self, here: MirroredStore, machine: Callable[[str], MirroredStore], objects: Objects
    ) -> None:
        objects.faults = ["lost", "down"]
        with pytest.raises(UnreachableError):
            here.append(RUN, SUBMITTING)
        again = machine("here")
        assert [stored.event.kind for stored in again.events(RUN)] == ["planned", "submitting"]
        assert kinds(again) == ["planned", "submitting"]

    def test_times_never_go_back_whichever_clock_is_off(
        self, here: MirroredStore, there: MirroredStore, clock: FakeClock
    ) -> None:
        clock.time += timedelta(hours=1)
        here.append(RUN, SUBMITTING)
        clock.time -= timedelta(hours=1)
        there.append(RUN, CancelRequested())
        times = [item.at for item in there.events(RUN)]
        assert times == sorted(times)

    def test_two_processes_of_one_machine_share_one_copy(
        self, here: MirroredStore, machine: Callable[[str], MirroredStore], objects: Objects
    ) -> None:
        other = machine("here")
        other.append(RUN, CancelRequested())
        here.append(RUN, SUBMITTING)
        other.append(RUN, CancelRequested())
        here.append(RUN, FAILED)
        assert objects.kinds() == kinds(here) == kinds(other)
        assert objects.kinds() == ["planned", "cancel-requested", "submitting", "cancel-requested", "failed"]


class TestDriving:
    def test_who_does_not_drive_can_only_ask_for_a_cancel(self, there: MirroredStore, objects: Objects) -> None:
        with pytest.raises(LockedError, match="does not drive"):
            there.append(RUN, SUBMITTING)
        there.append(RUN, CancelRequested())
        assert objects.kinds() == ["planned", "cancel-requested"]

    def test_a_driver_sees_a_cancel_from_another_machine_before_it_submits(
        self, here: MirroredStore, there: MirroredStore
    ) -> None:
        there.append(RUN, CancelRequested())
        here.append(RUN, SUBMITTING)
        assert here.record(RUN).state == "cancelling"

    def test_a_driver_sees_a_cancel_while_it_waits(
        self, here: MirroredStore, there: MirroredStore, clock: FakeClock
    ) -> None:
        there.append(RUN, CancelRequested())
        clock.sleep(2)
        assert here.record(RUN).state == "cancelling"

    def test_a_second_machine_is_refused_with_who_drives_and_how_to_take_over(
        self, there: MirroredStore, clock: FakeClock
    ) -> None:
        clock.sleep(60)
        with pytest.raises(LockedError, match=r"@.*, process \d+, since 2026.*last heard of 60 s ago") as caught:
            there.take(RUN)
        assert caught.value.exit_code is ExitCode.LOCKED
        assert "--take-over" in caught.value.fix

    def test_a_driver_that_is_taken_over_is_fenced_at_its_next_write_and_shows_what_happened(
        self, here: MirroredStore, there: MirroredStore, objects: Objects
    ) -> None:
        there.take(RUN, take_over=True)
        there.append(RUN, seen("by the new driver"))
        for _ in range(2):
            with pytest.raises(LockedError, match=r"fenced: .* took digits-.* over, since 2026"):
                here.append(RUN, SUBMITTING)
        assert objects.kinds() == kinds(here) == kinds(there) == ["planned", "observed"]

    def test_a_fenced_driver_learns_of_it_from_the_record_too(
        self, here: MirroredStore, there: MirroredStore, clock: FakeClock
    ) -> None:
        there.take(RUN, take_over=True)
        clock.sleep(2)
        with pytest.raises(LockedError, match="fenced"):
            here.record(RUN)
        here.release(RUN)
        assert here.record(RUN).state == "planned", "who no longer drives may read"

    @pytest.mark.parametrize("cancelled", [False, True])
    def test_a_fenced_driver_is_told_whether_its_job_must_end(
        self, here: MirroredStore, there: MirroredStore, *, cancelled: bool
    ) -> None:
        there.take(RUN, take_over=True)
        if cancelled:
            there.append(RUN, CancelRequested())
            there.append(RUN, Cancelled())
        with pytest.raises(FencedError) as caught:
            here.append(RUN, SUBMITTING)
        assert caught.value.ended is cancelled

    def test_a_lost_reply_does_not_hide_a_take_over(
        self, here: MirroredStore, there: MirroredStore, objects: Objects
    ) -> None:
        objects.faults = ["lost", lambda: there.take(RUN, take_over=True)]
        with pytest.raises(LockedError, match="fenced"):
            here.append(RUN, SUBMITTING)
        assert objects.kinds() == kinds(here) == ["planned", "submitting"]

    def test_a_driver_that_has_been_silent_for_ten_minutes_can_be_taken_over(
        self, there: MirroredStore, clock: FakeClock
    ) -> None:
        clock.sleep(599)
        with pytest.raises(LockedError):
            there.take(RUN)
        clock.sleep(2)
        there.take(RUN)
        there.append(RUN, SUBMITTING)

    def test_a_driver_that_waits_says_every_two_minutes_that_it_lives(
        self, here: MirroredStore, there: MirroredStore, clock: FakeClock, objects: Objects
    ) -> None:
        before = objects.calls.count("put")
        for _ in range(180):
            clock.sleep(20)
            here.renew(RUN)
        assert objects.calls.count("put") == before + 30
        assert objects.calls.count("get") == 0
        with pytest.raises(LockedError, match=r"last heard of \d s ago"):
            there.take(RUN)

    def test_a_driver_that_waits_learns_that_it_was_taken_over(
        self, here: MirroredStore, there: MirroredStore, clock: FakeClock
    ) -> None:
        there.take(RUN, take_over=True)
        clock.sleep(121)
        with pytest.raises(LockedError, match="fenced"):
            here.renew(RUN)

    def test_a_driver_that_waits_outlasts_an_outage(
        self, here: MirroredStore, clock: FakeClock, objects: Objects
    ) -> None:
        clock.sleep(121)
        objects.faults = ["down", "down"]
        here.renew(RUN)
        assert objects.faults == []
        versions = objects.versions
        here.renew(RUN)
        assert objects.versions == versions + 1, "the next look tries again"

    def test_a_cancel_of_somebody_else_is_no_sign_of_life(
        self, there: MirroredStore, machine: Callable[[str], MirroredStore], clock: FakeClock
    ) -> None:
        for _ in range(3):
            clock.sleep(210)
            there.append(RUN, CancelRequested())
        machine("third").take(RUN)

    def test_a_driver_that_lets_go_can_be_followed_at_once(self, here: MirroredStore, there: MirroredStore) -> None:
        with here.driving(RUN):
            here.append(RUN, SUBMITTING)
        with there.driving(RUN):
            there.append(RUN, FAILED)
        assert kinds(there) == ["planned", "submitting", "failed"]
        with pytest.raises(LockedError, match="does not drive"):
            here.append(RUN, SUBMITTING)

    def test_a_run_that_is_over_can_be_taken_up_anywhere_and_costs_no_release(
        self, here: MirroredStore, there: MirroredStore, objects: Objects
    ) -> None:
        with here.driving(RUN):
            here.append(RUN, SUBMITTING)
            here.append(RUN, FAILED)
            puts = objects.calls.count("put")
        assert objects.calls.count("put") == puts
        with there.driving(RUN):
            there.append(RUN, Resumed())

    def test_a_dead_driver_of_this_machine_is_followed_at_once(
        self, here: MirroredStore, machine: Callable[[str], MirroredStore]
    ) -> None:
        del here
        again = machine("here")
        with again.driving(RUN):
            again.append(RUN, SUBMITTING)

    def test_a_live_driver_of_this_machine_is_guarded_by_the_lock(
        self, here: MirroredStore, machine: Callable[[str], MirroredStore]
    ) -> None:
        other = machine("here")
        with here.driving(RUN):
            assert other.driver(RUN)
            with pytest.raises(LockedError, match="process"), other.driving(RUN, take_over=True):
                pass
        assert other.driver(RUN) is None

    def test_a_driver_elsewhere_is_named(self, here: MirroredStore, there: MirroredStore, clock: FakeClock) -> None:
        del here
        assert "process" in (there.driver(RUN) or "")
        clock.sleep(601)
        assert there.driver(RUN) is None

    def test_of_two_machines_that_take_at_once_one_is_refused(
        self, here: MirroredStore, there: MirroredStore, machine: Callable[[str], MirroredStore], objects: Objects
    ) -> None:
        here.release(RUN)
        third = machine("third")
        third.adopt(RUN)
        objects.faults = ["", lambda: there.take(RUN)]
        with pytest.raises(LockedError, match="being driven"):
            third.take(RUN)
        there.append(RUN, SUBMITTING)

    def test_a_take_whose_reply_was_lost_is_a_take(
        self, here: MirroredStore, there: MirroredStore, objects: Objects
    ) -> None:
        here.release(RUN)
        objects.faults = ["", "lost"]
        there.take(RUN)
        there.append(RUN, SUBMITTING)

    def test_a_cancel_while_taking_is_no_obstacle(
        self, here: MirroredStore, there: MirroredStore, machine: Callable[[str], MirroredStore], objects: Objects
    ) -> None:
        here.release(RUN)
        third = machine("third")
        objects.faults = ["", lambda: third.append(RUN, CancelRequested())]
        there.take(RUN)
        assert there.record(RUN).state == "cancelling"


class TestFindingRuns:
    def test_a_run_of_another_machine_is_found_by_its_start_and_brought_here(
        self, here: MirroredStore, there: MirroredStore
    ) -> None:
        here.append(RUN, SUBMITTING)
        assert there.resolve("digits-00") == RUN
        assert there.run_ids() == [RUN]
        assert kinds(there) == ["planned", "submitting"]

    def test_a_run_that_is_here_is_found_without_a_call(self, here: MirroredStore, objects: Objects) -> None:
        before = len(objects.calls)
        assert here.resolve("digits") == here.resolve(None) == RUN
        assert len(objects.calls) == before

    def test_a_start_that_fits_several_or_none_is_refused(
        self, here: MirroredStore, there: MirroredStore, make_plan: MakePlan
    ) -> None:
        here.create("digits-0000000000002", Planned(plan=make_plan()))
        assert there.heads() == [RUN, "digits-0000000000002"]
        with pytest.raises(UsageError, match="matches 2 runs"):
            there.resolve("digits")
        with pytest.raises(UsageError, match="memory://gpuplan/runs/") as caught:
            there.resolve("digitz-0000000000001")
        assert "did you mean" in caught.value.why
        with pytest.raises(UsageError, match="no run"):
            there.adopt("digits-7")

    def test_a_name_in_the_bucket_never_becomes_a_path(self, there: MirroredStore, objects: Objects) -> None:
        for name in ("..", ".", "a b", "-rf", "A", "a--b", "x\ny"):
            objects.objects[f"gpuplan/runs/{name}/state.json"] = objects.objects[KEY]
        assert there.heads() == [RUN]


def rewrite(change: Callable[[dict[str, object]], object]) -> Callable[[bytes], bytes]:
    def rewritten(data: bytes) -> bytes:
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    return rewritten


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda data: data[: len(data) // 2],
    "not an object": lambda _: b"[]",
    "deep": lambda _: b"[" * 100_000,
    "of another schema": rewrite(lambda d: d.update(schema="photographs/1")),
    "with a key too many": rewrite(lambda d: d.update(extra=1)),
    "of another run": rewrite(lambda d: d.update(run_id="digits-0000000000002")),
    "without events": rewrite(lambda d: d.update(events=[])),
    "with an event twice": rewrite(lambda d: d.update(events=[*d["events"], *d["events"]])),  # type: ignore[misc] # JSON list by construction
    "with an event of the future": rewrite(lambda d: d["events"][0]["event"].update(kind="dreamt")),  # type: ignore[index] # as above
}


class TestDamage:
    @pytest.mark.parametrize("how", BROKEN)
    def test_a_damaged_head_is_refused_and_nothing_is_touched(
        self, here: MirroredStore, machine: Callable[[str], MirroredStore], objects: Objects, how: str
    ) -> None:
        data, _, written = objects.objects[KEY]
        objects.objects[KEY] = (BROKEN[how](data), "broken", written)
        again = machine("here")
        for act in (again.record, again.take, lambda run_id: here.append(run_id, SUBMITTING)):
            with pytest.raises(StoreError, match="memory://") as caught:
                act(RUN)
            assert caught.value.fix
        assert kinds(again) == ["planned"]
        assert objects.objects[KEY][1] == "broken"

    def test_a_head_of_a_newer_gpuplan_asks_for_an_upgrade(self, there: MirroredStore, objects: Objects) -> None:
        data, _, written = objects.objects[KEY]
        objects.objects[KEY] = (rewrite(lambda d: d.update(schema="gpuplan.run-head/2"))(data), "v9", written)
        with pytest.raises(StoreError, match="run-head/2") as caught:
            there.adopt(RUN)
        assert "upgrade" in caught.value.fix
        assert there.run_ids() == []

    @pytest.mark.parametrize("content", [b"this was an event log once\n" * 100, b""], ids=["scribbled", "emptied"])
    def test_a_damaged_copy_is_made_anew_and_the_damaged_one_kept(
        self, here: MirroredStore, machine: Callable[[str], MirroredStore], content: bytes
    ) -> None:
        here.append(RUN, SUBMITTING)
        path = here.folder(RUN) / "events.sqlite3"
        path.write_bytes(content)
        again = machine("here")
        assert again.record(RUN).state == "running"
        assert kinds(again) == ["planned", "submitting"]
        kept = list(here.folder(RUN).glob("*.damaged-*"))
        assert [file.read_bytes() for file in kept] == ([content] if content else [])
        assert again.run_ids() == [RUN]
        path.write_bytes(b"again")
        assert machine("here").record(RUN).state == "running"

    def test_a_copy_that_was_lost_is_made_anew(
        self, here: MirroredStore, machine: Callable[[str], MirroredStore]
    ) -> None:
        shutil.rmtree(here.folder(RUN))
        again = machine("here")
        assert again.resolve(RUN) == RUN
        assert again.record(RUN).state == "planned"

    def test_a_copy_that_contradicts_the_head_is_refused_and_both_are_kept(
        self, here: MirroredStore, machine: Callable[[str], MirroredStore], objects: Objects
    ) -> None:
        path = here.folder(RUN) / "events.sqlite3"
        with sqlite3.connect(path) as connection:
            body = '{"kind": "cancel-requested"}'
            connection.execute("INSERT INTO events (at, body) VALUES ('2026-11-22T00:00:09+00:00', ?)", (body,))
        connection.close()
        with pytest.raises(StoreError, match="not the beginning") as caught:
            machine("here").record(RUN)
        assert f"mv {here.folder(RUN)}" in caught.value.fix
        assert objects.kinds() == ["planned"]
        assert kinds(here) == ["planned", "cancel-requested"]

    def test_a_head_that_was_deleted_comes_back_with_the_next_write(
        self, here: MirroredStore, there: MirroredStore, objects: Objects
    ) -> None:
        here.append(RUN, SUBMITTING)
        del objects.objects[KEY]
        with pytest.raises(UsageError, match="no run"):
            there.adopt(RUN)
        assert here.record(RUN).state == "running"
        here.append(RUN, FAILED)
        assert objects.kinds() == kinds(here) == ["planned", "submitting", "failed"]
        assert objects.document()["lease"]["number"] == 1  # type: ignore[index] # JSON object by construction

    def test_reading_without_the_object_store_is_an_error_but_the_copy_is_there(
        self, here: MirroredStore, machine: Callable[[str], MirroredStore], objects: Objects
    ) -> None:
        del here
        objects.faults = ["down"]
        again = machine("here")
        with pytest.raises(UnreachableError):
            again.record(RUN)
        assert again.local.record(RUN).state == "planned"

    def test_a_home_whose_id_was_damaged_gets_another(
        self, machine: Callable[[str], MirroredStore], make_plan: MakePlan, tmp_path: Path
    ) -> None:
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "client-id").write_bytes(b"\xff\0")
        machine("here").create(RUN, Planned(plan=make_plan()))
        machine("here").take(RUN)

    def test_a_home_that_is_a_file_is_an_error_with_a_fix(
        self, machine: Callable[[str], MirroredStore], make_plan: MakePlan, tmp_path: Path
    ) -> None:
        (tmp_path / "here").write_text("mine")
        with pytest.raises(StoreError) as caught:
            machine("here").create(RUN, Planned(plan=make_plan()))
        assert "GPUPLAN_HOME" in caught.value.fix


def test_a_head_that_others_write_all_the_time_is_given_up_with_words(
    here: MirroredStore, there: MirroredStore, objects: Objects
) -> None:
    def first() -> None:
        objects.faults.clear()
        there.append(RUN, CancelRequested())
        objects.faults = ["", first]

    objects.faults = [first]
    with pytest.raises(UnreachableError, match="cannot write") as caught:
        here.append(RUN, SUBMITTING)
    assert caught.value.fix
    objects.faults = []
    here.append(RUN, SUBMITTING)
    assert objects.kinds() == kinds(here)
