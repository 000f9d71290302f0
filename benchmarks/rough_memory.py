"""Prints the error of the rough memory estimate on published measurements of torchvision models.

Run by hand: `python benchmarks/rough_memory.py`. Needs no GPU and no torch; docs/estimates.md quotes what it prints.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from statistics import mean, median, quantiles
from typing import TYPE_CHECKING, Literal, cast

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import MIB_PER_GIB
from gpuplan.planning.memory import MemoryEstimate, TrainingProcess, estimate
from gpuplan.planning.models import ModelFacts, at, lookup, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan_job.contract import Precision

EAGER_CONTEXT_GIB = 1.7
"""torch 1.12, behind the 16-mixed rows, loaded all kernels at start: 2.0 GiB of the RTX 3090's 24 lost, not 0.3."""
DATA = Path(__file__).parent / "data"
Row = dict[str, str]


def rows(name: str) -> Iterator[Row]:
    """Yield the rows of a data file."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def predict(row: Row, facts: ModelFacts | Unknown) -> MemoryEstimate:
    """Return the estimate of a published run: one process, a plain loop."""
    optimizer: Literal["sgd", "adamw"] = "sgd" if row["optimizer"].startswith("sgd") else "adamw"
    process = TrainingProcess(
        per_gpu_batch=int(row["batch_per_gpu"]),
        precision=cast("Precision", row["precision"]),
        optimizer=optimizer,
        momentum=0.9 if row["optimizer"].endswith("+momentum") else 0.0,
        loop="plain",
    )
    capacity = float(row["gpu_mem_gib"]) - (EAGER_CONTEXT_GIB if row["precision"] == "16-mixed" else 0.0)
    result = estimate(facts, process, round(capacity * MIB_PER_GIB))
    if isinstance(result, Unknown):
        raise SystemExit(f"{row['model']}: {result.unknown}")
    return result


def measured_side(row: Row) -> ModelFacts | Unknown:
    """Return the facts at the row's own image size."""
    return lookup(row["model"], int(row["image_size"]))


def other_sides(row: Row) -> ModelFacts | Unknown:
    """Return the facts as if the row's image size had not been measured: interpolated between its neighbours."""
    side = int(row["image_size"])
    points = tuple(p for p in table()[row["model"]] if p.image_size != side and p.image_size >= side // 2)
    # The error that `lookup` gives a size which it does not have, with the figures it would have taken.
    facts, between = lookup(row["model"], side + 1), at(points, side)[0]
    if isinstance(facts, Unknown):
        return facts
    return facts.model_copy(update={"saved_mib": between.saved_mib, "saved_mib_mixed": between.saved_mib_mixed})


def peaks(title: str, *, interpolated: bool) -> bool:
    """Print errors on rows with a measured peak, which has no context in it; tell whether the band holds them all."""
    ratios: dict[str, list[float]] = {}
    inside = 0
    for row in rows("published_memory.csv"):
        facts = other_sides(row) if interpolated else measured_side(row)
        result = predict(row, facts)
        context = next(item.gib for item in result.items if item.name == "context")
        measured = float(row["measured_peak_gib"])
        ratios.setdefault(row["model"], []).append((result.peak_gib - context) / measured)
        low, high = result.error_band
        inside += low - context <= measured <= high - context
    every = [ratio for values in ratios.values() for ratio in values]
    errors = [abs(ratio - 1) for ratio in every]
    print(f"{title}: {len(every)} rows")
    print(
        f"  error median {median(errors):.1%}, mean {mean(errors):.1%}, p90 {quantiles(errors, n=10)[-1]:.1%}, ", end=""
    )
    print(f"from {min(every) - 1:+.0%} to {max(every) - 1:+.0%}; inside the band {inside} of {len(every)}")
    for model, values in sorted(ratios.items()):
        print(f"  {model:16} {len(values):3} rows, median {median(values) - 1:+.0%}, ", end="")
        print(f"{min(values) - 1:+.0%} to {max(values) - 1:+.0%}")
    return inside == len(every)


def verdicts() -> bool:
    """Print verdicts against what happened; tell whether no run out of memory `fits` and none that ran is `too_big`."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows("published_fits.csv"):
        counts[row["outcome"], predict(row, measured_side(row)).verdict] += 1
    print(f"verdicts: {sum(counts.values())} runs")
    for outcome in ("fits", "oom"):
        shares = ", ".join(f"{verdict} {counts[outcome, verdict]}" for verdict in ("fits", "tight", "too_big"))
        print(f"  {outcome:5} as published: {shares}")
    return not counts["oom", "fits"] and not counts["fits", "too_big"]


if __name__ == "__main__":
    claims = (
        peaks("peak, image size in the table", interpolated=False),
        peaks("peak, image size interpolated", interpolated=True),
        verdicts(),
    )
    raise SystemExit(0 if all(claims) else "a published run lies outside what docs/estimates.md claims")
