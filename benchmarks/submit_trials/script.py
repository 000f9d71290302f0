"""A training script as people write it, to compare with: boto3, its retries, and a name with the time in it.

Used by `double_submit.py`.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from submit_trials.trial import POLL_SECONDS, STEPS

if TYPE_CHECKING:
    from gpuplan.testing import Emulator
    from submit_trials.trial import Trial

_REPEATS = 15


class _DiedError(Exception):
    """The script was killed."""


def run_script(aws: Emulator, trial: Trial, base: str, requests: dict[str, dict[str, Any]]) -> None:
    """Carry a trial out with a script: a name with the time in it, boto3's retries, started again when it has died.

    It is spared the second client, remembers on disk which steps are done, and waits for a job that is not shown.
    """
    trial.set_up(aws, base)
    sagemaker = boto3.client("sagemaker", region_name="us-east-1")
    done: set[str] = set()
    deaths = {trial.script_dies}
    for _ in range(_REPEATS):
        with suppress(ClientError, BotoCoreError, _DiedError):
            for step in [step for step in STEPS if step not in done]:
                name = f"{base}-{step}-{datetime.now(UTC):%Y-%m-%d-%H-%M-%S-%f}"[:-3]
                _die_once(deaths, "before the call")
                sagemaker.create_training_job(**requests[step] | {"TrainingJobName": name})
                _die_once(deaths, "after the call")
                while not _over(sagemaker, name):
                    _die_once(deaths, "while it waits")
                    time.sleep(POLL_SECONDS)
                done.add(step)
            break


def _over(sagemaker: Any, name: str) -> bool:  # noqa: ANN401 - botocore makes its clients' classes at run time
    """Tell whether a job has ended; one that is not shown has not."""
    try:
        job = sagemaker.describe_training_job(TrainingJobName=name)
    except sagemaker.exceptions.ClientError:
        return False
    return bool(job["TrainingJobStatus"] != "InProgress")


def _die_once(deaths: set[str], point: str) -> None:
    """Be killed here if that is the script's fate."""
    if point in deaths:
        deaths.remove(point)
        raise _DiedError
