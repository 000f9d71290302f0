"""One module's emulated account, and two ways to it inside this process: the engine's parts, and the command line.

A plugin of the fault tests. Starting a process a test would cost seconds; clients of AWS are made once here. No job
runs: time is played, and with each pause of a waiting client `play` says what becomes of the jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Protocol

import pytest

from gpuplan.aws.s3 import Bucket
from gpuplan.aws.session import Session
from gpuplan.backends.fake import synthetic_results
from gpuplan.backends.sagemaker import SageMakerBackend
from gpuplan.cli.app import main
from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.core import names
from gpuplan.engine.cancel import cancel
from gpuplan.engine.run import Engine
from gpuplan.store.events import Planned, Resumed
from gpuplan.store.mirror import MirroredStore
from gpuplan.testing import Emulator
from gpuplan_job.contract import EXIT_FILE, JobInput, results_folder
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import FakeClock, Recorder
    from gpuplan.backends.base import Backend
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.store.record import RunRecord
    from gpuplan.testing import JobView

BILLED_SECONDS = 600
_NUMBERS = count()


class Terminal(Protocol):
    """Run gpuplan with arguments, as a user's shell would; return its status, stdout and stderr."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@dataclass
class Account:
    """An emulated account with a bucket and a role, and the one session of this process on it."""

    aws: Emulator
    bucket: str
    role: str
    session: Session

    def rest(self) -> None:
        """Forget what the last test let go wrong."""
        self.aws.faults.clear()
        for instance_type in ("ml.g5.xlarge", "ml.g5.12xlarge"):
            self.aws.quota(instance_type, 1000)


@dataclass
class Bench:
    """One machine's folder, a clock that is played, and the parts that `launch` and `resume` put together."""

    account: Account
    home: Path
    clock: FakeClock
    recorder: Recorder
    play: Callable[[JobView], None]
    """What becomes of a job that has not ended, at each pause of whoever waits."""
    values: dict[str, object] = field(default_factory=dict)
    """Settings of every plan of this bench."""

    @property
    def aws(self) -> Emulator:
        return self.account.aws

    def plan(self, **values: object) -> LaunchPlan:
        """Return a plan on g5; a setting's dot is written as two underscores."""
        settings = self.values | {key.replace("__", "."): value for key, value in values.items()}
        return plan_from(Given(settings, dict.fromkeys(settings, "the test"), None)).plan

    def backend(self, plan: LaunchPlan, **aws: object) -> SageMakerBackend:
        settings = plan.provenance.settings.aws.model_copy(update=aws)
        return SageMakerBackend(settings, self.account.session, self.home / "wheels", self.clock.sleep)

    def store(self) -> MirroredStore:
        return MirroredStore(self.home, self.clock, Bucket(self.account.session, self.account.bucket), "gpuplan")

    def start(self, plan: LaunchPlan) -> str:
        """Record a new run and return its id; nothing is submitted."""
        run_id = names.run_id("bench", datetime.now(UTC), next(_NUMBERS))
        store = self.store()
        store.create(run_id, Planned(plan=plan, owner="ada"))
        store.release(run_id)
        return run_id

    def drive(self, run_id: str, backend: Backend | None = None, *, detach: bool = False) -> RunRecord:
        """Drive a run on as `gpuplan resume` does, in a client of its own."""
        store = self.store()
        record = store.record(run_id)
        with store.driving(run_id):
            if record.state in {"failed", "cancelled", "cancelling"}:
                store.append(run_id, Resumed())
            engine = Engine(store, backend or self.backend(record.plan), self.clock, self.recorder)
            return engine.drive(run_id, detach=detach)

    def launch(self, **values: object) -> RunRecord:
        """Start a run and drive it to its end."""
        return self.drive(self.start(self.plan(**values)))

    def cancel(self, run_id: str, **aws: object) -> RunRecord:
        store = self.store()
        return cancel(run_id, store, self.backend(store.record(run_id).plan, **aws), self.clock)

    def jobs(self, run_id: str) -> list[JobView]:
        """Return the run's training jobs in the order of their creation."""
        return [job for job in self.aws.jobs() if job.name.startswith(f"{run_id}-")]

    def pause(self, _seconds: float) -> None:
        """Let `play` act; called by the clock."""
        for job in self.aws.jobs():
            if job.status == "InProgress":
                self.play(job)

    def finish(self, job: JobView, files: Callable[[JobInput], dict[str, bytes]] = synthetic_results) -> None:
        """End a job as a healthy container would, with these documents."""
        told = job_input_of(job)
        if job.secondary_status == "Starting":
            self.aws.advance(job.name, "Training")
        self.aws.complete(job.name, mirrored(told, with_digests(files(told))), billed_seconds=BILLED_SECONDS)


def job_input_of(job: JobView) -> JobInput:
    """Return what a job was told, put together as its container does."""
    parameters = job.request["HyperParameters"]
    return JobInput.from_json("{" + ",".join(f'"{key}":{value}' for key, value in parameters.items()) + "}")


def mirrored(job: JobInput, files: dict[str, bytes]) -> dict[str, bytes]:
    """Return a job's documents by the names they have where SageMaker mirrors its folder to."""
    return {f"{results_folder(job.attempt)}/{name}": content for name, content in files.items()}


def with_digests(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return a job's documents with its last word on them."""
    digests = {name: sha256_hex(content) for name, content in files.items()}
    return {**files, EXIT_FILE: canonical_json({"code": 0, "files": digests}).encode()}


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """Return the module's account; a call of AWS is made once, so that a fault meets its caller at once."""
    with pytest.MonkeyPatch.context() as environment, Emulator(execute=False) as aws:
        bucket, role = aws.prepare()
        for name, value in aws.environment().items():
            environment.setenv(name, value)
        environment.setenv("AWS_MAX_ATTEMPTS", "1")
        yield Account(aws, bucket, role, Session("us-east-1"))


@pytest.fixture
def bench(account: Account, tmp_path: Path, new_clock: type[FakeClock], recorder: Recorder) -> Iterator[Bench]:
    """Return a bench whose jobs end well."""

    class PlayedClock(new_clock):  # type: ignore[valid-type, misc] # the class comes from a fixture
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if seconds >= 0.01:  # the clock's own tick is no pause
                made.pause(seconds)

    values: dict[str, object] = {
        "launch.instance": "g5",
        "launch.backend": "sagemaker",
        "launch.device": "cpu",
        "workload.epochs": 2,
        "aws.region": "us-east-1",
        "aws.bucket": account.bucket,
        "aws.role_arn": account.role,
        "aws.wheels": False,
        "aws.poll_seconds": 1.0,
    }
    made = Bench(account, tmp_path / "home", PlayedClock(), recorder, lambda job: made.finish(job), values)  # noqa: PLW0108 - `made` is bound later
    yield made
    for job in account.aws.jobs():
        if job.status == "InProgress":
            account.aws.advance(job.name, "Stopped")
    account.rest()


@pytest.fixture
def terminal(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Terminal]:
    """Return the command line before the module's account."""
    settings = {
        "GPUPLAN_HOME": str(tmp_path / "home"),
        "GPUPLAN_BUCKET": account.bucket,
        "GPUPLAN_ROLE_ARN": account.role,
        "GPUPLAN_POLL_SECONDS": "0.05",
        "GPUPLAN_DEVICE": "cpu",
        "GPUPLAN_WHEELS": "false",
        "COLUMNS": "250",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def gpuplan(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        captured = capsys.readouterr()
        code = end.value.code
        assert "Traceback" not in captured.err
        assert "internal error" not in captured.err
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    yield gpuplan
    account.rest()
