"""Prints the error of the estimated step time on published training speeds of models that the calibration has not seen.

Run by hand: `python benchmarks/time_accuracy.py`; needs no GPU and no torch, takes seconds. It ends with an error where
the published speeds contradict what docs/estimates-time.md claims. `--all` prints every row.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Literal, cast

import speeds

from gpuplan.planning.speed import communication, roofline, throughput
from gpuplan.planning.speed.machine import Hardware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gpuplan.planning.speed.roofline import Shares

AIMED_AT = ("V100", "A100", "RTX 3090")
MEDIAN, P90 = 0.15, 0.35
"""The claim on these GPUs, of |estimated / measured - 1|."""
FEWEST = 2
DOUBTFUL = 1.1
"""n GPUs that are faster than this times n single ones: the row's batch cannot be what the table says."""


@dataclass(frozen=True)
class Judged:
    """A published run beside three estimates of its seconds a step."""

    run: speeds.Run
    family: str
    bound: str
    seconds: float
    previous: float
    naive: float

    def error(self, estimate: float) -> float:
        """Return |estimated / measured - 1|."""
        return abs(estimate / self.run.seconds - 1)


def naive(run: speeds.Run) -> float:
    """Return the usual rule of thumb: all flops at 40 % of the peak."""
    peak = run.speeds.half_tflops if run.speeds.mixed else run.speeds.tf32_tflops or run.speeds.fp32_tflops
    of = run.trace.operations
    flops = sum(c * (f + e * run.batch) for c, f, e in zip(of.count, of.flops_fixed, of.flops_per_sample, strict=True))
    return flops / (0.4 * peak * 1e12)


def previous(run: speeds.Run) -> float:
    """Return gpuplan's previous formula: flops and 15.5 x the bytes kept for the backward pass, three constants."""
    of, gpu = run.trace.operations, run.speeds
    rows = list(zip(of.count, of.flops_per_sample, of.forward, strict=True))
    flops = 3 * run.batch * sum(count * each for count, each, forward in rows if forward)
    peak = gpu.half_tflops if gpu.mixed else max(gpu.fp32_tflops, 0.3 * gpu.half_tflops)
    bandwidth = gpu.bandwidth_gbs * 1e9
    traffic = 15.5 * run.batch * sum(run.trace.allocations.per_sample) / bandwidth
    launches = 3 * sum(count for count, _, forward in rows if forward) * 10e-6
    return max(flops / (0.8 * peak * 1e12) + traffic, launches) + 5 * sum(run.trace.trainable) / bandwidth


def several(run: speeds.Run, one: float) -> float:
    """Return the seconds of a step on all GPUs of a run, given those on one."""
    if run.gpus == 1:
        return one
    link = cast("Literal['pcie', 'nvlink', 'nvswitch']", run.interconnect)
    hardware = Hardware(device="cuda", gpus=run.gpus, vcpus=1, interconnect=link)
    gradients = float(sum(run.trace.trainable))
    return one * throughput.SEVERAL_GPUS + communication.exposed_seconds(gradients, one / 2, hardware)


def judge(run: speeds.Run, shares: Shares) -> Judged:
    """Return a run with its estimates."""
    one = roofline.gpu_time(run.trace, run.batch, run.speeds, shares)
    return Judged(
        run=run,
        family=next((name for name in AIMED_AT if run.gpu.startswith(name)), run.gpu),
        bound="compute" if one.computing > one.moving else "memory bandwidth",
        seconds=several(run, run.computed(shares)),
        previous=several(run, previous(run)),
        naive=several(run, naive(run)),
    )


def doubtful(run: speeds.Run, runs: list[speeds.Run]) -> bool:
    """Tell whether a run on several GPUs is faster than as many single ones at the batch it states."""
    single = [other.seconds for other in runs if other.gpus == 1 and other.alike == run.alike]
    return run.gpus > 1 and bool(single) and run.seconds * DOUBTFUL < min(single)


def line(title: str, rows: list[Judged]) -> None:
    """Print one group: its errors, and the median error of both peers on the same rows."""
    if len(rows) < FEWEST:
        return
    errors = [row.error(row.seconds) for row in rows]
    ratio = median(row.run.seconds / row.seconds for row in rows)
    peers = [median(row.error(estimate(row)) for row in rows) for estimate in PEERS.values()]
    models = len({row.run.model for row in rows})
    print(
        f"{title:46} {len(rows):4} {models:6} {median(errors):7.0%} {p90(errors):6.0%} {ratio:7.2f} "
        + " ".join(f"{error:9.0%}" for error in peers)
    )


