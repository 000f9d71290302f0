"""A range test as losses by step, and what gpuplan's job would have recorded of it.

Used by the generators beside it and by `lr_bad_curves.py`. Standard library only; it judges nothing.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from gpuplan_job.contract import (
    UNDECIDED,
    BatchSpec,
    Curve,
    LrResult,
    LrTarget,
    Measured,
    SweepSpec,
    WorkloadSpec,
)

LOW, HIGH = 1e-5, 10.0
START_POINTS = 5
BATCH = 32


@dataclass(frozen=True)
class RangeTest:
    """Sweeps with nothing cut off: losses go on past NaN and past a blow-up, as a finder that does not look would."""

    kind: str
    rates: list[float]
    """Learning rates of a full sweep."""
    sweeps: list[list[float]]
    """Losses by step, not more than there are rates."""
    reference_steps: int = 800
    stopped: tuple[str, ...] = ()
    """Why each sweep that has fewer losses than rates stopped; empty: it was told to."""

    def result(self) -> LrResult:
        """Return what the job would have written."""
        return result_of(self.recorded(), self.rates, self.reference_steps)

    def recorded(self) -> list[Curve]:
        """Return the curves that `gpuplan_job.sweep` would have recorded of these losses."""
        reasons = self.stopped or ("completed",) * len(self.sweeps)
        return [
            recorded(self.rates, losses, reason, seed)
            for seed, (losses, reason) in enumerate(zip(self.sweeps, reasons, strict=True))
        ]


def geometric(points: int, low: float = LOW, high: float = HIGH) -> list[float]:
    """Return the learning rates of a sweep."""
    return [low * (high / low) ** (index / (points - 1)) for index in range(points)]


def recorded(rates: list[float], losses: list[float], reason: str, seed: int) -> Curve:
    """Return the curve of a sweep that stops at its first non-finite loss, and at twice its starting loss.

    The rule is that of `gpuplan_job.sweep.Sweeper`: the median of the last 0.3 decade is over twice that of the first
    five losses.
    """
    window = max(3, round(0.3 * (len(rates) - 1) / math.log10(rates[-1] / rates[0])))
    kept: list[float] = []
    for loss in losses:
        at = rates[len(kept)]
        if not math.isfinite(loss):
            return Curve(rates[: len(kept)], kept, "non-finite", at, seed)
        kept.append(loss)
        if len(kept) > START_POINTS and statistics.median(kept[-window:]) > 2 * statistics.median(kept[:START_POINTS]):
            return Curve(rates[: len(kept)], kept, "diverged", at, seed)
    end = rates[min(len(kept), len(rates) - 1)]
    if reason == "diverged":
        return Curve(rates[: len(kept)], kept, "diverged", end, seed)
    return Curve(rates[: len(kept)], kept, "completed", end, seed)


def result_of(curves: list[Curve], rates: list[float], reference_steps: int) -> LrResult:
    """Return a result that holds `curves`, of sweeps planned over `rates`."""
    return LrResult(
        run_id="run",
        step="lr-find",
        attempt=1,
        input_sha256="0" * 64,
        workload=WorkloadSpec(
            model="resnet18",
            data="digits",
            optimizer="sgd",
            momentum=0.9,
            weight_decay=5e-4,
            schedule="onecycle",
            label_smoothing=0.0,
            epochs=8,
            precision="fp32",
            seed=0,
            workers=0,
        ),
        sweep=SweepSpec(
            runs=max(1, len(curves)),
            iterations=len(rates),
            lr_min=rates[0],
            lr_max=rates[-1],
            reference_steps=reference_steps,
            noise_micro_batches=0,
            target=LrTarget("edge", "none", BATCH, reference_steps),
        ),
        batch=BatchSpec(BATCH, 1, 1),
        precision="fp32",
        curves=curves,
        noise_scale=None,
        check=None,
        compared=[],
        decision=UNDECIDED,
        measured=Measured(0.1, 320.0, None, "cpu"),
        versions={},
    )
