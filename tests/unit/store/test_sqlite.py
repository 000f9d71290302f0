"""The event log on disk: durable, shared between processes, and left alone when something is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gpuplan.core.clock import SystemClock
from gpuplan.core.errors import StoreError, UsageError
from gpuplan.store.events import Planned, Resumed
from gpuplan.store.sqlite import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import MakePlan

RUN = "digits-0000000000001"
LOG = "events.sqlite3"
APPEND = """
import sys
from pathlib import Path
from gpuplan.core.clock import SystemClock
from gpuplan.core.job_state import JobState
from gpuplan.store.events import Observed
from gpuplan.store.sqlite import RunStore
home, run, attempt, times, then = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
store = RunStore(home, SystemClock())
for number in range(times):
    store.append(run, Observed(step="lr-find", attempt=attempt, state=JobState.RUNNING, detail=str(number)))
if then == "die":
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""
FILL = """
import resource, sys
from pathlib import Path
from gpuplan.core.clock import SystemClock
from gpuplan.core.errors import StoreError
from gpuplan.core.job_state import JobState
from gpuplan.store.events import Observed
from gpuplan.store.sqlite import RunStore
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
store = RunStore(Path(sys.argv[1]), SystemClock())
for number in range(1000):
    try:
        store.append(sys.argv[2], Observed(step="lr-find", attempt=1, state=JobState.RUNNING, detail="x" * 4000))
    except StoreError as error:
        print(number, error.what, error.why, error.fix, sep="|")
        break
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def begun(store: RunStore, make_plan: MakePlan) -> RunStore:
    store.create(RUN, Planned(plan=make_plan()))
    return store


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    return process.returncode, out


def test_a_recorded_event_would_survive_power_loss(begun: RunStore) -> None:
    path = begun.folder(RUN) / LOG
    with begun._connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "2 is FULL: fsync at every commit"


@pytest.mark.usefixtures("begun")
def test_events_outlive_the_process_that_was_killed_after_writing_them(home: Path) -> None:
    code, _ = finish(start(APPEND, home, RUN, 1, 3, "die"))
    assert code == -signal.SIGKILL
    again = RunStore(home, SystemClock())
    assert [stored.event.kind for stored in again.events(RUN)] == ["planned", *["observed"] * 3]
    assert [stored.seq for stored in again.events(RUN)] == [1, 2, 3, 4]


def test_processes_that_append_at_once_lose_nothing_and_keep_their_own_order(begun: RunStore, home: Path) -> None:
    writers = [start(APPEND, home, RUN, attempt, 25, "end") for attempt in (1, 2, 3)]
    assert [finish(writer)[0] for writer in writers] == [0, 0, 0]
    found = [stored.event for stored in begun.events(RUN)[1:]]
    for attempt in (1, 2, 3):
        assert [e.detail for e in found if e.kind == "observed" and e.attempt == attempt] == list(map(str, range(25)))


def test_times_and_numbers_rise(begun: RunStore) -> None:
    for _ in range(5):
        begun.append(RUN, Resumed())
    stored = begun.events(RUN)
    assert [item.seq for item in stored] == list(range(1, 7))
    assert sorted(item.at for item in stored) == [item.at for item in stored]


def test_the_record_is_the_fold_of_the_events_on_disk(begun: RunStore, make_plan: MakePlan) -> None:
    record = begun.record(RUN)
    assert record.plan == make_plan()
    assert record.plan.plan_id == make_plan().plan_id
    assert record.state == "planned"


def test_a_run_cannot_be_created_twice(begun: RunStore, make_plan: MakePlan) -> None:
    with pytest.raises(StoreError):
        begun.create(RUN, Planned(plan=make_plan({"workload.epochs": 9})))
    assert begun.record(RUN).plan == make_plan()


class TestResolving:
    """A run by the start of its id or of the id's last part."""

    RUNS = ("vgg-01aaa", "digits-01aab", "digits-02ccc")

    @pytest.fixture
    def runs(self, store: RunStore, make_plan: MakePlan) -> RunStore:
        for run in reversed(self.RUNS):
            store.create(run, Planned(plan=make_plan()))
        return store

    def test_runs_are_listed_oldest_first_whatever_their_workload(self, runs: RunStore) -> None:
        assert runs.run_ids() == list(self.RUNS)

    @pytest.mark.parametrize(
        ("prefix", "run"),
        [
            (None, "digits-02ccc"),
            ("vgg", "vgg-01aaa"),
            ("02", "digits-02ccc"),
            ("digits-01", "digits-01aab"),
            ("digits-01aab", "digits-01aab"),
        ],
    )
    def test_a_start_that_fits_one_run_names_it(self, runs: RunStore, prefix: str | None, run: str) -> None:
        assert runs.resolve(prefix) == run

    @pytest.mark.parametrize("prefix", ["digits", "01", ""])
    def test_a_start_that_fits_several_is_refused_with_their_names(self, runs: RunStore, prefix: str) -> None:
        with pytest.raises(UsageError, match=r"matches [23] runs") as caught:
            runs.resolve(prefix)
        assert "digits-01aab" in caught.value.why

    @pytest.mark.parametrize("prefix", ["digits-01aabb", "../digits-01aab", "igits", "*"])
    def test_a_start_of_nothing_is_refused(self, runs: RunStore, prefix: str) -> None:
        with pytest.raises(UsageError, match="there is no run"):
            runs.resolve(prefix)

    def test_without_runs_the_place_that_was_searched_is_named(self, store: RunStore, home: Path) -> None:
        with pytest.raises(UsageError) as caught:
            store.resolve(None)
        assert str(home) in caught.value.why
        assert caught.value.fix == "gpuplan launch"


