"""The container entry point of a SageMaker training job: `python -m gpuplan_job.sagemaker [ROOT]`, ROOT is /opt/ml.

It turns SageMaker's files into a job's input, runs `launch` on this host's part of it, and publishes what came of it.
Standard library only, and no AWS call: it works in a container without a network.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job import launch, sagemaker_config, wheels
from gpuplan_job.contract import (
    ATTEMPT_VARIABLE,
    CHECKPOINTS_FOLDER,
    CODE_FILE,
    FAILURE_FILE,
    INPUT_FILE,
    LOGS_FOLDER,
    Failure,
    JobInput,
    results_folder,
)
from gpuplan_job.data import TRAINING_CHANNEL_VARIABLE
from gpuplan_job.document import ContractError
from gpuplan_job.failures import JobError, describe, write_failure
from gpuplan_job.publication import Publication
from gpuplan_job.supervision import CODE_STOPPED, Stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpuplan_job.sagemaker_config import Cluster

ROOT = "/opt/ml"
_GRACE_SECONDS = 60.0
"""For a training to save once it is asked to stop: SageMaker kills after 120 s, and has yet to copy the checkpoint."""
_CREDENTIALS = re.compile(
    r"AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|SECURITY_TOKEN|CONTAINER_.*|WEB_IDENTITY_.*|ROLE_.*"
    r"|(DEFAULT_)?PROFILE|SHARED_CREDENTIALS_FILE|CONFIG_FILE|CREDENTIAL.*)|BOTO_CONFIG"
)
"""Variables that are credentials or lead to some."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run this host's part of the job below the folder `arguments[0]`, /opt/ml by default; return the exit code."""
    return _Container(Path(arguments[0] if arguments else ROOT).absolute(), environ, Stop()).run()


def without_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which no AWS client finds credentials: what trains needs none."""
    kept = {name: value for name, value in environ.items() if not _CREDENTIALS.fullmatch(name)}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true"}


class _Container:
    """One start of the job's container on one host; after an interruption there is another, with the checkpoints."""

    def __init__(self, root: Path, environ: Mapping[str, str], stop: Stop) -> None:
        self.root = root
        self.environ = environ
        self.stop = stop
        self.folder = root / "output" / "gpuplan-job"
        self.checkpoints = root / CHECKPOINTS_FOLDER
        # Told in the environment: a job whose input cannot be read, too, leaves its failure where it is looked for.
        results = results_folder(environ.get(ATTEMPT_VARIABLE, "unknown"))
        self.publication = Publication(self.checkpoints / results, root / "output" / "failure")
        self.job_input: JobInput | None = None

    def run(self) -> int:
        """Run the job and publish its end, whatever it is; return the exit code."""
        code, failure = launch.CODE_FAILED, None
        try:
            cluster = sagemaker_config.cluster(self.root, self.environ)
            self.publication.host = None if cluster.first else cluster.current
            self.publication.clear()
            code = self._job(cluster)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, SageMaker and the client must be told
            failure = self._failed(error)
        try:
            self.publication.publish(self.folder, code, failure)
        except Exception as error:  # noqa: BLE001 - as above
            code = code or launch.CODE_FAILED  # a result that nobody can read is none
            failure = self._failed(error)
            self.publication.publish_failure(failure, code)
        if code != 0 and (reason := self._reported() or failure) is not None:
            self.publication.explain(reason)
        return code

    def _job(self, cluster: Cluster) -> int:
        text = sagemaker_config.job_text(self.root)
        job_input = self.job_input = JobInput.from_json(text)
        if cluster.world_size != job_input.batch.world_size:
            problem = f"{len(cluster.hosts)} instances of {cluster.processes} processes make {cluster.world_size}"
            expected = f"the plan says {job_input.batch.world_size}"
            raise JobError("usage", f"{problem}, {expected}", "launch the plan again; the job's request was changed")
        place = cluster.hosts.index(cluster.current) + 1
        _say(f"run {job_input.run_id}, step {job_input.step}, attempt {job_input.attempt}")
        _say(f"host {cluster.current}, {place} of {len(cluster.hosts)}: {cluster.processes} processes here")
        source = self._job_folder(text)
        environment = self._environment(job_input)
        if (stopped := self.stop.error()) is not None:
            write_failure(self.folder, job_input, stopped, rank=None)
            return CODE_STOPPED
        return launch.run(source, self.folder, self.stop, environment, cluster.nodes, _GRACE_SECONDS)

    def _job_folder(self, text: str) -> Path:
        """Make the folder that `launch` works in, anew at each start, and return the path of the input in it."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        # What lies there is mirrored to S3 while the job runs, and is back when it is started again.
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        (self.folder / CHECKPOINTS_FOLDER).symlink_to(self.checkpoints, target_is_directory=True)
        # The loggers' files too, so that they are there even if the job dies.
        logs = self.checkpoints / LOGS_FOLDER
        logs.mkdir(exist_ok=True)
        (self.folder / LOGS_FOLDER).symlink_to(logs, target_is_directory=True)
        source = self.folder / INPUT_FILE
        source.write_text(text, encoding="utf-8")
        # Where the plan names code of the user's, the launcher looks for it beside the input and verifies it.
        (self.folder / CODE_FILE).symlink_to(self.root / "input" / "data" / "code" / CODE_FILE)
        return source

    def _environment(self, job_input: JobInput) -> dict[str, str]:
        """Return what the job's processes start with, once they can import all they need."""
        environment = without_credentials(self.environ)
        environment.pop(TRAINING_CHANNEL_VARIABLE, None)
        channel = sagemaker_config.training_channel(self.root)
        if channel is not None:
            environment[TRAINING_CHANNEL_VARIABLE] = str(channel)
        if any(importlib.util.find_spec(name) is None for name in job_input.packages):
            target = self.root / "output" / "gpuplan-wheels"
            wheels.install(self.root / "input" / "data" / "code" / "wheels", target, environment, self.stop)
            path = [str(target), *filter(None, [environment.get("PYTHONPATH")])]
            environment["PYTHONPATH"] = os.pathsep.join(path)
            sys.path.insert(0, str(target))
            importlib.invalidate_caches()
        return environment

    def _failed(self, error: Exception) -> Failure:
        failure = describe(self.job_input, error, rank=None)
        _say(f"failed: {failure.message}")
        _say(failure.fix)
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_failure(self.folder, self.job_input, error, rank=None)
        return failure

    def _reported(self) -> Failure | None:
        """Return the failure that the job itself reported."""
        try:
            return Failure.from_json((self.folder / FAILURE_FILE).read_bytes())
        except (OSError, ContractError):
            return None


def _say(text: str) -> None:
    sys.stderr.write(f"gpuplan: {text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
