"""The machines of one attempt at a training job: their folders, their containers, what goes to and comes from S3.

Made by `job_run`, which knows the states and the limits; this knows neither.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gpuplan.testing import artifacts, request_rules, s3_folder
from gpuplan.testing.endings import Cause, Ended
from gpuplan.testing.host import Host
from gpuplan.testing.log_stream import LogStream
from gpuplan.testing.sandbox import LoopbackNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gpuplan.testing.clients import Clients
    from gpuplan.testing.job_faults import JobFaults
    from gpuplan.testing.states import TrainingJob
    from gpuplan.testing.timing import Timing

TICK_SECONDS = 0.03
"""How often a wait looks whether it is over."""

_REASON_LENGTH = 1024


@dataclass(frozen=True)
class Platform:
    """What every job shares: the interpreter that stands for images, their variables, the clients, a folder."""

    python: str
    image: Mapping[str, str]
    timing: Timing
    clients: Clients
    faults: JobFaults
    root: Path


@dataclass
class Cluster:
    """One container a host, one host an instance. `check` raises Ended when the attempt has to end."""

    job: TrainingJob
    platform: Platform
    scratch: Path
    check: Callable[[], None]
    hosts: list[Host] = field(default_factory=list)
    _mirrors: list[s3_folder.Mirror] = field(default_factory=list)
    _streams: list[LogStream] = field(default_factory=list)
    _output: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = self.job.request["ResourceConfig"]["InstanceCount"]
        names = [f"algo-{number}" for number in range(1, count + 1)]
        self.hosts = [Host(name, self.scratch / name) for name in names]
        for host in self.hosts:
            host.furnish(self.job, names, self.platform.python)

    def download(self) -> str:
        """Fill the channels, FastFile too, and the checkpoint folders; return the reason if a channel has nothing."""
        for host in self.hosts:
            for channel in self.job.request.get("InputDataConfig", []):
                if reason := self._download_channel(host, channel):
                    return reason
                self.check()
        if "CheckpointConfig" in self.job.request:
            self._mirrors = [self._mirror(host) for host in self.hosts]
            for mirror in self._mirrors:
                mirror.restore()
        return ""

    def train(self) -> str:
        """Run the containers to their end; return the reason of a failure, or ""."""
        spec = self.job.request["AlgorithmSpecification"]
        entry_point = [*spec.get("ContainerEntrypoint", []), *spec.get("ContainerArguments", [])]
        if not spec.get("ContainerEntrypoint"):
            return "ClientError: the emulator runs no image; set AlgorithmSpecification.ContainerEntrypoint"
        network = LoopbackNetwork() if self.job.request.get("EnableNetworkIsolation") else None
        started = datetime.now(UTC)
        self._streams = [LogStream(self._client("logs"), self.job.name, host.name, started) for host in self.hosts]
        graceful = True
        try:
            for host in self.hosts:
                variables = host.variables(self.job, self.platform.python, self.platform.image)
                host.start(entry_point, variables, network.pid if network else None)
            failed = self._watch()
        except Ended as end:
            graceful = end.cause.graceful
            if graceful:
                self._ask_to_end()
            raise
        finally:
            for host in self.hosts:
                host.kill()
                host.drain()
            if network:
                network.close()
            if graceful:
                self._sync()
                self._write_logs()
        return _reason(failed) if failed else ""

    def upload(self, *, with_model: bool) -> str:
        """Upload the artifacts; return the model's URI, or ""."""
        s3, output = self._client("s3"), self.job.request["OutputDataConfig"]["S3OutputPath"]
        data = [host.ml / "output" / "data" for host in self.hosts]
        artifacts.upload(s3, output, self.job.name, "output.tar.gz", data, self.scratch)
        if not with_model:
            return ""
        models = [host.ml / "model" for host in self.hosts]
        return artifacts.upload(s3, output, self.job.name, "model.tar.gz", models, self.scratch)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the last value of each metric definition that the logs hold."""
        text = "\n".join(self._output)
        defined = self.job.request["AlgorithmSpecification"].get("MetricDefinitions", [])
        found = [(each["Name"], re.findall(each["Regex"], text)) for each in defined]
        return [
            {"MetricName": name, "Value": float(values[-1]), "Timestamp": time.time()}
            for name, values in found
            if values
        ]

    def _download_channel(self, host: Host, channel: dict[str, Any]) -> str:
        name, source = channel["ChannelName"], channel["DataSource"].get("S3DataSource", {})
        if source.get("S3DataType") != "S3Prefix":
            return f"ClientError: the emulator downloads S3Prefix channels only; {name} is none"
        uri = source["S3Uri"]
        if s3_folder.download(self._client("s3"), uri, host.ml / "input" / "data" / name):
            return ""
        bucket, _ = request_rules.s3_location(uri)
        text = request_rules.no_objects(uri, bucket, self.job.region, self.job.request["RoleArn"])
        return f"ClientError: Data download failed:{text}"

    def _watch(self) -> Host | None:
        """Wait for every host, or the first that fails, which is returned."""
        timing = self.platform.timing
        next_sync = time.monotonic() + timing.checkpoint_poll_seconds
        next_flush = time.monotonic() + timing.log_flush_seconds
        while True:
            self.check()
            if failed := next((host for host in self.hosts if host.exit_code), None):
                return failed
            if all(host.exit_code == 0 for host in self.hosts):
                return None
            if time.monotonic() >= next_sync:
                self._sync()
                next_sync = time.monotonic() + timing.checkpoint_poll_seconds
            if time.monotonic() >= next_flush:
                self._write_logs()
                next_flush = time.monotonic() + timing.log_flush_seconds
            time.sleep(TICK_SECONDS)

    def _ask_to_end(self) -> None:
        """Send SIGTERM and wait for as long as the grace, or until the emulator closes."""
        for host in self.hosts:
            host.terminate()
        deadline = time.monotonic() + self.platform.timing.stop_grace_seconds
        while time.monotonic() < deadline and any(host.exit_code is None for host in self.hosts):
            try:
                self.check()
            except Ended as end:
                if end.cause is Cause.ABANDONED:
                    raise
            time.sleep(TICK_SECONDS)

    def _write_logs(self) -> None:
        for host, stream in zip(self.hosts, self._streams, strict=True):
            lines = host.take_lines()
            self._output.extend(lines)
            if not self.platform.faults.drops_logs(self.job.name):
                stream.write(lines)

    def _sync(self) -> None:
        for mirror in self._mirrors:
            mirror.sync()

    def _mirror(self, host: Host) -> s3_folder.Mirror:
        config = self.job.request["CheckpointConfig"]
        folder = host.inside(config.get("LocalPath", request_rules.CHECKPOINTS))
        folder.mkdir(parents=True, exist_ok=True)
        return s3_folder.Mirror(self._client("s3"), config["S3Uri"], folder)

    def _client(self, service: str) -> Any:  # noqa: ANN401 -- boto3's clients are untyped
        return self.platform.clients.client(service, self.job.account, self.job.region)


def _reason(host: Host) -> str:
    """Return AWS's words for an entry point that failed."""
    end = f", exit code: {host.exit_code}"
    start = "AlgorithmError: "
    return start + host.failure_text()[: _REASON_LENGTH - len(start) - len(end)] + end
