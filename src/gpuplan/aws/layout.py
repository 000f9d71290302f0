"""Where things lie in the bucket, and what a job is called: the one place that knows the keys. Pure.

Everything of an attempt lies under `<prefix>/runs/<run_id>/<step>/<attempt>/`, but for what SageMaker mirrors: all
attempts of a step share `<step>/checkpoints/`, so that each goes on from those before it. Code and wheels lie under
`<prefix>/code/<sha256>/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpuplan_job.contract import CHECKPOINTS_FOLDER, LOGS_FOLDER, results_folder

_SCHEME = "sagemaker://"
_NAME = re.compile(r"(?P<run_id>[a-z0-9-]+-[0-9a-hjkmnp-tv-z]{13})-(?P<step>[a-z][a-z-]*)-(?P<attempt>[0-9]+)")
"""A run id is a slug and 13 symbols of base 32 (see `core.names.run_id`)."""


@dataclass(frozen=True)
class AttemptPlace:
    """The keys of one attempt of one step; `step` is the step's folder and ends in a slash, as all folders here."""

    step: str
    attempt: str

    @property
    def root(self) -> str:
        """What is this attempt's alone."""
        return f"{self.step}{self.attempt}/"

    @property
    def output(self) -> str:
        """Where SageMaker puts what it packs up at the end."""
        return f"{self.root}output/"

    @property
    def checkpoints(self) -> str:
        """What SageMaker mirrors while any attempt runs: checkpoints, below them logs and each attempt's results."""
        return f"{self.step}{CHECKPOINTS_FOLDER}/"

    def mirrored(self, document: str) -> str:
        """Return the key of a result document as the job left it."""
        return f"{self.checkpoints}{results_folder(self.attempt)}/{document}"

    def published(self, document: str) -> str:
        """Return the key of a result document that was verified and published once."""
        return f"{self.root}results/{document}"

    def file(self, name: str) -> str:
        """Return the key of a file by its name in the job's folder."""
        if name == LOGS_FOLDER or name.startswith(f"{LOGS_FOLDER}/"):
            return f"{self.checkpoints}{name}"
        return f"{self.step}{name}" if name.startswith(f"{CHECKPOINTS_FOLDER}/") else self.published(name)


def attempt_place(prefix: str, run_id: str, step: str, attempt: int | str) -> AttemptPlace:
    """Return where one attempt lies."""
    return AttemptPlace(f"{prefix}/runs/{run_id}/{step}/", str(attempt))


def code_folder(prefix: str, sha256: str) -> str:
    """Return the folder of one version of code and wheels."""
    return f"{prefix}/code/{sha256}/"


def handle(region: str, job_name: str) -> str:
    """Return the URL of a training job."""
    return f"{_SCHEME}{region}/{job_name}"


def job_name(handle: str) -> str:
    """Return the training job's name in a handle."""
    return handle.removeprefix(_SCHEME).partition("/")[2]


def place_of(prefix: str, job: str) -> AttemptPlace:
    """Return where a job's attempt lies, read off its name.

    Raises:
        ValueError: no job of gpuplan has such a name.
    """
    parts = _parts(job)
    return attempt_place(prefix, parts["run_id"], parts["step"], parts["attempt"])


def run_id(job: str) -> str:
    """Return the run that a job's name names.

    Raises:
        ValueError: no job of gpuplan has such a name.
    """
    return _parts(job)["run_id"]


def _parts(job: str) -> re.Match[str]:
    parts = _NAME.fullmatch(job)
    if parts is None:
        raise ValueError(f"{job!r} is no name of a gpuplan job")
    return parts
