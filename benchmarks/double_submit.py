"""Jobs that are created twice, or forgotten, when the network, the client and its user misbehave: gpuplan and a script.

    python benchmarks/double_submit.py > benchmarks/results/double_submit.md

Each trial is a run on the emulated SageMaker of `gpuplan.testing` with random faults around CreateTrainingJob, kill -9
of its client and a second client. Its peer calls boto3 as scripts do, under the same faults. Exit status: trials lost.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from submit_trials.script import run_script
from submit_trials.trial import ALL, CANCEL, POLL_SECONDS, STEPS, TAKE_OVER, Trial

from gpuplan.aws.s3 import Bucket
from gpuplan.aws.session import Session
from gpuplan.backends.fake import synthetic_results
from gpuplan.cli.app import main as command_line
from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.core import names
from gpuplan.core.clock import SystemClock
from gpuplan.store.events import Planned
from gpuplan.store.mirror import MirroredStore
from gpuplan.testing import Emulator, EmulatorError
from gpuplan_job.contract import EXIT_FILE, JobInput
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import ForkServerProcess

    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.testing import JobView

REPEATS = 15
WORKERS = 4
BATCH = 40
"""Trials in one emulator: it is slower the more jobs it has seen."""
FRESH = 8
"""In each such trial clients have an interpreter of their own; in the others they are forked from one that is warm."""


METHOD = """\
A trial is a run of lr-find and train on g5. What becomes of the first create calls of each step, whether the answer
comes late or the job is not shown at first, when the client is killed by SIGKILL (at a failpoint, or at any moment) and
which second client comes when, is drawn from the seed. Then the run is resumed, or cancelled where the second client
cancelled, until that succeeds. Every client is the real command line in a process of its own; in {fresh} of the trials
each has a fresh interpreter, in the others it is forked from one that has its modules loaded.

Created twice: training jobs beyond one a step. Forgotten: jobs still alive at the end. Not ended: a step of a run that
was not cancelled has no completed job. The script is plain boto3 with its retries and a name with the time in it, as
the SageMaker SDK makes them. It meets the same answers and dies as often, but has no second client, waits for a job
that is not shown, knows after its death which steps are done, and is started again until both are.

A row counts the trials in which that went wrong, whatever else did; an answer is counted as often as a step met it.
"""


@dataclass
class Outcome:
    """What a trial led to, for gpuplan and for the script."""

    trial: Trial
    codes: list[int] = field(default_factory=list)
    """Exit codes of gpuplan's clients, negative for a signal."""
    doubled: int = 0
    forgotten: int = 0
    unfinished: int = 0
    script_doubled: int = 0


def run_command(arguments: list[str], environment: dict[str, str]) -> None:
    """Be a gpuplan client, in a process of its own."""
    os.environ.clear()
    os.environ.update(environment)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        command_line(arguments)


@dataclass(frozen=True)
class Client:
    """A gpuplan command that was started."""

    process: ForkServerProcess | subprocess.Popen[bytes]

    def code(self, timeout: float | None = None) -> int | None:
        """Return its exit code once it has ended; None if it has not in time."""
        if not isinstance(self.process, subprocess.Popen):
            self.process.join(timeout)
            return self.process.exitcode
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
        return self.process.returncode


