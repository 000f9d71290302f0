"""AWS calls of one whole lr-then-train run, by operation: what is called once a run, and what each look at a job costs.

    python benchmarks/run_calls.py > benchmarks/results/run-calls-$(date -u +%F).md

Drives the real command against the emulated SageMaker of `gpuplan.testing`, which counts calls as they arrive over
HTTP. The jobs are played, not run. The first launch downloads the training job's wheels with pip.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.backends.fake import synthetic_results
from gpuplan.store.lease import RENEW_SECONDS
from gpuplan.testing import Emulator
from gpuplan_job.contract import EXIT_FILE, JobInput
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuplan.testing import Call, JobView

POLL_SECONDS = 0.5
LOOK = "DescribeTrainingJob"
LOOKS_OF_A_PHASE = 5
PHASES = ("Starting", "Downloading", "Training")
METHOD = """\
`gpuplan launch --instance g5 --pipeline lr-then-train`, to its end, twice in one account: the second launch finds code
and wheels in the bucket. Each job stays {looks} looks, {seconds:g} s apart, in each of {phases}, and logs a line in
each. Calls are those that reached the server. A look is a DescribeTrainingJob; it and what reads the logs are given per
look, everything else per run, where a PutObject is an event or, every {renewal:g} s, a sign of life in the run's head.
`gpuplan plan` is the same plan, without the launch."""


class LaunchError(Exception):
    """The run did not succeed."""


def command(aws: Emulator, home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start gpuplan in a process of its own, with its output in a file."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GPUPLAN_")}
    environment = aws.environment(kept) | {"GPUPLAN_HOME": str(home)}
    argv = [sys.executable, "-c", "from gpuplan.cli.app import main; main()", *arguments]
    with (home / "output.txt").open("wb") as output:
        return subprocess.Popen(argv, stdout=output, stderr=output, cwd=home, env=environment)


def calls_of(aws: Emulator, home: Path, *arguments: str) -> list[Call]:
    """Return the calls of a command, while the platform's part is played.

    Raises:
        LaunchError: it did not end with exit 0.
    """
    before = len(aws.calls)
    process = command(aws, home, *arguments)
    while process.poll() is None:
        for job in aws.jobs():
            play(aws, job)
        time.sleep(0.02)
    if process.returncode != 0:
        said = (home / "output.txt").read_text(encoding="utf-8", errors="replace")
        raise LaunchError(f"gpuplan {arguments[0]} ended with {process.returncode}\n{said[-3000:]}")
    return aws.calls[before:]


def play(aws: Emulator, job: JobView) -> None:
    """Move a job on when it was looked at often enough; at its end it has written what a healthy job writes."""
    if job.status != "InProgress":
        return
    since = job.transitions[-1].started_at
    if sum(call.operation == LOOK and call.time > since for call in aws.calls) < LOOKS_OF_A_PHASE:
        return
    place = PHASES.index(job.secondary_status) + 1
    if place < len(PHASES):
        aws.advance(job.name, PHASES[place])
        aws.log(job.name, f"in {PHASES[place]}")
        return
    document = {key: json.loads(value) for key, value in job.request["HyperParameters"].items()}
    files = synthetic_results(JobInput.from_json(canonical_json(document)))
    digests = {name: sha256_hex(content.decode()) for name, content in files.items()}
    last = canonical_json({"code": 0, "files": digests}).encode()
    aws.complete(job.name, files | {EXIT_FILE: last}, billed_seconds=600)


def split(calls: Sequence[Call]) -> tuple[Counter[str], Counter[str], int]:
    """Return the calls made once a run, those of the looks, and the number of looks."""
    once: Counter[str] = Counter()
    of_looks: Counter[str] = Counter()
    for call in calls:
        (of_looks if call.operation == LOOK or call.service == "logs" else once)[
            f"{call.service} {call.operation}"
        ] += 1
    return once, of_looks, of_looks[f"sagemaker {LOOK}"]


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder, Emulator(execute=False) as aws:
        home = Path(folder)
        bucket, role = aws.prepare()
        where = ["--instance", "g5", "--region", "us-east-1", "--bucket", bucket, "--role", role]
        where += ["--poll-seconds", str(POLL_SECONDS)]
        planned = calls_of(aws, home, "plan", *where)
        runs = [split(calls_of(aws, home, "launch", *where, "--yes")) for _ in range(2)]
        states = Counter(job.status for job in aws.jobs())
    print(f"# AWS calls of a run, {datetime.now(UTC).date()}\n")
    method = {"looks": LOOKS_OF_A_PHASE, "seconds": POLL_SECONDS, "phases": ", ".join(PHASES)}
    print(METHOD.format(**method, renewal=RENEW_SECONDS) + "\n")
    print(f"Jobs created: {sum(states.values())}, of them {states['Completed']} completed.\n")
    print("| operation | gpuplan plan | first launch | second launch |\n| --- | --- | --- | --- |")
    for name in sorted(set().union(*(once for once, _, _ in runs))):
        print(f"| {name} | 0 | {' | '.join(str(once[name]) for once, _, _ in runs)} |")
    print(f"| once a run, together | {len(planned)} | {' | '.join(str(once.total()) for once, _, _ in runs)} |")
    for name in sorted(set().union(*(of_looks for _, of_looks, _ in runs))):
        print(f"| {name}, a look | 0 | {' | '.join(f'{of[name] / looks:.2f}' for _, of, looks in runs)} |")
    print(f"| a look, together | 0 | {' | '.join(f'{of.total() / looks:.2f}' for _, of, looks in runs)} |")
    print(f"| looks | 0 | {' | '.join(str(looks) for _, _, looks in runs)} |")


if __name__ == "__main__":
    main()
