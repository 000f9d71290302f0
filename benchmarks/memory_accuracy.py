"""Prints the error of gpuplan's memory estimate on published runs, beside other estimators: peaks, and fits or not.

Run by hand: `python benchmarks/memory_accuracy.py`. Needs no GPU and no torch: it replays stored traces; `--trace`
makes them anew. It ends with an error where a claim of docs/estimates-memory.md does not hold.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass
from statistics import mean, median, quantiles
from typing import TYPE_CHECKING, NamedTuple

from memory_runs import OTHER_TOOLS, TRACES, Run, ladder_runs, measured_runs, once, store_traces, stored_traces
from memory_tracing import packages, traces

from gpuplan.planning.memory.allocator import least_capacity, replay
from gpuplan.planning.memory.step_program import assemble, optimizer_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gpuplan_job.step_trace import StepTrace, TraceRequest

IMAGES_MEDIAN, IMAGES_P90 = 0.026, 0.08
TOKENS_MEDIAN, TOKENS_P90 = 0.005, 0.02
"""Bounds of the error of the peak. Images: torchvision; tokens: transformers whose batches have one length."""
RIGHT, MARGIN, RIGHT_WITH_MARGIN, FALSE_SAFE_WITH_MARGIN = 0.975, 0.02, 0.96, 0
"""Share of decisions that are right, as it is and with the margin; runs said to fit that did not, with the margin."""
TOO_LOW = 0.05


@dataclass(frozen=True)
class Estimated:
    """A run with its sequence of allocations and what the allocator makes of it on the run's card."""

    run: Run
    trace: StepTrace
    reserved: int
    allocated: int
    least: int
    """Smallest capacity that it fits in, or one below all that are asked about."""
    seconds: float


def estimate(run: Run, trace: StepTrace) -> Estimated:
    """Assemble a run's iterations and replay them."""
    started = time.perf_counter()
    steps = assemble(trace, run.around).steps
    asked = min(decision.capacity for decision in run.decisions)
    found, least = replay(steps, run.capacity), least_capacity(steps, above=int(asked / (1 + MARGIN)))
    return Estimated(run, trace, found.reserved, found.allocated, least, time.perf_counter() - started)


def folklore(estimated: Estimated) -> float:
    """Return the rule of thumb: weights, gradients and optimizer state (16 bytes a parameter for Adam), inputs x 10."""
    around, trace = estimated.run.around, estimated.trace
    copies = 2 + optimizer_memory(around.optimizer, around.momentum, around.weight_decay).state
    return copies * 4 * trace.parameters + 10 * sum(trace.inputs) * around.batch


class Predictor(NamedTuple):
    """One way to estimate a peak, in bytes; None where it has no estimate of a run."""

    name: str
    estimate: Callable[[Estimated], float | None]


def published(tool: str) -> Predictor:
    """Return another tool's own estimates, as published with the runs."""
    return Predictor(tool, lambda estimated: estimated.run.others.get(tool))


OURS = Predictor("gpuplan", lambda estimated: estimated.reserved)
PREDICTORS = (
    OURS,
    *(published(tool) for tool in OTHER_TOOLS),
    Predictor("bytes in use, no allocator", lambda estimated: estimated.allocated),
    Predictor("bytes a parameter + inputs x 10", folklore),
)


def p90(errors: Sequence[float]) -> float:
    """Return the error that nine of ten do not pass."""
    return quantiles(errors, n=10, method="inclusive")[-1] if len(errors) > 1 else errors[0]


def errors_of(predictor: Predictor, estimates: Iterable[Estimated]) -> list[float]:
    """Return the relative errors of a predictor on the runs it has an estimate for, with their signs."""
    pairs = [(predictor.estimate(estimated), estimated.run.measured) for estimated in estimates]
    return [found / measured - 1 for found, measured in pairs if found is not None and measured is not None]


def line(name: str, errors: Sequence[float]) -> str:
    """Return a line of a table of errors."""
    sizes = [abs(error) for error in errors]
    low = sum(error < -TOO_LOW for error in errors)
    figures = (median(sizes), mean(sizes), p90(sizes), max(sizes))
    return f"  {name:32}{len(errors):5}" + "".join(f"{figure:9.2%}" for figure in figures) + f"{low:7}"


def peaks(title: str, estimates: Sequence[Estimated]) -> tuple[float, float]:
    """Print the errors of every predictor on the peaks, and gpuplan's by model and card; return its median and p90."""
    print(f"{title}\n  {'':32} runs   median     mean      p90      max  >5 % low")
    for predictor in PREDICTORS:
        print(line(predictor.name, errors_of(predictor, estimates)))
    repeated = [e for e in estimates for _ in range(e.run.times)]
    print(line("gpuplan, repeated runs counted", errors_of(OURS, repeated)))
    for group in sorted({e.run.model for e in estimates}) + sorted({e.run.gpu for e in estimates}):
        if found := errors_of(OURS, [e for e in estimates if group in {e.run.model, e.run.gpu}]):
            print(line(f"gpuplan, {group}", found))
    sizes = [abs(error) for error in errors_of(OURS, estimates)]
    print()
    return median(sizes), p90(sizes)