def test_a_full_disk_is_an_error_with_a_fix_and_keeps_what_was_recorded(begun: RunStore, home: Path) -> None:
    code, out = finish(start(FILL, home, RUN, 128 * 1024))
    assert code == 0
    written, what, why, fix = out.strip().split("|")
    assert int(written) > 0, "the limit must be met while writing, not before"
    assert "cannot" in what
    assert "full" in why
    assert "GPUPLAN_HOME" in fix
    assert len(begun.events(RUN)) == 1 + int(written)
    begun.append(RUN, Resumed())
    assert begun.events(RUN)[-1].event == Resumed()


def test_a_home_that_cannot_be_a_folder_is_an_error_with_a_fix(tmp_path: Path, make_plan: MakePlan) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("mine")
    store = RunStore(blocker, SystemClock())
    with pytest.raises(StoreError) as caught:
        store.create(RUN, Planned(plan=make_plan()))
    assert "GPUPLAN_HOME" in caught.value.fix
    assert blocker.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to any folder")
def test_a_folder_that_is_read_only_is_an_error_with_a_fix(begun: RunStore) -> None:
    folder = begun.folder(RUN)
    folder.chmod(0o500)
    try:
        with pytest.raises(StoreError) as caught:
            begun.append(RUN, Resumed())
    finally:
        folder.chmod(0o700)
    assert "GPUPLAN_HOME" in caught.value.fix


