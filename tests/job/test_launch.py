"""The launcher with real processes: an attempt starts once, ends whole, and always says how it ended."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpuplan_job import claim, launch
from gpuplan_job.contract import Failure, JobInput
from gpuplan_job.stop_request import StopRequest

if TYPE_CHECKING:
    from collections.abc import Callable

SUCCEEDS = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[2])
with (folder / "runs").open("a") as runs:
    runs.write("run\\n")
names = ("GPUPLAN_JOB_DIR", "TMPDIR", "OMP_NUM_THREADS", "PYTHONPATH")
seen = {name: os.environ[name] for name in names}
seen["TMPDIR resolved"] = str(pathlib.Path(seen["TMPDIR"]).resolve())
(folder / "environment").write_text(json.dumps(seen))
(folder / "train_result.json").write_text("{}")
"""
WAITS = """
import pathlib, sys, time
(pathlib.Path(sys.argv[2]) / "started").touch()
time.sleep(60)
"""
LEAVES_A_STUBBORN_GRANDCHILD = """
import pathlib, subprocess, sys, time
grandchild = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)
started = subprocess.Popen([sys.executable, "-c", grandchild], start_new_session=True, stdout=subprocess.PIPE)
started.stdout.readline()
(pathlib.Path(sys.argv[2]) / "started").write_text(str(started.pid))
time.sleep(60)
"""
LISTENS = """
import pathlib, signal, sys, time
from gpuplan_job.stop_request import StopRequest
folder = pathlib.Path(sys.argv[2])
request = StopRequest(folder)
request.listen()
(folder / "started").touch()
while not request.asked():
    time.sleep(0.01)
time.sleep(0.3)
(folder / "saved").touch()
sys.exit(143)
"""
KILLS_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


class Job:
    """One attempt's input and folder, with the launchers started on it."""

    def __init__(self, path: Path, folder: Path, job_input: JobInput) -> None:
        self.path = path
        self.folder = folder
        self.source = folder.with_suffix(".json")
        self.source.write_text(job_input.to_json())

    def start(self, *flags: str) -> subprocess.Popen[str]:
        command = [sys.executable, *flags, "-m", "gpuplan_job.launch", str(self.source), str(self.folder)]
        settings = {**os.environ, "PYTHONPATH": str(self.path), "PYTHONSAFEPATH": "1"}
        return subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True)

    def run(self, *flags: str) -> tuple[int, str]:
        process = self.start(*flags)
        _, said = process.communicate(timeout=30)
        return process.returncode, said

    @property
    def exit_code(self) -> int:
        return int(json.loads((self.folder / "exit.json").read_text())["code"])

    @property
    def failure(self) -> Failure:
        return Failure.from_json((self.folder / "failure.json").read_bytes())


@pytest.fixture
def job(payload: Callable[[str], Path], tmp_path: Path, train_input: JobInput) -> Callable[[str], Job]:
    return lambda script: Job(payload(script), tmp_path / "attempt", train_input)


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_job_that_writes_its_result_succeeds(job: Callable[[str], Job]) -> None:
    attempt = job(SUCCEEDS)
    assert attempt.run() == (0, "")
    assert attempt.exit_code == 0
    assert not (attempt.folder / "tmp").exists()
    assert not (attempt.folder / "failure.json").exists()
    seen = json.loads((attempt.folder / "environment").read_text())
    assert seen["GPUPLAN_JOB_DIR"] == str(attempt.folder)
    assert seen["TMPDIR resolved"] == str(attempt.folder / "tmp")
    assert len(seen["TMPDIR"]) <= 64
    assert seen["PYTHONPATH"].startswith(str(attempt.path))
    assert int(seen["OMP_NUM_THREADS"]) >= 1


def test_a_finished_attempt_is_not_run_again(job: Callable[[str], Job]) -> None:
    attempt = job(SUCCEEDS)
    attempt.run()
    code, said = attempt.run()
    assert (code, "already done" in said) == (0, True)
    assert (attempt.folder / "runs").read_text() == "run\n"


def test_a_second_launcher_steps_back_while_the_first_lives(job: Callable[[str], Job]) -> None:
    attempt = job(WAITS)
    first = attempt.start()
    wait_for((attempt.folder / "started").exists)
    code, said = attempt.run()
    assert (code, "another launcher" in said) == (0, True)
    assert first.poll() is None
    assert int((attempt.folder / "claim").read_text()) == first.pid
    first.terminate()
    first.communicate(timeout=20)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child with its parent")
