"""All that a plan is a function of, gathered once by the command line and handed to a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuplan.profiles.schema import InstanceProfile
    from gpuplan.workload.schema import Settings
    from gpuplan_job.contract import DataDescription


@dataclass(frozen=True)
class PlanInputs:
    """Settings, the instance, the data as described, and the digest of the code that will run."""

    settings: Settings
    profile: InstanceProfile
    data: DataDescription
    payload_sha256: str
    gpuplan_version: str
    candidates: tuple[InstanceProfile, ...] = ()
    """All profiles whose single-GPU machines may run lr-find, where AWS bills it; beside the profile's own."""
