"""One list of settings: the client's workload and the job's are the same fields."""

from __future__ import annotations

import dataclasses

from gpuplan.workload.schema import Workload
from gpuplan_job.contract import WorkloadSpec

IN_THE_BATCH = {"per_gpu_batch", "accumulate"}
"""Settings that reach the job as its BatchSpec."""


def test_every_workload_setting_reaches_the_job() -> None:
    job = {field.name for field in dataclasses.fields(WorkloadSpec)}
    assert set(Workload.model_fields) - IN_THE_BATCH == job
