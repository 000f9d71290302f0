"""Fits the shares of roofline.py on published training speeds and writes src/gpuplan/planning/speed/efficiencies.csv.

Run by hand when rows or traces change: `python benchmarks/time_calibration.py`; needs numpy, takes a minute. It sees
one half of the models, the other is for time_accuracy.py; `--swapped` fits the other half, prints its error on the
first and writes nothing. Shares for channels_last go to benchmarks/data: gpuplan trains in the default layout, but most
rows of data-center GPUs were measured in the other one.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import speeds
import time_traces

from gpuplan.planning.speed import roofline, throughput
from gpuplan.planning.speed.roofline import Efficiency, Shares

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Indices = NDArray[np.intp]

ARITHMETICS = ("half", "tf32", "fp32")
PRIOR = {
    "convolution": (0.5, 0.5, 0.7, 0.7),
    "convolution backward": (0.5, 0.5, 0.7, 0.6),
    "grouped convolution": (0.2, 0.3, 0.4, 0.5),
    "grouped convolution backward": (0.2, 0.3, 0.4, 0.4),
    "depthwise convolution": (0.5, 0.5, 0.5, 0.5),
    "depthwise convolution backward": (0.5, 0.5, 0.5, 0.3),
    "matmul": (0.65, 0.65, 0.9, 0.8),
    "batched matmul": (0.5, 0.5, 0.8, 0.7),
    "attention": (0.4, 0.4, 0.5, 0.7),
    "batch norm": (1.0, 1.0, 1.0, 0.6),
    "layer norm": (1.0, 1.0, 1.0, 0.7),
    "softmax": (1.0, 1.0, 1.0, 0.8),
    "reduction": (1.0, 1.0, 1.0, 0.7),
    "pooling": (1.0, 1.0, 1.0, 0.4),
    "copy": (1.0, 1.0, 1.0, 0.6),
    "pointwise": (1.0, 1.0, 1.0, 0.85),
    "optimizer": (1.0, 1.0, 1.0, 0.8),
    "gap": (1.0, 1.0, 1.0, 4e-6),
    "reach": (0.2, 1.0, 1.0, 1.0),
}
"""Where the fit starts and what it returns to where rows say little: shares a profiler commonly shows, seconds for the
gap, an exponent for the reach.
No row has a fused attention kernel: its shares stay as they are, an assumption."""
LAYOUTS = ("nchw", "nhwc")
OF_LAYOUT = ("convolution", "norm", "pooling")
"""Kinds with these words are fitted for each layout, all others for both together."""
STRENGTH = 0.01
"""Of the pull towards the prior, per squared logarithm."""
MOST = 1.1
"""Cap of a share: a cache can keep some bytes from memory."""
FINEST = 0.005
"""Half a per cent of a share is finer than the rows are."""
HUBER = 0.25
"""Past this error in logarithm a row pulls linearly."""


@dataclass(frozen=True)
class Rows:
    """All kernels of all published rows as columns, ready to be priced with any shares."""

    computing: Array
    """Seconds at the full peak, all launches of a row of the trace."""
    moving: Array
    count: Array
    ratio: Array
    """Of tensor peak to bandwidth, against the RTX 3090's; 1 where no tensor core computes."""
    computing_index: Indices
    """Which parameter is its share of the peak."""
    moving_index: Indices
    run: Indices
    """Which published row it belongs to."""
    measured: Array
    weight: Array


