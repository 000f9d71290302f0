"""One host of a training job: its /opt/ml tree with SageMaker's files, its variables, its container.

Made and driven by `job_run`, once an attempt. It knows nothing of states or of S3.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING

import psutil

from gpuplan.testing import sandbox

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpuplan.testing.states import TrainingJob

NETWORK_INTERFACE = "lo"
_FOLDERS = ("input/config", "input/data", "model", "output/data", "code", "checkpoints")
_SIGNALLED = 128


@dataclass
class Host:
    """A host named `algo-<n>` with its folders under `root`."""

    name: str
    root: Path
    _process: subprocess.Popen[str] | None = None
    _reader: Thread | None = None
    _lines: list[str] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    @property
    def ml(self) -> Path:
        """What the container sees as /opt/ml."""
        return self.root / "ml"

    def inside(self, path: str) -> Path:
        """Return where a path of the container that lies under /opt/ml is on this machine."""
        return self.ml / Path(path).relative_to("/opt/ml")

    def furnish(self, job: TrainingJob, hosts: Sequence[str], python: str) -> None:
        """Make the folders and write SageMaker's configuration files."""
        for folder in (*(f"ml/{each}" for each in _FOLDERS), "bin", "home", "tmp", "empty"):
            (self.root / folder).mkdir(parents=True)
        resources = job.request["ResourceConfig"]
        group = {
            "instance_group_name": "homogeneousCluster",
            "instance_type": resources["InstanceType"],
            "hosts": list(hosts),
        }
        self._write("hyperparameters", job.request.get("HyperParameters", {}))
        self._write("inputdataconfig", {each["ChannelName"]: _channel(each, job) for each in _channels(job)})
        self._write(
            "resourceconfig",
            {
                "current_host": self.name,
                "current_instance_type": resources["InstanceType"],
                "current_group_name": "homogeneousCluster",
                "hosts": list(hosts),
                "instance_groups": [group],
                "network_interface_name": NETWORK_INTERFACE,
            },
        )
        names = ("localhost", *hosts, socket.gethostname())
        (self.root / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in names))
        for name in ("python", "python3"):
            # A script, not a link: an interpreter finds its virtual environment by the path it was called with.
            (self.root / "bin" / name).write_text(f'#!/bin/sh\nexec {shlex.quote(python)} "$@"\n')
            (self.root / "bin" / name).chmod(0o755)

    def variables(self, job: TrainingJob, python: str, image: Mapping[str, str]) -> dict[str, str]:
        """Return the container's environment: the image's, SageMaker's, then the request's."""
        folders = (self.root / "bin", Path(python).absolute().parent, "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin")
        sagemaker = {
            "PATH": os.pathsep.join(map(str, folders)),
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "AWS_REGION": job.region,
            "TRAINING_JOB_NAME": job.name,
            "TRAINING_JOB_ARN": job.arn,
        }
        if not job.request.get("EnableNetworkIsolation"):
            # With network isolation SageMaker gives a container no credentials.
            sagemaker["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] = f"/v2/credentials/{job.name}"
        return {**image, **sagemaker, **job.request.get("Environment", {})}

    def start(self, entry_point: Sequence[str], variables: Mapping[str, str], network_of: int | None) -> None:
        """Start the container; its output is collected line by line."""
        rooms = sandbox.Rooms(self.ml, self.root / "hosts", self.root / "empty")
        self._process = subprocess.Popen(  # noqa: S603 -- the entry point is what the test asked to run
            sandbox.command(rooms, entry_point, network_of),
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def exit_code(self) -> int | None:
        """The exit status, 128 + n after signal n; None while the container runs."""
        code = None if self._process is None else self._process.poll()
        return _SIGNALLED - code if code is not None and code < 0 else code

    def terminate(self) -> None:
        """Send SIGTERM to the container's first process, which may ignore it."""
        if self._process is None or self._process.poll() is not None:
            return
        try:
            for first in psutil.Process(self._process.pid).children():
                first.send_signal(signal.SIGTERM)
        except psutil.NoSuchProcess:
            return

    def kill(self) -> None:
        """End every process of the container at once, and wait for it."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()

    def take_lines(self) -> list[str]:
        """Return the lines of output that nobody took yet."""
        with self._lock:
            lines, self._lines = self._lines, []
        return lines

    def drain(self) -> None:
        """Wait until the output of a container that ended is collected."""
        if self._reader is not None:
            self._reader.join()

    def failure_text(self) -> str:
        """Return what the entry point left in /opt/ml/output/failure."""
        try:
            return (self.ml / "output" / "failure").read_text(errors="replace")
        except OSError:
            return ""

    def _read(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        with self._process.stdout as output:
            for line in output:
                with self._lock:
                    self._lines.append(line.rstrip("\n"))

    def _write(self, name: str, document: object) -> None:
        (self.ml / "input" / "config" / f"{name}.json").write_text(json.dumps(document))


def _channels(job: TrainingJob) -> list[dict[str, object]]:
    return list(job.request.get("InputDataConfig", []))


def _channel(channel: dict[str, object], job: TrainingJob) -> dict[str, object]:
    default = job.request["AlgorithmSpecification"].get("TrainingInputMode", "File")
    document: dict[str, object] = {
        "TrainingInputMode": channel.get("InputMode", default),
        "S3DistributionType": "FullyReplicated",
        "RecordWrapperType": "None",
    }
    return document | ({"ContentType": channel["ContentType"]} if "ContentType" in channel else {})
