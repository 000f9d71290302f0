"""All that a plan is a function of, gathered once by the command line and handed to a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuplan.planning.traces import TraceSource
    from gpuplan.profiles.schema import InstanceProfile
    from gpuplan.workload.schema import Settings
    from gpuplan_job.contract import DataDescription


@dataclass(frozen=True)
class PlanInputs:
    """Settings, the instance, the data as described, where traces come from, the digest of the code that will run."""

    settings: Settings
    profile: InstanceProfile
    data: DataDescription
    traces: TraceSource
    payload_sha256: str
    gpuplan_version: str