def decide(title: str, estimates: Iterable[Estimated], margin: float) -> Counter[tuple[bool, bool]]:
    """Print what was said to fit against what fitted, and return the counts by (said, fitted)."""
    counts: Counter[tuple[bool, bool]] = Counter()
    for estimated in estimates:
        for decision in estimated.run.decisions:
            said = estimated.least * (1 + margin) <= decision.capacity
            counts[said, decision.fitted] += 1
    right = counts[True, True] + counts[False, False]
    print(
        f"  {title:40}{counts[True, True]:6}{counts[False, True]:6}{counts[False, False]:6}{counts[True, False]:6}"
        f"{right / counts.total():9.1%}"
    )
    return counts


def decisions(measured: Sequence[Estimated], ladder: Sequence[Estimated]) -> tuple[float, float, int]:
    """Print the decisions; return the shares that are right without and with a margin, and its count of false safe."""
    shares = []
    print(f"fits or not\n  {'was':40}{'fits':>6}{'fits':>6}{'oom':>6}{'oom':>6}\n  {'said':40}{'fits':>6}", end="")
    print(f"{'oom':>6}{'oom':>6}{'fits':>6}    right")
    for margin in (0.0, MARGIN):
        name = f"{margin:.0%} margin" if margin else "no margin"
        total = decide(f"measured runs, card and caps, {name}", measured, margin)
        total += decide(f"RTX 3090 ladder, {name}", ladder, margin)
        right = (total[True, True] + total[False, False]) / total.total()
        print(f"  {'together, ' + name:40}{'':18}{total[True, False]:6}{right:9.1%}")
        shares.append(right)
    return shares[0], shares[1], total[True, False]


def wanted() -> list[TraceRequest]:
    """Return the requests of all runs, each once."""
    return list(dict.fromkeys(run.request for run in (*measured_runs(), *ladder_runs())))


def judge() -> list[str]:
    """Print everything and return the claims that do not hold."""
    started = time.perf_counter()
    stored = stored_traces()
    loading = time.perf_counter() - started
    measured = _estimates(stored, once(measured_runs()))
    ladder = _estimates(stored, once(ladder_runs()))
    images = [e for e in measured if e.run.request.inputs.kind == "images"]
    tokens = [e for e in measured if e.run.request.inputs.kind == "tokens" and e.run.constant]
    others = [e for e in measured if not e.run.constant]
    images_median, images_p90 = peaks("peak, torchvision, 86 px, fp32", images)
    tokens_median, tokens_p90 = peaks("peak, transformers, 128 tokens, fp32", tokens)
    peaks("peak, transformers, batches too small to have one length", others)
    right, with_margin, false_safe = decisions(measured, ladder)
    cold = [seconds for _, seconds in stored.values()]
    warm = [e.seconds for e in (*measured, *ladder)]
    print(
        f"\nseconds an estimate: traced in a new process {median(cold):.1f} (p90 {p90(cold):.1f}, max {max(cold):.1f},"
    )
    print(f"  when the traces were made); stored: reading {loading / len(cold):.2f}, ", end="")
    print(f"replays {median(warm):.2f} (max {max(warm):.2f})")
    claims = {
        f"torchvision: median within {IMAGES_MEDIAN:.1%}": images_median <= IMAGES_MEDIAN,
        f"torchvision: p90 within {IMAGES_P90:.1%}": images_p90 <= IMAGES_P90,
        f"transformers: median within {TOKENS_MEDIAN:.1%}": tokens_median <= TOKENS_MEDIAN,
        f"transformers: p90 within {TOKENS_P90:.1%}": tokens_p90 <= TOKENS_P90,
        f"fits or not: {RIGHT:.1%} right": right >= RIGHT,
        f"fits or not, {MARGIN:.0%} margin: {RIGHT_WITH_MARGIN:.1%} right": with_margin >= RIGHT_WITH_MARGIN,
        f"fits or not, {MARGIN:.0%} margin: {FALSE_SAFE_WITH_MARGIN} false safe": false_safe <= FALSE_SAFE_WITH_MARGIN,
    }
    return [claim for claim, holds in claims.items() if not holds]


def _estimates(stored: dict[TraceRequest, tuple[StepTrace, float]], runs: Iterable[Run]) -> list[Estimated]:
    return [estimate(run, stored[run.request][0]) for run in runs if run.request in stored]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--trace", action="store_true", help="trace the models anew; needs torch, transformers and timm"
    )
    if parser.parse_args().trace:
        store_traces(traces(wanted()), packages())
        print(f"{TRACES}: {TRACES.stat().st_size / 1024:.0f} KiB")
    failed = judge()
    raise SystemExit("not as claimed: " + "; ".join(failed) if failed else 0)
