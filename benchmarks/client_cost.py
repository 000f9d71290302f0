"""Calls, CPU time and memory of one client that watches a hundred running jobs, beside two ways of asking for each.

    python benchmarks/client_cost.py > benchmarks/results/client-cost-$(date -u +%F).md

Runs on the emulated SageMaker of `gpuplan.testing`, which counts calls as they arrive over HTTP. The claim is in the
counts and the ratios; seconds and MiB are the machine's.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import psutil

from gpuplan.backends import base as backends
from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.core import names
from gpuplan.core.clock import SystemClock
from gpuplan.planning.job_input import job_input
from gpuplan.store import events as ev
from gpuplan.store.sqlite import RunStore
from gpuplan.testing import Emulator
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.planning.plan import LaunchPlan

WARM_UP_LOOKS = 3
PATIENCE_SECONDS = 600.0
ONE_BY_ONE = """
import pathlib, sys, time
from gpuplan.backends import sagemaker
from gpuplan.workload.schema import Aws
seconds, handles = float(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text().split()
backend = sagemaker.create(pathlib.Path.cwd(), Aws(region="us-east-1"))
while True:
    for handle in handles:
        backend.poll(handle)
    time.sleep(seconds)
"""
WAITERS = """
import pathlib, sys, threading
import boto3
from botocore.config import Config
seconds, handles = float(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text().split()
client = boto3.client("sagemaker", region_name="us-east-1", config=Config(max_pool_connections=len(handles)))
def follow(name):
    waiter = client.get_waiter("training_job_completed_or_stopped")
    waiter.wait(TrainingJobName=name, WaiterConfig={"Delay": seconds, "MaxAttempts": 1_000_000})
for handle in handles:
    threading.Thread(target=follow, args=[handle.rpartition("/")[2]], daemon=True).start()
threading.Event().wait()
"""
METHOD = """\
Each way is one process that follows the same {jobs} training jobs, all in progress, and looks at them every {seconds:g}
s; after {warm_up} looks, {looks} more are measured, in each of {rounds} rounds that run every way once. Calls are those
that reached the server. CPU is user plus system time of the process; peak is the high-water mark of its resident
memory, growth what its resident memory grew by during the measured looks. Shown are medians (least to most); ratios are
taken within a round, then their median.

- `gpuplan watch --all`: the command, with {jobs} runs in its store.
- `one by one`: one thread that calls gpuplan's own `poll` for each job and does nothing else: no store, no display.
- `boto3 waiters`: boto3's `training_job_completed_or_stopped` waiter, a thread a job, one client.

What the figures do not say: a job that is neither in progress nor over (stopping, not to be seen yet) and the end
of each job cost `watch --all` a DescribeTrainingJob of their own. SageMaker cuts its list of all jobs into pages of a
hundred before it filters by status, the emulator after: with other jobs newer than the watched ones there are more
pages to read, at most one for every four watched jobs."""


class ClientError(Exception):
    """A client ended, or did not do what is to be measured."""


@dataclass(frozen=True)
class Way:
    """A way to watch jobs, and the call by which its looks are counted."""

    label: str
    argv: tuple[str, ...]
    operation: str
    calls_of_a_look: int


@dataclass(frozen=True)
class Figures:
    """What one client process used."""

    calls: float
    """A look."""
    cpu_ms: float
    """A look."""
    start_cpu_seconds: float
    """Up to the end of the warm-up."""
    peak_mib: float
    growth_mib: float


def ways(jobs: int, poll_seconds: float, handles: Path) -> list[Way]:
    """Return what is compared, gpuplan first."""
    argument = (str(poll_seconds), str(handles))
    describe = ("DescribeTrainingJob", jobs)
    watch = (sys.executable, "-c", "from gpuplan.cli.app import main; main()", "watch", "--all")
    return [
        Way("gpuplan watch --all", watch, "ListTrainingJobs", -(-jobs // 100)),
        Way("one by one", (sys.executable, "-c", ONE_BY_ONE, *argument), *describe),
        Way("boto3 waiters", (sys.executable, "-c", WAITERS, *argument), *describe),
    ]


def start_jobs(aws: Emulator, home: Path, count: int, poll_seconds: float) -> list[str]:
    """Put runs into a store and their lr-find jobs into SageMaker, training; return the jobs' handles."""
    bucket, role = aws.prepare()
    place = {"aws.region": "us-east-1", "aws.bucket": bucket, "aws.role_arn": role, "aws.poll_seconds": poll_seconds}
    values = {"launch.instance": "g5", "launch.backend": "sagemaker", **place}
    plan = plan_from(Given(values, dict.fromkeys(values, "the benchmark"), None)).plan
    backend = backends.create(plan.backend, home, plan.provenance.settings.aws)
    return [_start_job(aws, plan, backend, RunStore(home, SystemClock()), number) for number in range(count)]


def _start_job(aws: Emulator, plan: LaunchPlan, backend: backends.Backend, store: RunStore, number: int) -> str:
    run_id, step = names.run_id("watched", datetime.now(UTC), number), plan.steps[0]
    job = job_input(plan, step, run_id=run_id, attempt=1, learning_rate=None)
    request = backend.render(
        backends.JobSpec.of(step, job, owner="benchmark", limits=step.limits, expires_at=datetime.now(UTC))
    )
    code = request.body["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"]
    bucket, _, folder = code.removeprefix("s3://").partition("/")
    aws.client("s3").put_object(Bucket=bucket, Key=f"{folder}payload.pyz", Body=b"no job of this benchmark runs")
    aws.client("sagemaker").create_training_job(**request.body)
    aws.advance(request.name, "Training")
    store.create(run_id, ev.Planned(plan=plan, owner="benchmark"))
    intent = ev.Submitting(
        step=step.name,
        attempt=1,
        job_name=request.name,
        handle=request.handle,
        request_sha256=sha256_hex(canonical_json(request.body)),
    )
    store.append(run_id, intent)
    store.append(run_id, ev.Submitted(step=step.name, attempt=1))
    return request.handle


def measure(aws: Emulator, way: Way, home: Path, looks: int) -> Figures:
    """Let one process look so many times after a warm-up.

    Raises:
        ClientError: it ends by itself, or takes too long.
    """
    before = len(aws.calls)
    with _running(aws, way, home) as process:
        _await(aws, way, process, before, WARM_UP_LOOKS * way.calls_of_a_look)
        begun, cpu, resident = len(aws.calls), _cpu_seconds(process), process.memory_info().rss
        _await(aws, way, process, begun, looks * way.calls_of_a_look)
        calls, used = aws.calls[begun:], _cpu_seconds(process) - cpu
        made = sum(call.operation == way.operation for call in calls) / way.calls_of_a_look
        growth = (process.memory_info().rss - resident) / 2**20
        return Figures(len(calls) / made, 1000 * used / made, cpu, _peak_mib(process.pid), growth)


@contextmanager
def _running(aws: Emulator, way: Way, home: Path) -> Iterator[psutil.Popen]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GPUPLAN_")}
    environment = aws.environment(kept) | {"GPUPLAN_HOME": str(home)}
    nowhere = subprocess.DEVNULL
    process = psutil.Popen(way.argv, stdin=nowhere, stdout=nowhere, stderr=nowhere, cwd=home, env=environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


def _await(aws: Emulator, way: Way, process: psutil.Popen, begun: int, calls: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sum(call.operation == way.operation for call in aws.calls[begun:]) < calls:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ClientError(f"{way.label}: {calls} {way.operation} did not come, exit status {process.poll()}")
        time.sleep(0.05)


def _cpu_seconds(process: psutil.Popen) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _peak_mib(pid: int) -> float:
    # Not rusage's: that begins with what the parent had before exec.
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def rows(found: dict[Way, list[Figures]]) -> Iterator[tuple[str, ...]]:
    """Yield the table's rows, the heading first: medians with their range, and ratios to gpuplan's."""
    yield "way", "AWS calls a look", "CPU ms a look", "CPU s to start", "peak MiB", "growth MiB"
    (_, ours), *_ = found.items()
    for way, figures in found.items():
        cells = [_spread([getattr(each, name) for each in figures], form) for name, form in _COLUMNS]
        yield (way.label, *cells)
    for way, figures in list(found.items())[1:]:
        ratios = [
            f"{median(_ratio(theirs, own, name) for theirs, own in zip(figures, ours, strict=True)):.3g} x"
            for name, _ in _COLUMNS[:-1]
        ]
        yield (f"{way.label} / {next(iter(found)).label}", *ratios, "")


_COLUMNS = (
    ("calls", ".1f"),
    ("cpu_ms", ".1f"),
    ("start_cpu_seconds", ".2f"),
    ("peak_mib", ".1f"),
    ("growth_mib", ".2f"),
)


def _spread(values: list[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _ratio(theirs: Figures, ours: Figures, name: str) -> float:
    return float(getattr(theirs, name) / getattr(ours, name))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100, help="runs to watch (default 100)")
    parser.add_argument("--looks", type=int, default=20, help="measured looks of each process (default 20)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each way (default 3)")
    parser.add_argument("--poll-seconds", type=float, default=1.0, help="pause between two looks (default 1)")
    given = parser.parse_args()
    found: dict[Way, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as folder, Emulator(execute=False) as aws:
        home = Path(folder)
        handles = home / "handles.txt"
        handles.write_text("\n".join(start_jobs(aws, home, given.jobs, given.poll_seconds)), encoding="utf-8")
        for number in range(given.rounds):
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
            for way in ways(given.jobs, given.poll_seconds, handles):
                found.setdefault(way, []).append(measure(aws, way, home, given.looks))
    print(f"# Watching {given.jobs} runs, {datetime.now(UTC).date()}\n")
    method = {"jobs": given.jobs, "seconds": given.poll_seconds, "looks": given.looks, "rounds": given.rounds}
    print(METHOD.format(**method, warm_up=WARM_UP_LOOKS) + "\n")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("gpuplan", "boto3"))
    system = f"{platform.system()} {platform.release()}, {platform.python_implementation()} {platform.python_version()}"
    print(f"{os.cpu_count()} cores, {system}, {versions}; load average {os.getloadavg()[0]:.1f} at the end.\n")
    heading, *rest = rows(found)
    for row in (heading, ("---",) * len(heading), *rest):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