def test_an_attempt_whose_launcher_died_is_not_started_again(job: Callable[[str], Job]) -> None:
    attempt = job("from gpuplan_job import process_tree\nprocess_tree.die_with_parent()\n" + WAITS)
    first = attempt.start()
    wait_for((attempt.folder / "started").exists)
    first.kill()
    first.communicate(timeout=20)
    code, said = attempt.run()
    assert (code, "an attempt is started once" in said) == (75, True)
    assert not (attempt.folder / "exit.json").exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_the_whole_tree_and_is_recorded(job: Callable[[str], Job], number: signal.Signals) -> None:
    attempt = job(LEAVES_A_STUBBORN_GRANDCHILD)
    first = attempt.start()
    started = attempt.folder / "started"
    wait_for(lambda: started.exists() and bool(started.read_text()))
    grandchild = int(started.read_text())
    assert alive(grandchild)
    first.send_signal(number)
    first.communicate(timeout=20)
    assert first.returncode == attempt.exit_code == 143
    wait_for(lambda: not alive(grandchild))
    assert (attempt.failure.kind, number.name in attempt.failure.message) == ("killed", True)


def test_a_training_that_listens_is_asked_to_stop_and_left_to_save(job: Callable[[str], Job]) -> None:
    attempt = job(LISTENS)
    first = attempt.start()
    wait_for((attempt.folder / "started").exists)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)
    assert first.returncode == attempt.exit_code == 143
    assert (attempt.folder / "saved").exists()


def test_what_an_earlier_training_of_the_folder_listened_on_keeps_nobody_waiting(job: Callable[[str], Job]) -> None:
    attempt = job(LEAVES_A_STUBBORN_GRANDCHILD)
    attempt.folder.mkdir()
    StopRequest(attempt.folder).listen()
    first = attempt.start()
    wait_for((attempt.folder / "started").exists)
    assert not (attempt.folder / "stop-request").exists()
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)
    assert first.returncode == 143


def test_one_that_listens_and_does_not_end_is_killed_after_the_grace(job: Callable[[str], Job]) -> None:
    attempt = job(LISTENS.replace("while not request.asked()", "while True"))
    source = (attempt.path / "gpuplan_job" / "supervision.py").read_text()
    short = source.replace("GRACE_SECONDS = 10.0", "GRACE_SECONDS = 0.5")
    (attempt.path / "gpuplan_job" / "supervision.py").write_text(short)
    first = attempt.start()
    wait_for((attempt.folder / "started").exists)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)
    assert (first.returncode, attempt.failure.kind) == (143, "killed")
    assert not (attempt.folder / "saved").exists()


def test_a_child_killed_from_outside_is_reported_with_the_signal(job: Callable[[str], Job]) -> None:
    attempt = job(KILLS_ITSELF)
    code, _ = attempt.run()
    assert code == attempt.exit_code == 128 + 9
    failure = attempt.failure
    assert (failure.kind, failure.rank, failure.signal) == ("killed", 0, "SIGKILL")
    assert "SIGKILL" in failure.message


@pytest.mark.parametrize(("script", "kind", "code"), [("", "internal", 1), ("raise SystemExit(3)", "crash", 19)])
def test_a_child_without_result_or_reason_is_a_failure(
    job: Callable[[str], Job], script: str, kind: str, code: int
) -> None:
    attempt = job(script)
    assert attempt.run()[0] == attempt.exit_code == code
    assert attempt.failure.kind == kind


def test_a_failure_the_child_wrote_is_kept(job: Callable[[str], Job]) -> None:
    failure = Failure("run-1", "train", 1, "data", "no images", "add some")
    attempt = job(
        f"import pathlib, sys\n(pathlib.Path(sys.argv[2]) / 'failure.json').write_text({failure.to_json()!r})"
    )
    assert attempt.run()[0] == attempt.exit_code == 11
    assert attempt.failure == failure


def test_a_missing_torch_is_named_with_the_command_that_brings_it(job: Callable[[str], Job]) -> None:
    attempt = job(SUCCEEDS)
    code, _ = attempt.run("-S")  # without site-packages
    assert code == attempt.exit_code == 12
    assert attempt.failure.kind == "import"
    assert "torch, torchvision, pytorch_lightning not installed" in attempt.failure.message
    assert attempt.failure.fix == "pip install 'gpuplan[local]'"


def test_an_unreadable_input_is_reported(job: Callable[[str], Job]) -> None:
    attempt = job(SUCCEEDS)
    attempt.source.write_text("{")
    assert attempt.run()[0] == attempt.exit_code == 2
    assert (attempt.failure.kind, attempt.failure.run_id) == ("usage", "")


def test_wrong_arguments_print_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["one"]) == 2
    assert "INPUT OUTPUT_DIR" in capsys.readouterr().err


def test_a_poller_that_holds_the_lock_for_an_instant_does_not_stop_the_launcher(tmp_path: Path) -> None:
    with (tmp_path / "claim").open("w") as poller:
        fcntl.flock(poller, fcntl.LOCK_SH)
        with claim.held(tmp_path, sleep=lambda _: fcntl.flock(poller, fcntl.LOCK_UN), clock=lambda: 0.0):
            assert int((tmp_path / "claim").read_text()) == os.getpid()


def test_a_lock_held_for_longer_means_another_launcher(tmp_path: Path) -> None:
    clock = iter([0.0, 1.0, 1.9, 2.1])
    with (tmp_path / "claim").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(claim.AlreadyRunningError), claim.held(tmp_path, lambda _: None, lambda: next(clock)):
            pytest.fail("the claim was given twice")
