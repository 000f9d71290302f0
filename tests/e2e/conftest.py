"""A user's machine before an emulated AWS: the CLI as a process of its own, against the emulator, over loopback."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pytest

from gpuplan.backends.fake import synthetic_results
from gpuplan.testing import Emulator, EmulatorError, sandbox
from gpuplan_job.contract import EXIT_FILE, JobInput, results_folder
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gpuplan.testing import JobView

PROGRAM = [sys.executable, "-c", "from gpuplan.cli.app import main; main()"]
SMALL = ("--epochs", "2", "--runs", "1", "--lr-iterations", "40", "--workers", "0")
"""Enough for a range test with a minimum and a training that beats guessing."""


@dataclass(frozen=True)
class Client:
    """One machine with gpuplan: its own state folder, the account's credentials in the environment."""

    home: Path
    aws: Emulator
    bucket: str
    role: str
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return self.aws.environment(os.environ) | {
            "GPUPLAN_HOME": str(self.home),
            "GPUPLAN_BUCKET": self.bucket,
            "GPUPLAN_ROLE_ARN": self.role,
            "GPUPLAN_POLL_SECONDS": "0.2",
            "GPUPLAN_DEVICE": "cpu",
            "GPUPLAN_WHEELS": "false",
            "COLUMNS": "200",
            **self.variables,
        }

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | variables,
            cwd=self.home,
        )

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **variables)
        out, err = process.communicate(timeout=400)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *arguments: str) -> dict[str, Any]:
        done = self.run(*arguments, "-o", "json")
        assert done.stdout, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def elsewhere(self, home: Path) -> Client:
        """Return another machine with the same credentials."""
        home.mkdir(parents=True, exist_ok=True)
        return Client(home, self.aws, self.bucket, self.role, self.variables)


class Player:
    """Ends the jobs of an emulator that runs nothing: each that is created gets the files a healthy job would leave."""

    def __init__(self, aws: Emulator, seconds: float = 0.0) -> None:
        self.aws = aws
        self.seconds = seconds
        self.files: Callable[[JobInput], dict[str, bytes]] = synthetic_results
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _play(self) -> None:
        while not self._over.wait(0.05):
            for job in self.aws.jobs():
                if job.status == "InProgress" and job.secondary_status == "Starting":
                    self.aws.advance(job.name, "Training")
                    self._over.wait(self.seconds)
                    self.finish(job)

    def finish(self, job: JobView) -> None:
        """End one job well, unless it has been stopped meanwhile."""
        told = job_input_of(job)
        files = self.files(told)
        digests = {name: sha256_hex(content) for name, content in files.items()}
        files[EXIT_FILE] = canonical_json({"code": 0, "files": digests}).encode()
        ending = {f"{results_folder(told.attempt)}/{name}": content for name, content in files.items()}
        with contextlib.suppress(EmulatorError):
            self.aws.complete(job.name, ending, billed_seconds=600)


def job_input_of(job: JobView) -> JobInput:
    """Return what a job was told, as its container would read it."""
    parameters = job.request["HyperParameters"]
    return JobInput.from_json(json.dumps({key: json.loads(value) for key, value in parameters.items()}))


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """An emulator that runs jobs for real; the module's tests share it."""
    try:
        sandbox.check()
    except EmulatorError as error:
        pytest.skip(f"the emulator cannot run containers here: {error}")
    with Emulator(python=sys.executable) as aws:
        yield aws


@pytest.fixture
def client(emulator: Emulator, tmp_path: Path) -> Client:
    bucket, role = emulator.prepare()
    return Client(tmp_path, emulator, bucket, role)


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Client]:
    """A machine before an emulator that runs nothing: the test says what becomes of each job."""
    with Emulator(execute=False) as aws:
        bucket, role = aws.prepare()
        yield Client(tmp_path, aws, bucket, role)