class Parameters:
    """Where each share stands in the vector that is fitted."""

    def __init__(self) -> None:
        """Give each kind its places, kinds that depend on the layout one set for each."""
        self.names: list[tuple[str, str]] = []
        for kind in PRIOR:
            depends = any(word in kind for word in OF_LAYOUT) and kind != "layer norm"
            self.names += [(kind, layout) for layout in (LAYOUTS if depends else ("",))]
        self.prior = np.log(np.array([PRIOR[kind] for kind, _ in self.names]).ravel())
        self.gap = self.place("gap", "", 3)
        self.reach = self.place("reach", "", 0)
        self.kept = {self.gap, self.place("optimizer", "", 3)}

    def place(self, kind: str, layout: str, column: int) -> int:
        """Return the index of a share; a run without a layout has kernels of neither.

        Both passes of a kind reach the same share of a peak: the rows cannot tell them apart.
        """
        if column < len(ARITHMETICS):
            kind = kind.removesuffix(" backward")
        key = (kind, layout) if (kind, layout) in self.names else (kind, "")
        return 4 * (self.names.index(key) if key in self.names else self.names.index((kind, LAYOUTS[0]))) + column

    def shares(self, vector: Array, layout: str) -> Shares:
        """Return the table of one layout."""
        kinds = {
            kind: Efficiency(*(float(f"{vector[self.place(kind, layout, column)]:.3g}") for column in range(4)))
            for kind in PRIOR
        }
        return Shares(gap_seconds=kinds.pop("gap").bandwidth, reach=kinds.pop("reach").half, kinds=kinds)


def collect(runs: list[speeds.Run], parameters: Parameters) -> Rows:
    """Return the kernels of published runs; a model with n rows weighs as much as sqrt(n) models with one."""
    lines: list[tuple[float, ...]] = []
    of_model = Counter(run.model for run in runs)
    for number, run in enumerate(runs):
        of, gpu = run.trace.operations, run.speeds
        peaks = {"half": gpu.half_tflops, "tf32": gpu.tf32_tflops or 1.0, "fp32": gpu.fp32_tflops}
        ratio = 1 / roofline.reach_of(gpu, 1.0)
        columns = (of.name, of.count, of.flops_fixed, of.flops_per_sample, of.bytes_fixed, of.bytes_per_sample)
        for name, count, ff, fp, bf, bp in zip(*columns, strict=True):
            kind = roofline.kind_of(name)
            if kind is None:
                continue
            arithmetic = roofline.arithmetic_of(kind, gpu)
            lines.append((
                count * max(0.0, ff + fp * run.batch) / (peaks[arithmetic] * 1e12),
                count * max(0.0, bf + bp * run.batch) / (gpu.bandwidth_gbs * 1e9),
                count,
                1.0 if arithmetic == "fp32" else ratio,
                parameters.place(kind, run.layout, ARITHMETICS.index(arithmetic)),
                parameters.place(kind, run.layout, 3),
                number,
            ))  # fmt: skip
        optimizer = parameters.place("optimizer", "", 3)
        lines.append((0.0, run.optimizer_bytes / (gpu.bandwidth_gbs * 1e9), 0, 1.0, optimizer, optimizer, number))
    computing, moving, count, ratios, computing_index, moving_index, numbers = zip(*lines, strict=True)
    return Rows(
        computing=np.array(computing),
        moving=np.array(moving),
        count=np.array(count, dtype=np.float64),
        ratio=np.array(ratios),
        computing_index=np.array(computing_index, dtype=np.intp),
        moving_index=np.array(moving_index, dtype=np.intp),
        run=np.array(numbers, dtype=np.intp),
        measured=np.array([run.seconds for run in runs]),
        weight=np.array([1 / of_model[run.model] ** 0.5 for run in runs]),
    )


def predict(rows: Rows, vector: Array, parameters: Parameters) -> Array:
    """Return the seconds of each run at these shares."""
    computing = rows.computing / vector[rows.computing_index] * rows.ratio ** vector[parameters.reach]
    seconds = np.maximum(computing, rows.moving / vector[rows.moving_index])
    seconds += rows.count * vector[parameters.gap]
    return np.bincount(rows.run, seconds, len(rows.measured)).astype(np.float64)


