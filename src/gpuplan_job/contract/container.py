"""What a job's container on SageMaker is told beside the job's input, and where it leaves its documents."""

from __future__ import annotations

PROCESSES_VARIABLE = "GPUPLAN_GPUS"
"""Environment variable of the job: training processes on each of its instances."""
ATTEMPT_VARIABLE = "GPUPLAN_ATTEMPT"
"""Environment variable of the job: the attempt that it is, known even where the job's input cannot be read."""


def results_folder(attempt: int | str) -> str:
    """Return where an attempt leaves its documents, below the checkpoints that all attempts of a step share."""
    return f"results/{attempt}"
