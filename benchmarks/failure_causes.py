"""Real failures of two-process trainings on this machine: is the cause named right, the rank, and how soon?

    python benchmarks/failure_causes.py [NAME ...] [--bare]

Each row starts the job's own launcher on a training of two gloo processes, lets one rank fail on purpose once it has
trained a few steps, and compares what failure.json says with what was done. Seconds are from the fault to the
launcher's end. `--bare` starts the same training under torchrun alone and shows what that says last.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import gpuplan_job
from gpuplan_job.contract import BatchSpec, Failure, JobInput, TrainSpec, WorkloadSpec

FAULTS = Path(__file__).parent / "failures" / "faulty_train.py"
PATIENCE_SECONDS = 300


@dataclass(frozen=True)
class Fault:
    """What is done to a training, and what ought to be said of it."""

    name: str
    kind: str
    rank: int | None
    """The rank that fails first; None where both do, at once."""
    model: str = "shufflenet_v2_x0_5"
    data: str = "fake:3x32x32:4:400"
    workers: int = 0


FAULTS_DONE = (
    Fault("exception in forward", "user-code", 1),
    Fault("exception in backward", "user-code", 1),
    Fault("out of memory", "out-of-memory", 1),
    Fault("memory limit", "out-of-memory", 1),
    Fault("sigkill", "killed", 1),
    Fault("sigkill rank 0", "killed", 0),
    Fault("segfault", "crash", 1),
    Fault("abort", "crash", 1),
    Fault("exit", "crash", 1),
    Fault("NaN", "diverged", None),
    Fault("bad file", "data", 1),
    Fault("bad file in a worker", "data", 1, workers=1),
    Fault("killed worker", "killed", 1, workers=1),
    Fault("label out of range", "data", 1),
    Fault("missing import", "import", 1),
    Fault("unknown model", "usage", None, model="resnet19"),
    Fault("missing data", "data", None, data="imagefolder:/nowhere"),
    Fault("file too large", "disk", 0),
    Fault("unequal collectives", "stall", None),
    Fault("stuck rank", "stall", None),
)


def main(arguments: list[str]) -> int:
    """Print the table; return 1 if a row is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these faults")
    parser.add_argument("--bare", action="store_true", help="torchrun alone")
    chosen = parser.parse_args(arguments)
    wrong = 0
    header = "bare torchrun's last words" if chosen.bare else "kind      rank        seconds  message"
    print(f"{'fault':24} {header}", flush=True)
    for fault in FAULTS_DONE:
        if chosen.names and fault.name not in chosen.names:
            continue
        with tempfile.TemporaryDirectory(prefix="gpuplan-failures-") as place:
            wrong += bare(fault, Path(place)) if chosen.bare else ours(fault, Path(place))
    print("* from the launch: the fault is there from the start")
    what = "without a rank" if chosen.bare else "not named right"
    print(f"{wrong} of {len(chosen.names or FAULTS_DONE)} {what}", flush=True)
    return min(wrong, 1)


def ours(fault: Fault, place: Path) -> int:
    """Run a fault under the launcher, print its row; return 1 where it is not named right."""
    source, settings = prepare(fault, place)
    folder = place / "attempt"
    command = [sys.executable, "-m", "gpuplan_job.launch", str(source), str(folder)]
    begun = time.time()
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    ended = time.time()
    failure = Failure.from_json((folder / "failure.json").read_bytes())
    right = failure.kind == fault.kind and fault.rank in {None, failure.rank}
    since = f"{ended - fault_time(place, begun):6.1f}{' ' if (place / 'fault-time').exists() else '*'}"
    rank = f"{failure.rank} of {'any' if fault.rank is None else fault.rank}"
    sign = "" if right else f"  WRONG, {fault.kind}"
    print(f"{fault.name:24} {failure.kind:14} {rank:8} {since} {done.returncode}: {failure.message[:150]}{sign}")
    if not right:
        print("\n".join(done.stderr.splitlines()[-12:]))
    sys.stdout.flush()
    return 0 if right else 1


def bare(fault: Fault, place: Path) -> int:
    """Run a fault under torchrun alone, print what it says last and how soon; return 1 if it names no rank."""
    source, settings = prepare(fault, place)
    task = [str(place / "payload" / "gpuplan_job" / "train.py"), str(source), str(place / "attempt")]
    (place / "attempt").mkdir()
    # Without gpuplan's own report at once and exit: what a plain Lightning script does when a rank fails.
    settings["FAULT_BARE"] = "1"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *task]
    begun = time.time()
    try:
        done = subprocess.run(
            command, env=settings, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
        said = done.stderr.splitlines()
        took = f"{time.time() - fault_time(place, begun):6.1f}"
    except subprocess.TimeoutExpired:
        said, took = [], f"> {PATIENCE_SECONDS}"
    root = next((place for place, line in enumerate(said) if line.startswith("Root Cause")), len(said))
    shown = [line.strip() for line in said[root + 1 :] if line.strip().startswith(("rank", "exitcode", "traceback"))]
    print(f"{fault.name:24} {took} s  {'; '.join(shown)[:170]}", flush=True)
    named = f"rank      : {fault.rank}" in " ".join(shown) or fault.rank is None
    return 0 if named and shown else 1


def prepare(fault: Fault, place: Path) -> tuple[Path, dict[str, str]]:
    """Copy the payload with a training that fails so; return its input and its environment."""
    payload = place / "payload"
    origin = Path(gpuplan_job.__file__).parent
    shutil.copytree(origin, payload / "gpuplan_job", ignore=shutil.ignore_patterns("__pycache__"))
    (payload / "gpuplan_job" / "train.py").rename(payload / "gpuplan_job" / "healthy_train.py")
    shutil.copy(FAULTS, payload / "gpuplan_job" / "train.py")
    (place / "own").mkdir()
    (place / "own" / "own_model.py").write_text(OWN_MODEL)
    workload = WorkloadSpec(fault.model, fault.data, "sgd", 0.9, 5e-4, "constant", 0.0, 50, "fp32", 0, fault.workers)
    job = JobInput("faults", "train", 1, "plan", workload, BatchSpec(8, 2, 1), "cpu", train=TrainSpec(1e-3))
    if fault.name == "NaN":
        job = replace(job, train=TrainSpec(1e30))
    source = place / "input.json"
    source.write_text(job.to_json())
    path = os.pathsep.join([str(payload), str(place / "own")])
    own = {"PYTHONPATH": path, "FAULT": fault.name, "FAULT_RANK": str(fault.rank if fault.rank is not None else -1)}
    return source, os.environ | own | {"FAULT_TIME": str(place / "fault-time")}


def fault_time(place: Path, begun: float) -> float:
    """Return when the fault was done, in seconds since the epoch; for one that is there from the start, the start."""
    path = place / "fault-time"
    return float(json.loads(path.read_text())) if path.exists() else begun


OWN_MODEL = '''
"""A user's own code, which fails as it is told to."""


def fail_forward(x):
    scale = {}
    return x * scale["gain"]


def fail_backward(gradient):
    raise ValueError("the gradient is not what I expected")
'''

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