@dataclass(frozen=True)
class Bench:
    """The account, and how clients are started in it."""

    aws: Emulator
    bucket: str
    plan: LaunchPlan
    session: Session
    root: Path

    def start(self, machine: str, trial: Trial, *arguments: str, point: str = "") -> Client:
        """Start a client on one of the trial's machines."""
        home = self.root / f"{trial.number}-{machine}"
        environment = dict(os.environ) | {"GPUPLAN_HOME": str(home), "GPUPLAN_BUCKET": self.bucket}
        environment |= {"GPUPLAN_FAILPOINT": point}
        if trial.number % FRESH == 0:
            program = [sys.executable, "-c", "from gpuplan.cli.app import main; main()", *arguments]
            return Client(
                subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
        process = get_context("forkserver").Process(target=run_command, args=(list(arguments), environment))
        process.start()
        return Client(process)

    def new_run(self, trial: Trial) -> str:
        """Record a planned run on the trial's first machine and return its id."""
        run_id = names.run_id("trial", datetime.now(UTC), trial.number)
        bucket = Bucket(self.session, self.bucket)
        store = MirroredStore(self.root / f"{trial.number}-here", SystemClock(), bucket, "gpuplan")
        store.create(run_id, Planned(plan=self.plan, owner="bench"))
        store.release(run_id)
        return run_id

    def jobs(self, base: str) -> list[JobView]:
        """Return the jobs whose names begin with `base`."""
        return [job for job in self.aws.jobs() if job.name.startswith(f"{base}-")]

    def doubled(self, base: str) -> int:
        """Return how many jobs were created beyond one a step."""
        created = Counter(next(step for step in STEPS if f"-{step}-" in job.name) for job in self.jobs(base))
        return sum(count - 1 for count in created.values())


def try_gpuplan(bench: Bench, outcome: Outcome) -> str:
    """Carry a trial out with gpuplan, then repeat the user's last wish until it is met; return the run's id."""
    trial = outcome.trial
    run_id = bench.new_run(trial)
    trial.set_up(bench.aws, run_id)
    clients = [bench.start("here", trial, "resume", run_id, point=trial.kill_at)]
    wish = ["cancel", run_id] if trial.second == CANCEL else ["resume", run_id, "--take-over"]
    if trial.second:
        time.sleep(trial.second_after)
        machine = "here" if trial.second == "same machine" else "there"
        arguments = wish if trial.second in {CANCEL, TAKE_OVER} else ["resume", run_id]
        clients.append(bench.start(machine, trial, *arguments))
    if trial.kill_after is not None and clients[0].code(trial.kill_after) is None:
        clients[0].process.kill()
    # A cancel beside a client that died may wait for ten minutes; the same wish on that client's machine need not.
    for client in clients[: 1 if trial.second == CANCEL else None]:
        outcome.codes.append(client.code() or 0)
    for _ in range(REPEATS):
        outcome.codes.append(bench.start("here", trial, *wish).code() or 0)
        if outcome.codes[-1] == 0:
            break
    else:
        outcome.unfinished = 1
    clients[-1].code()
    return run_id


def judge(bench: Bench, outcome: Outcome, run_id: str) -> None:
    """Count the jobs of a run that has ended: twice created, still alive, or never created."""
    jobs = bench.jobs(run_id)
    outcome.doubled = bench.doubled(run_id)
    outcome.forgotten = sum(job.status in {"InProgress", "Stopping"} for job in jobs)
    if outcome.trial.second != CANCEL:
        outcome.unfinished |= sum(job.status == "Completed" for job in jobs) < len(STEPS)


def play(bench: Bench, over: threading.Event) -> None:
    """Let every job end well soon after it was created."""
    while not over.wait(0.1):
        for job in bench.aws.jobs():
            if job.status != "InProgress":
                continue
            with suppress(EmulatorError):
                if job.secondary_status == "Starting":
                    bench.aws.advance(job.name, "Training")
                else:
                    bench.aws.complete(job.name, results(job), billed_seconds=600)


def results(job: JobView) -> dict[str, bytes]:
    """Return what a healthy job of that request leaves."""
    told = ",".join(f'"{key}":{value}' for key, value in job.request["HyperParameters"].items())
    files = synthetic_results(JobInput.from_json(f"{{{told}}}"))
    digests = {name: sha256_hex(content) for name, content in files.items()}
    return {**files, EXIT_FILE: canonical_json({"code": 0, "files": digests}).encode()}


def run_trials(aws: Emulator, root: Path, seed: int, numbers: range) -> Iterator[Outcome]:
    """Yield the outcome of each trial; some are under way at a time."""
    bucket, role = aws.prepare()
    os.environ.update(aws.environment(), GPUPLAN_WHEELS="false")
    settings: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker", "launch.device": "cpu"}
    settings |= {"aws.region": "us-east-1", "aws.bucket": bucket, "aws.role_arn": role, "aws.wheels": False}
    settings |= {"aws.poll_seconds": POLL_SECONDS, "workload.epochs": 2}
    plan = plan_from(Given(settings, dict.fromkeys(settings, "the benchmark"), None)).plan
    bench = Bench(aws, bucket, plan, Session("us-east-1"), root)
    over = threading.Event()
    player = threading.Thread(target=play, args=(bench, over))
    player.start()
    try:
        calm = Outcome(Trial(0, {}, False, False, "", None, "", 0, ""))  # noqa: FBT003 - nothing goes wrong
        run_id = try_gpuplan(bench, calm)
        requests = {step: aws.job(f"{run_id}-{step}-1").request for step in STEPS}

        def carry_out(number: int) -> Outcome:
            outcome = Outcome(Trial.draw(seed, number))
            judge(bench, outcome, try_gpuplan(bench, outcome))
            run_script(aws, outcome.trial, f"script-{number}", requests)
            outcome.script_doubled = bench.doubled(f"script-{number}")
            return outcome

        with ThreadPoolExecutor(WORKERS) as pool:
            yield from pool.map(carry_out, numbers)
    finally:
        over.set()
        player.join()


def table(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield the lines of the table: a row for each thing that went wrong, trials counted in all that apply."""
    yield "| what went wrong | trials | gpuplan: created twice | forgotten | not ended | script: created twice |"
    yield "|---|--:|--:|--:|--:|--:|"
    for row in sorted({row for outcome in outcomes for row in outcome.trial.rows()}, key=lambda row: (row == ALL, row)):
        of_row = [outcome for outcome in outcomes if row in outcome.trial.rows()]
        figures = [
            sum(getattr(outcome, name) for outcome in of_row)
            for name in ("doubled", "forgotten", "unfinished", "script_doubled")
        ]
        yield f"| {row} | {len(of_row)} | " + " | ".join(map(str, figures)) + " |"


def main() -> int:
    """Print the page; the exit status counts trials that gpuplan lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    begun = time.monotonic()
    outcomes = []
    for first in range(1, given.trials + 1, BATCH):
        numbers = range(first, min(first + BATCH, given.trials + 1))
        with tempfile.TemporaryDirectory() as folder, Emulator(execute=False) as aws:
            for outcome in run_trials(aws, Path(folder), given.seed, numbers):
                outcomes.append(outcome)
                if outcome.doubled or outcome.forgotten or outcome.unfinished:
                    print(outcome, file=sys.stderr, flush=True)
        print(
            f"{len(outcomes)} of {given.trials} trials, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True
        )
    codes = Counter(code for outcome in outcomes for code in outcome.codes)
    print(f"# Jobs created twice, or forgotten, {datetime.now(UTC):%F}\n")
    print(f"`python benchmarks/double_submit.py --trials {given.trials} --seed {given.seed}`, botocore", end=" ")
    print(f"{metadata.version('botocore')}, {time.monotonic() - begun:.0f} s.\n")
    print(METHOD.format(fresh=sum(outcome.trial.number % FRESH == 0 for outcome in outcomes)))
    print("\n".join(table(outcomes)))
    said = ", ".join(f"{code} ({count} times)" for code, count in sorted(codes.items()))
    print(f"\nExit codes of gpuplan's clients, negative for a signal: {said}.")
    return sum(bool(outcome.doubled or outcome.forgotten or outcome.unfinished) for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(main())
