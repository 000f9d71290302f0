"""The one door between client and job: the files a job reads and writes, as stdlib dataclasses <-> JSON.

Both packages import it. Standard library only; every reader must refuse what does not fit.
"""

from gpuplan_job.contract.batch_search import BatchResult, BatchSearchSpec, BatchTrial, Outcome
from gpuplan_job.contract.container import ATTEMPT_VARIABLE, PROCESSES_VARIABLE, results_folder
from gpuplan_job.contract.job import (
    CHECKPOINTS_FOLDER,
    EXIT_CODES,
    LOGS_FOLDER,
    PROGRESS_PREFIX,
    Expected,
    Failure,
    FailureKind,
    JobInput,
    LoggerName,
    Progress,
)
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
    CodeSpec,
    DataDescription,
    Device,
    Measured,
    Optimizer,
    Precision,
    Schedule,
    WorkloadSpec,
)

__all__ = [
    "ATTEMPT_VARIABLE",
    "BATCH_RESULT_FILE",
    "CHECKPOINTS_FOLDER",
    "CLAIM_FILE",
    "CODE_FILE",
    "EXIT_CODES",
    "EXIT_FILE",
    "FAILURE_FILE",
    "INPUT_FILE",
    "JOB_DIR_VARIABLE",
    "LOGS_FOLDER",
    "LR_RESULT_FILE",
    "ONECYCLE_RISE",
    "OWN",
    "PROCESSES_VARIABLE",
    "PROGRESS_PREFIX",
    "RETRY_FILE",
    "TRAIN_RESULT_FILE",
    "UNDECIDED",
    "BatchResult",
    "BatchSchedule",
    "BatchSearchSpec",
    "BatchSpec",
    "BatchSweeps",
    "BatchTrial",
    "CodeSpec",
    "Curve",
    "DataDescription",
    "Decision",
    "Device",
    "EpochMetrics",
    "Expected",
    "Failure",
    "FailureKind",
    "JobInput",
    "LoggerName",
    "LrResult",
    "LrTarget",
    "Measured",
    "NoiseScale",
    "OomRetry",
    "Optimizer",
    "Outcome",
    "Precision",
    "Progress",
    "Schedule",
    "StopReason",
    "SweepAt",
    "SweepSpec",
    "TrainResult",
    "TrainSpec",
    "WorkloadSpec",
    "results_folder",
]

INPUT_FILE = "input.json"
CODE_FILE = "code.zip"
"""Beside the input of a job that runs the user's own code."""
CLAIM_FILE = "claim"
"""Locked (flock) by the launcher for as long as the job lives; holds its process id."""
EXIT_FILE = "exit.json"
"""Written last of all, by the launcher: `{"code": n}`. With it the job is over."""
BATCH_RESULT_FILE = "batch_result.json"
LR_RESULT_FILE = "lr_result.json"
TRAIN_RESULT_FILE = "train_result.json"
FAILURE_FILE = "failure.json"
RETRY_FILE = "retry.json"
"""Beside the results of a training that ran out of memory once: how it goes on, an `OomRetry`."""
JOB_DIR_VARIABLE = "GPUPLAN_JOB_DIR"
"""Variable with the job's output folder, inherited by every process of the job: how its tree is found."""