def fit(rows: Rows, parameters: Parameters) -> Array:
    """Return the shares that minimise the Huber loss of the logarithmic error, by coordinate descent."""
    prior = parameters.prior
    # The gap stays: published batches are large, so it would only take up what the shares leave. So does the
    # optimizer's share: the rows are of other optimizers than today's PyTorch has.
    used = sorted({*rows.computing_index[rows.computing > 0], *rows.moving_index, parameters.reach} - parameters.kept)

    def loss(theta: Array) -> float:
        error = np.abs(np.log(predict(rows, np.exp(theta), parameters) / rows.measured))
        huber = np.where(error < HUBER, error**2 / 2, HUBER * (error - HUBER / 2))
        return float((rows.weight * huber).sum() / rows.weight.sum() + STRENGTH * ((theta - prior) ** 2).mean())

    theta, best, step = prior.copy(), loss(prior), 0.4
    while step > FINEST:
        moved = False
        for index in used:
            for change in (step, -step):
                trial = theta.copy()
                trial[index] = min(theta[index] + change, math.log(MOST))
                value = loss(trial)
                if value < best - 1e-9:
                    theta, best, moved = trial, value, True
        step *= 1.0 if moved else 0.5
    return np.asarray(np.exp(theta))


def calibrate(runs: list[speeds.Run]) -> dict[str, Shares]:
    """Return the shares of each layout fitted on runs of one GPU, checked to price them as roofline.py does."""
    parameters = Parameters()
    rows = collect(runs, parameters)
    vector = fit(rows, parameters)
    tables = {layout: parameters.shares(vector, layout) for layout in LAYOUTS}
    for run, seconds in zip(runs, predict(rows, vector, parameters), strict=True):
        there = run.computed(tables["nhwc" if run.layout == "nhwc" else "nchw"])
        if not math.isclose(there, seconds, rel_tol=0.02):
            raise SystemExit(f"{run.model}: {there} s by roofline.py, {seconds} s here")
    return tables


def write(path: Path, shares: Shares, runs: list[speeds.Run], layout: str) -> None:
    """Write a table with its provenance."""
    today = datetime.now(UTC).date().isoformat()
    lines = [
        f"# shares of published peaks, {layout}; benchmarks/time_calibration.py, {today}: {len(runs)} published runs",
        f"# of {len({run.model for run in runs})} models on one GPU (benchmarks/data/training_speeds.csv), the half",
        f"# of the models with an even hash, seed {time_traces.SEED}. gap: seconds a kernel; reach: an exponent;",
        "# gap, optimizer and attention are assumed, docs/estimates-time.md says why.",
        "kind,half,tf32,fp32,bandwidth",
        *(",".join([name, *(f"{value:.3g}" for value in share)]) for name, share in shares.kinds.items()),
        f"gap,1,1,1,{shares.gap_seconds:.3g}",
        f"reach,{shares.reach:.3g},1,1,1",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Fit both layouts on the calibration half."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swapped", action="store_true", help="fit the half that is held out, judge on the other")
    if parser.parse_args().swapped:
        swapped()
        return
    runs = [run for run in speeds.load() if run.gpus == 1 and run.computes_only and not run.held_out]
    lost = median(speeds.losses([run for run in speeds.load() if run.computes_only and not run.held_out]))
    print(f"several GPUs: median of pairs {lost:.3f}, in throughput.py {throughput.SEVERAL_GPUS}")
    for layout, shares in calibrate(runs).items():
        write({"nchw": roofline.TABLE, "nhwc": speeds.NHWC_TABLE}[layout], shares, runs, layout)
        print(f"{layout}: {len(runs)} runs, gap {shares.gap_seconds:.2g} s, reach {shares.reach:.2f}")
        for name, share in shares.kinds.items():
            print(f"  {name:32}", *(f"{value:8.3g}" for value in share))


def swapped() -> None:
    """Print the error on the calibration half of a fit on the held-out half."""
    known = [run for run in speeds.load() if run.gpus == 1 and run.computes_only]
    tables = calibrate([run for run in known if run.held_out])
    for layout in ("nchw", "none", "nhwc"):
        judged = [run for run in known if run.layout == layout and not run.held_out]
        shares = tables["nhwc" if layout == "nhwc" else "nchw"]
        errors = sorted(abs(run.computed(shares) / run.seconds - 1) for run in judged)
        print(f"{layout}: {len(errors)} runs, median {median(errors):.0%}, p90 {errors[int(0.9 * len(errors))]:.0%}")


if __name__ == "__main__":
    main()