PEERS: dict[str, Callable[[Judged], float]] = {"previous": lambda row: row.previous, "naive": lambda row: row.naive}


def p90(values: list[float]) -> float:
    """Return the ninth decile."""
    return quantiles(values, n=10, method="inclusive")[-1]


def grouped(title: str, rows: Iterable[Judged], key: Callable[[Judged], str]) -> None:
    """Print a line for each group of rows."""
    groups: dict[str, list[Judged]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    for name in sorted(groups):
        line(f"{title}, {name}", groups[name])


def late(rows: list[Judged], spread: float) -> float:
    """Return the share of rows slower than p90."""
    return sum(row.run.seconds > spread * row.seconds for row in rows) / len(rows)


def main() -> None:
    """Print all groups and judge the claim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="print every held-out row")
    every = parser.parse_args().all
    tables = {"nhwc": roofline.read(speeds.NHWC_TABLE.read_text(encoding="utf-8"))}
    runs = speeds.load()
    judged = [judge(run, tables.get(run.layout, roofline.efficiencies())) for run in runs if not doubtful(run, runs)]
    print(f"{len(judged)} published runs, {len(runs) - len(judged)} doubtful ones left out")
    print(f"{'':46} {'rows':>4} models  median    p90 meas/est " + " ".join(f"{name:>9}" for name in PEERS))
    clean = [row for row in judged if row.run.computes_only]
    one = [row for row in clean if row.run.gpus == 1]
    shipped = [row for row in one if row.run.held_out and row.run.layout != "nhwc"]
    line("seen by the calibration", [row for row in one if not row.run.held_out and row.run.layout != "nhwc"])
    line("held out", shipped)
    grouped("held out", shipped, lambda row: row.family)
    grouped("held out", shipped, lambda row: row.bound)
    grouped("held out", shipped, lambda row: "mixed" if row.run.speeds.mixed else "fp32 and TF32")
    last = [row for row in one if row.run.held_out and row.run.layout == "nhwc"]
    grouped("held out, channels_last", last, lambda row: row.family)
    many = [row for row in clean if row.run.held_out and row.run.gpus > 1]
    grouped("held out, several GPUs", many, lambda row: row.run.interconnect)
    grouped("with an input pipeline", (row for row in judged if not row.run.computes_only), lambda row: row.run.model)
    if every:
        for row in sorted((*shipped, *last, *many), key=lambda row: row.run.seconds / row.seconds):
            print(
                f"{row.run.seconds / row.seconds:6.2f} {row.run.model} {row.run.gpus} x {row.run.gpu} b{row.run.batch}"
            )
    raise SystemExit(verdict(shipped, last, many))


def verdict(shipped: list[Judged], last: list[Judged], many: list[Judged]) -> str | None:
    """Return what is contradicted, None if nothing is; print what the claim rests on."""
    aimed = [row for row in (*shipped, *last) if row.family in AIMED_AT]
    errors = [row.error(row.seconds) for row in aimed]
    line("claim: V100, A100, RTX 3090", aimed)
    wrong = []
    if median(errors) > MEDIAN or p90(errors) > P90:
        wrong.append(f"median error {median(errors):.0%} or p90 {p90(errors):.0%} passes {MEDIAN:.0%} and {P90:.0%}")
    for name, estimate in PEERS.items():
        if median(row.error(estimate(row)) for row in aimed) < median(errors):
            wrong.append(f"the peer {name!r} is nearer")
    seen = [row for row in (*shipped, *many) if row.run.gpu.startswith(throughput.SEEN)]
    unseen = [row for row in (*shipped, *many) if not row.run.gpu.startswith(throughput.SEEN)]
    for title, rows, spread in (
        ("named in throughput.SEEN", seen, throughput.SPREAD_SEEN),
        ("of other names", unseen, throughput.SPREAD_UNSEEN),
    ):
        share = late(rows, spread)
        ninth = p90([row.run.seconds / row.seconds for row in rows])
        print(
            f"GPUs {title}: {share:.1%} of {len(rows)} held-out runs pass p90 = {spread} x p50; theirs is {ninth:.2f}"
        )
        if share > 1 / 10:
            wrong.append(f"more than one run in ten passes p90 on GPUs {title}")
    return "; ".join(wrong) or None


if __name__ == "__main__":
    main()
