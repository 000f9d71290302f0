"""The process that watches a rank: what it passes on, what it keeps, and what it says of the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gpuplan_job import rank
from gpuplan_job.contract import Progress

if TYPE_CHECKING:
    from pathlib import Path

PROGRESS = Progress("train", "epoch 1 of 2", 3, 10, {"loss": 1.0}).to_line()


def start(folder: Path, script: str, number: int = 0, world_size: int = 1) -> subprocess.Popen[str]:
    (folder / "task.py").write_text(script)
    own = os.environ.get("PYTHONPATH", "")
    settings = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{own}", "RANK": str(number)}
    command = [sys.executable, "-m", "gpuplan_job.rank", str(folder / "ranks"), "task", "one", "two"]
    return subprocess.Popen(
        command,
        env=settings | {"WORLD_SIZE": str(world_size), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(folder: Path, process: subprocess.Popen[str]) -> tuple[str, str, rank.RankEnd]:
    out, err = process.communicate(timeout=30)
    (end,) = rank.read(folder / "ranks")
    return out, err, end


def test_alone_it_passes_everything_on_as_it_is(tmp_path: Path) -> None:
    script = (
        f"import sys\nprint(sys.argv[1:])\nprint({PROGRESS!r})\nprint('no end', end='', file=sys.stderr)\nsys.exit(7)"
    )
    process = start(tmp_path, script)
    out, err, end = ended(tmp_path, process)
    assert (out, err) == (f"['one', 'two']\n{PROGRESS}\n", "no end\n")
    assert (process.returncode, end.code, end.rank, end.stopped) == (7, 7, 0, False)
    assert sorted(end.last_lines) == ["['one', 'two']", "no end"]


def test_among_several_its_lines_are_marked_and_progress_is_still_progress(tmp_path: Path) -> None:
    out, _, end = ended(tmp_path, start(tmp_path, f"print('hello')\nprint({PROGRESS!r})", 1, 2))
    assert out == f"[rank 1] hello\n{PROGRESS}\n"
    assert (end.rank, end.last_lines) == (1, ["hello"])


def test_the_last_lines_are_kept_and_long_ones_cut(tmp_path: Path) -> None:
    script = "for i in range(50): print(f'line {i}')\nprint('x' * 5000)"
    _, _, end = ended(tmp_path, start(tmp_path, script))
    assert len(end.last_lines) == rank.KEPT_LINES
    assert end.last_lines[0] == "line 31"
    assert end.last_lines[-1] == "x" * 400 + " ..."


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_a_signal_ends_is_reported_with_it(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, f"import os\nprint('about to', flush=True)\nos.kill(os.getpid(), {int(number)})")
    _, _, end = ended(tmp_path, process)
    assert (end.code, process.returncode) == (-number, 128 + number)
    assert "about to" in end.last_lines


def test_an_uncaught_exception_of_cpp_is_kept_though_a_long_trace_follows(tmp_path: Path) -> None:
    script = (
        "print('terminate called after throwing an instance of X\\n  what():  no peer')\nfor i in range(99): print(i)"
    )
    _, _, end = ended(tmp_path, start(tmp_path, script))
    assert end.thrown == "no peer"


def test_a_request_to_stop_reaches_the_process_once_and_is_noted(tmp_path: Path) -> None:
    script = """
import signal, sys, time
seen = []
signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
print("ready", flush=True)
while not seen:
    time.sleep(0.01)
time.sleep(0.2)
sys.exit(40 + len(seen))
"""
    process = start(tmp_path, script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, _, end = ended(tmp_path, process)
    assert (end.code, end.stopped) == (41, True)


def test_children_that_outlive_the_process_do_not_hold_its_end_up(tmp_path: Path) -> None:
    script = "import subprocess, sys\nsubprocess.Popen(['sleep', '20'])\nprint('gone')\nsys.exit(3)"
    process = start(tmp_path, script)
    process.wait(timeout=15)
    (end,) = rank.read(tmp_path / "ranks")
    assert (end.code, end.last_lines) == (3, ["gone"])
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        stream.close()
