"""The one door between client and job: the files a job reads and writes, as stdlib dataclasses <-> JSON.

Both packages import it. Standard library only; every reader must refuse what does not fit.
"""

from gpuplan_job.contract.job import PROGRESS_PREFIX, Expected, Failure, FailureKind, JobInput, Progress
from gpuplan_job.contract.range_test import (
    UNDECIDED,
    BatchSweeps,
    Curve,
    Decision,
    LrResult,
    LrTarget,
    NoiseScale,
    StopReason,
    SweepAt,
    SweepSpec,
)
from gpuplan_job.contract.training import ONECYCLE_RISE, EpochMetrics, OomRetry, TrainResult, TrainSpec
from gpuplan_job.contract.workload import (
    OWN,
    BatchSchedule,
    BatchSpec,
    DataDescription,
    Device,
    Measured,
    Optimizer,
    Precision,
    Schedule,
    WorkloadSpec,
)

__all__ = [
    "CLAIM_FILE",
    "EXIT_FILE",
    "FAILURE_FILE",
    "INPUT_FILE",
    "JOB_DIR_VARIABLE",
    "LR_RESULT_FILE",
    "ONECYCLE_RISE",
    "OWN",
    "PROGRESS_PREFIX",
    "RETRY_FILE",
    "TRAIN_RESULT_FILE",
    "UNDECIDED",
    "BatchSchedule",
    "BatchSpec",
    "BatchSweeps",
    "Curve",
    "DataDescription",
    "Decision",
    "Device",
    "EpochMetrics",
    "Expected",
    "Failure",
    "FailureKind",
    "JobInput",
    "LrResult",
    "LrTarget",
    "Measured",
    "NoiseScale",
    "OomRetry",
    "Optimizer",
    "Precision",
    "Progress",
    "Schedule",
    "StopReason",
    "SweepAt",
    "SweepSpec",
    "TrainResult",
    "TrainSpec",
    "WorkloadSpec",
]

INPUT_FILE = "input.json"
CLAIM_FILE = "claim"
"""Locked (flock) by the launcher for as long as the job lives; holds its process id."""
EXIT_FILE = "exit.json"
"""Written last of all, by the launcher: `{"code": n}`. With it the job is over."""
LR_RESULT_FILE = "lr_result.json"
TRAIN_RESULT_FILE = "train_result.json"
FAILURE_FILE = "failure.json"
RETRY_FILE = "retry.json"
"""Beside the results of a training that ran out of memory once: how it goes on, an `OomRetry`."""
JOB_DIR_VARIABLE = "GPUPLAN_JOB_DIR"
"""Variable with the job's output folder, inherited by every process of the job: how its tree is found."""
