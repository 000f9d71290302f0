"""All that a plan is a function of, gathered once by the command line and handed to a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuplan.planning.traces.source import of_own_code, request_for
from gpuplan.profiles.prices import on_demand, spot

if TYPE_CHECKING:
    from gpuplan.core.frozen import Unknown
    from gpuplan.own_code.code_package import CodePackage
    from gpuplan.planning.plan import FoundBatch
    from gpuplan.planning.reuse import LrSource
    from gpuplan.planning.traces.source import Traced, TraceSource
    from gpuplan.profiles.prices import LivePrices, Price, SpotPrice
    from gpuplan.profiles.schema import InstanceProfile
    from gpuplan.workload.schema import Settings
    from gpuplan_job.code_check import CodeCheck
    from gpuplan_job.contract import DataDescription


@dataclass(frozen=True)
class PlanInputs:
    """Settings, the instance, the data as described, where traces and prices come from, the digest of the code."""

    settings: Settings
    profile: InstanceProfile
    data: DataDescription
    traces: TraceSource
    payload_sha256: str
    gpuplan_version: str
    candidates: tuple[InstanceProfile, ...] = ()
    """All profiles whose single-GPU machines may run lr-find, where AWS bills it; beside the profile's own."""
    live: LivePrices | None = None
    """What AWS answered; the plan keeps it, so that it can be made again without asking."""
    lr_source: LrSource | None = None
    """Another run's range test to take the learning rate from; the plan keeps it likewise."""
    code: CodePackage | None = None
    """The user's own code, where model or data are."""
    checked: CodeCheck | Unknown | None = None
    """What its check has shown, or why it was not made; None where there is no such code."""

    found_batch: FoundBatch | None = None
    """What this run's find-batch measured; the plan keeps it likewise."""

    def traced(self) -> Traced | Unknown:
        """Return the trace of the workload's training step, or why there is none."""
        workload = self.settings.workload
        asked = request_for(
            workload.model,
            self.data,
            workload.precision,
            image_size=workload.image_size,
            checkpointing=workload.checkpointing,
        )
        return self.traces.find(asked if self.code is None else of_own_code(asked, workload, self.code.files_sha256))

    def prices_of(self, profile: InstanceProfile) -> tuple[Price, ...]:
        """Return a profile's on-demand prices, with what AWS answered in place of what it was asked for."""
        return on_demand(profile.prices, self.live)

    @property
    def prices(self) -> tuple[Price, ...]:
        """On-demand prices of the training's profile."""
        return self.prices_of(self.profile)

    @property
    def spot_prices(self) -> tuple[SpotPrice, ...]:
        """Spot samples, likewise."""
        return spot(self.profile.spot_prices, self.live)
