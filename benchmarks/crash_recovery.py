"""Kill -9 the client at every failpoint, resume, and print what became of each run: points x outcome.

    python benchmarks/crash_recovery.py                  # on the fake backend, seconds
    python benchmarks/crash_recovery.py --backend local  # real range test and DDP training at each point, minutes

A run is recovered if `resume` ends with exit 0, every step succeeded, and each step has one job.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "gpuplan"
SMALL = ["--epochs", "1", "--runs", "1", "--lr-iterations", "40"]


@dataclass(frozen=True)
class Outcome:
    """What one kill led to."""

    point: str
    killed: bool
    recorded: str
    jobs: str
    result: str


def failpoints() -> list[str]:
    """Return every failpoint in the source."""
    texts = (path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    return sorted({name for text in texts for name in re.findall(r'failpoint\("([a-z-]+)"\)', text)})


def try_point(point: str, backend: str) -> Outcome:
    """Launch, die at the point, resume, and look at what is there."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        launch = ["launch", "--backend", backend, "--device", "cpu", *SMALL, "--yes"]
        killed = _gpuplan(home, *launch, point=point).returncode < 0
        listed = json.loads(_gpuplan(home, "list", "-o", "json").stdout)["runs"]
        if not listed:
            return Outcome(point, killed, "nothing", "none", "nothing was started")
        resumed = _gpuplan(home, "resume", "-o", "json")
        run = json.loads(resumed.stdout)
        jobs = _jobs(home, backend)
        once = sorted(jobs) == ["lr-find-1", "train-1"] and all(s["state"] == "succeeded" for s in run["steps"])
        result = "each step once" if resumed.returncode == 0 and once else f"NOT RECOVERED, exit {resumed.returncode}"
        return Outcome(point, killed, listed[0]["state"], ", ".join(sorted(jobs)), result)


def main() -> int:
    """Print the table; the exit status counts points that did not recover."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("fake", "local"), default="fake")
    backend = parser.parse_args().backend
    print(f"kill -9 of the client, backend {backend}\n")
    print("| killed at | died there | recorded before resume | jobs created | after resume |")
    print("|---|---|---|---|---|")
    lost = 0
    for point in failpoints():
        outcome = try_point(point, backend)
        lost += outcome.result.startswith("NOT") or not outcome.killed
        died = "yes" if outcome.killed else "NO"
        print(f"| {point} | {died} | {outcome.recorded} | {outcome.jobs} | {outcome.result} |", flush=True)
    print(f"\n{len(failpoints()) - lost} of {len(failpoints())} recovered")
    return lost


def _gpuplan(home: Path, *arguments: str, point: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"GPUPLAN_HOME": str(home), "GPUPLAN_FAILPOINT": f"{point}:kill" if point else ""}
    command = [sys.executable, "-c", "from gpuplan.cli.app import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, check=False)


def _jobs(home: Path, backend: str) -> list[str]:
    """Return `step-attempt` of every job that was created."""
    if backend == "local":
        return [path.name for path in home.glob("runs/*/jobs/*")]
    names = (path.stem for path in (home / "fake").glob("*.json"))
    return [found[1] for name in names if (found := re.search(r"-((?:lr-find|train)-[0-9]+)$", name))]


if __name__ == "__main__":
    sys.exit(main())
