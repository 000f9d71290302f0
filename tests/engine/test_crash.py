"""kill -9 of the client at every failpoint, then `resume`, through the real command line on a fake backend.

The failpoints are read from the source: one that is added is tested, one that nothing reaches fails here.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpuplan.backends.fake import FakeBackend

SOURCE = Path(__file__).resolve().parents[2] / "src" / "gpuplan"
FAILPOINTS = sorted(
    {name for path in SOURCE.rglob("*.py") for name in re.findall(r'failpoint\("([a-z-]+)"\)', path.read_text())}
)


def gpuplan(home: Path, *arguments: str, failpoint: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    environment = os.environ | {"GPUPLAN_HOME": str(home), "GPUPLAN_FAILPOINT": failpoint}
    command = [sys.executable, "-c", "from gpuplan.cli.app import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, check=False)


def test_there_are_failpoints_around_every_effect() -> None:
    assert len(FAILPOINTS) >= 10


@pytest.mark.parametrize("name", FAILPOINTS)
def test_kill_9_then_resume_ends_with_each_step_done_once(name: str, tmp_path: Path) -> None:
    launched = gpuplan(tmp_path, "launch", "--backend", "fake", "--yes", failpoint=f"{name}:kill")
    assert launched.returncode == -signal.SIGKILL, f"nothing reaches failpoint {name}"
    if name == "before-create":
        assert "no runs yet" in gpuplan(tmp_path, "list").stdout
        return
    resumed = gpuplan(tmp_path, "resume", "-o", "json")
    assert resumed.returncode == 0, resumed.stderr
    record = json.loads(resumed.stdout)
    assert record["state"] == "succeeded"
    jobs = [created.removeprefix(record["run_id"] + "-") for created in FakeBackend(tmp_path / "fake").created()]
    assert jobs == ["lr-find-1", "train-1"]
