"""Prints the error of the rough step time on published training speeds (synthetic data, so computing is the bound).

Run by hand: `python benchmarks/rough_throughput.py`. Needs no GPU and no torch. docs/estimates.md quotes its figures.
"""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Literal, cast

from gpuplan.planning.models import ModelFacts, lookup
from gpuplan.planning.throughput import Hardware, StepLoad, StepTime, step_time

if TYPE_CHECKING:
    from gpuplan.core.frozen import Unknown
    from gpuplan_job.contract import Precision

DATA = Path(__file__).parent / "data"
PLENTY_OF_CORES = 4096
Row = dict[str, str]


def other_models() -> dict[str, ModelFacts]:
    """Return the models that the published rows name and torchvision does not have."""
    lines = (DATA / "other_models.csv").read_text(encoding="utf-8").splitlines()
    return {
        row["model"]: ModelFacts(
            name=row["model"],
            image_size=int(row["image_size"]),
            classes=1000,
            parameters=int(row["parameters"]),
            buffers=int(row["buffers"]),
            forward_gflop=float(row["forward_gflop"]),
            saved_mib=float(row["saved_mib_fp32"]),
            saved_mib_mixed=float(row["saved_mib_mixed"]),
            operations=int(row["operations"]),
            how=lines[0],
        )
        for row in csv.DictReader(lines[1:])
    }


def time_ratio(row: Row, facts: ModelFacts | Unknown) -> tuple[float, bool]:
    """Return measured over estimated seconds a step (above 1: slower than estimated), and whether it passes p90."""
    gpus = int(row["n_gpus"])
    hardware = Hardware(
        device="cuda",
        gpus=gpus,
        vcpus=PLENTY_OF_CORES,
        peak_tflops=float(row["peak_tflops"]),
        bandwidth_gbs=float(row["bandwidth_gbs"]),
        interconnect=cast("Literal['single-gpu', 'nvlink', 'nvswitch']", row["interconnect"]),
    )
    batch = int(row["batch_per_gpu"])
    load = StepLoad(per_gpu_batch=batch, accumulation=1, precision=cast("Precision", row["precision"]), jpeg=False)
    step = step_time(facts, load, hardware)
    if not isinstance(step, StepTime):
        raise SystemExit(f"{row['model']}: {step.unknown}")
    ratio = batch * gpus / float(row["samples_per_s"]) / step.seconds
    return ratio, ratio > step.spread


def line(title: str, ratios: list[float]) -> None:
    """Print one group."""
    errors = [max(ratio, 1 / ratio) - 1 for ratio in ratios]
    tenths = quantiles(ratios, n=10)
    print(f"{title:42} {len(ratios):3} rows: median error {median(errors):.0%}, measured / estimated ", end="")
    print(f"p10 {tenths[0]:.2f}, median {median(ratios):.2f}, p90 {tenths[-1]:.2f}, max {max(ratios):.2f}")


def main() -> None:
    """Print all groups."""
    others = other_models()
    groups: dict[str, list[float]] = {}
    slower = 0
    with (DATA / "published_throughput.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            facts = others.get(row["model"]) or lookup(row["model"], int(row["image_size"]))
            kind = "one GPU" if row["n_gpus"] == "1" else "several GPUs"
            known = "other models" if row["model"] in others else "torchvision, RTX 3090"
            ratio, late = time_ratio(row, facts)
            groups.setdefault(f"{known}, {kind}, {row['precision']}", []).append(ratio)
            slower += late
    for title, ratios in groups.items():
        line(title, ratios)
    every = [ratio for ratios in groups.values() for ratio in ratios]
    line("all", every)
    print(f"slower than the estimate's p90: {slower} of {len(every)}")
    if slower > len(every) / 10:
        raise SystemExit("more than one published run in ten is slower than p90")


if __name__ == "__main__":
    main()