def scribble(path: Path) -> None:
    path.write_bytes(b"this was an event log once\n" * 100)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def behead(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(b"\0" * 100 + content[100:])


def empty(path: Path) -> None:
    os.truncate(path, 0)


def replace_by_another_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photographs (name TEXT)")


DAMAGES = [scribble, halve, behead, empty, replace_by_another_database]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_log_is_refused_and_left_as_it_is(begun: RunStore, damage: Callable[[Path], None]) -> None:
    path = begun.folder(RUN) / LOG
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        begun.record(RUN)
    assert str(path) in caught.value.what
    assert caught.value.fix
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_log_hides_no_other_run(begun: RunStore, make_plan: MakePlan, damage: Callable[[Path], None]) -> None:
    begun.create("digits-0000000000002", Planned(plan=make_plan()))
    damage(begun.folder(RUN) / LOG)
    assert begun.record("digits-0000000000002").state == "planned"
    assert len(begun.run_ids()) == 2


@pytest.mark.parametrize(
    "body",
    ['{"kind": "planned"}', '{"kind": "of the future"}', "{}", "[]", '{"kind": "resumed", "extra": 1}', "}, {"],
)
def test_an_event_of_another_version_is_refused_in_words(begun: RunStore, body: str) -> None:
    with sqlite3.connect(begun.folder(RUN) / LOG) as connection:
        connection.execute("INSERT INTO events (at, body) VALUES ('2026-11-22T00:00:00+00:00', ?)", (body,))
    connection.close()
    with pytest.raises(StoreError, match="cannot read"):
        begun.record(RUN)


def before_lr_results_had_a_target(body: str) -> str:
    """Return an event as gpuplan wrote it when a range test did not say what its learning rate was for."""
    event = json.loads(body)
    for step in event["plan"]["steps"]:
        for key in ("target", "check", "compare"):
            step.get("sweep", {}).pop(key, None)
    return json.dumps(event)


def test_a_run_of_the_version_before_is_refused_with_what_differs_and_what_to_do(begun: RunStore) -> None:
    with sqlite3.connect(begun.folder(RUN) / LOG) as connection:
        [(body,)] = connection.execute("SELECT body FROM events WHERE seq = 1").fetchall()
        connection.execute("UPDATE events SET body = ? WHERE seq = 1", (before_lr_results_had_a_target(body),))
    connection.close()
    with pytest.raises(StoreError, match="cannot read") as caught:
        begun.record(RUN)
    assert "another version" in caught.value.why
    assert "sweep.target" in caught.value.why
    assert "gpuplan list" in caught.value.fix


def test_a_result_of_the_version_before_is_refused_in_words(begun: RunStore) -> None:
    body = '{"kind": "measured", "step": "lr-find", "attempt": 1, "result": {"schema": "gpuplan.lr-result/1"}}'
    with sqlite3.connect(begun.folder(RUN) / LOG) as connection:
        connection.execute("INSERT INTO events (at, body) VALUES ('2026-11-22T00:00:00+00:00', ?)", (body,))
    connection.close()
    with pytest.raises(StoreError, match="cannot read") as caught:
        begun.record(RUN)
    assert "gpuplan.lr-result/1" in caught.value.why


def test_a_decision_of_the_version_before_is_read_without_what_it_did_not_say(begun: RunStore) -> None:
    body = (
        '{"kind": "decided", "decision": {"verdict": "ok", "rule": "edge", "transfer": "sqrt", "learning_rate": 0.1, '
        '"band": [0.1, 0.2], "multiplier": 2.0, "training_learning_rate": 0.2, "reason": "", "fix": "", "note": ""}}'
    )
    with sqlite3.connect(begun.folder(RUN) / LOG) as connection:
        connection.execute("INSERT INTO events (at, body) VALUES ('2026-11-22T00:00:00+00:00', ?)", (body,))
    connection.close()
    decision = begun.record(RUN).decision
    assert decision is not None
    assert (decision.training_learning_rate, decision.band) == (0.2, (0.1, 0.2))
    assert (decision.by_policy, decision.warning) == ({}, "")


def test_a_log_that_names_a_step_its_plan_does_not_have_is_refused(begun: RunStore) -> None:
    body = '{"kind": "submitted", "step": "find-batch", "attempt": 1}'
    with sqlite3.connect(begun.folder(RUN) / LOG) as connection:
        connection.execute("INSERT INTO events (at, body) VALUES ('2026-11-22T00:00:00+00:00', ?)", (body,))
    connection.close()
    with pytest.raises(StoreError, match="cannot read"):
        begun.record(RUN)


def test_a_run_folder_that_was_copied_elsewhere_is_the_same_run(begun: RunStore, tmp_path: Path) -> None:
    shutil.copytree(begun.folder(RUN), tmp_path / "other" / "runs" / RUN)
    other = RunStore(tmp_path / "other", SystemClock())
    assert other.record(RUN) == begun.record(RUN)


CREATE = """
import resource, sys
from pathlib import Path
from gpuplan.core.clock import SystemClock
from gpuplan.core.errors import StoreError
from gpuplan.store.events import Resumed
from gpuplan.store.sqlite import RunStore
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
store = RunStore(Path(sys.argv[1]), SystemClock())
try:
    store.create("digits-1", Resumed())
except StoreError as error:
    print(error.fix, store.run_ids())
"""


def test_a_run_that_could_not_be_begun_leaves_nothing_that_looks_damaged(home: Path) -> None:
    code, out = finish(start(CREATE, home))
    assert code == 0
    assert out.strip().endswith("[]")
    assert "GPUPLAN_HOME" in out
    assert not list(home.glob("runs/*"))
