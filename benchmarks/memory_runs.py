"""The published runs that `memory_accuracy.py` judges by, and the traces of their models.

Read by `memory_accuracy.py` and `memory_tracing.py`. It estimates nothing and needs no torch.
"""

from __future__ import annotations

import csv
import json
import lzma
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gpuplan.planning.memory.step_program import CUBLAS_WORKSPACE, Around, Loop, Optimizer
from gpuplan_job.step_trace import InputSpec, StepTrace, TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

DATA = Path(__file__).parent / "data"
TRACES = DATA / "memory_traces.json.xz"
GIB = 1 << 30

CONTEXT_GIB = 0.29
"""What an RTX 3060 or 4060 keeps from the allocator (torch 2.6, CUDA 12.4): 0.27 to 0.31 by the runs out of memory."""
LADDER_LINE_GIB = 22.0
"""What torch 1.12 leaves of an RTX 3090's 24: it loads all kernels at start. Chosen with the ladder in sight."""
FEWEST_SEQUENCES = 11
"""Sequences are padded to the longest of a batch, at most 128 tokens; in a smaller batch none may reach that."""
LOOPS: dict[str, Loop] = {
    "mode 1": "plain, gradients set to zero before backward",
    "mode 2": "plain, gradients set to zero last",
}
"""By what the column `zero_grad_position` has in brackets; anything else drops gradients first."""
SUBJECTS = {
    "T5-small": "t5_small",
    "t5-base": "t5_base",
    "distilbert/distilgpt2": "distilgpt2",
    "facebook/opt-125m": "opt_125m",
    "openai-community/gpt2": "gpt2",
    "Qwen/Qwen3-4B": "qwen3_4b",
}
"""Callables of `transformer_subjects.py`."""
TEN_CLASSES = ("mnasnet1_0",)
"""Models that were built for the 10 classes of CIFAR-10; the others keep ImageNet's 1000."""
OTHER_TOOLS = ("xMem", "DNNMem", "SchedTune")
"""Whose estimates of the same runs are columns of the data: `xmem_est_gib` and so on."""


@dataclass(frozen=True)
class Decision:
    """A run that fitted a capacity or ran out of it."""

    capacity: int
    """Bytes that the allocator may reserve."""
    fitted: bool


@dataclass(frozen=True)
class Run:
    """One published run; equal ones are one run that was repeated."""

    model: str
    gpu: str
    request: TraceRequest
    around: Around
    measured: int | None
    """Bytes reserved at the peak; None where it ran out of memory, or where nobody measured."""
    decisions: tuple[Decision, ...]
    constant: bool = True
    """Whether all batches have one shape."""
    times: int = 1
    """How often it is in the data."""
    others: dict[str, float] = field(default_factory=dict, compare=False)
    """Bytes that other tools estimated, by tool."""

    @property
    def capacity(self) -> int:
        """Bytes of the card that the allocator may reserve."""
        return self.decisions[0].capacity


def measured_runs() -> list[Run]:
    """Return the runs whose peak NVML measured, the same run as often as it is in the data."""
    return [_measured(row) for row in _rows("measured_peaks.csv")]


def ladder_runs() -> list[Run]:
    """Return the runs of timm's batch ladder on an RTX 3090: the first batch that ran, and the one before it."""
    return [_step_of_ladder(row) for row in _rows("batch_ladder.csv")]


def once(runs: Iterable[Run]) -> list[Run]:
    """Return each run once: the first of equal ones, with the caps of all."""
    found: dict[tuple[object, ...], Run] = {}
    for run in runs:
        key = (run.request, run.around, run.gpu)
        if key in found:
            before = found[key]
            caps = tuple(dict.fromkeys((*before.decisions, *run.decisions)))
            found[key] = replace(before, decisions=caps, times=before.times + 1)
        else:
            found[key] = run
    return list(found.values())


def stored_traces() -> dict[TraceRequest, tuple[StepTrace, float]]:
    """Return the stored traces by request, each with the seconds it took to trace in a fresh process."""
    stored = json.loads(lzma.decompress(TRACES.read_bytes()))
    found = [(StepTrace.from_json(json.dumps(entry["trace"])), entry["seconds"]) for entry in stored["traces"]]
    return {trace.request: (trace, seconds) for trace, seconds in found}


def store_traces(traces: Iterable[tuple[StepTrace, float]], packages: dict[str, str]) -> None:
    """Write traces without what memory does not depend on, module paths and kernels; with the packages' versions."""
    entries = [{"seconds": round(seconds, 2), "trace": _compact(json.loads(t.to_json()))} for t, seconds in traces]
    text = json.dumps({"packages": packages, "traces": entries}, separators=(",", ":"), sort_keys=True)
    TRACES.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def _rows(name: str) -> Iterable[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _measured(row: dict[str, str]) -> Run:
    tokens = row["image_size"].startswith("seq")
    batch = int(row["batch_per_gpu"])
    mode = row["zero_grad_position"].rpartition("(")[2].rstrip(")")
    loop: Loop = LOOPS.get(mode, "plain")
    peak = None if row["measured_peak_gib"] == "oom" else round(float(row["measured_peak_gib"]) * GIB)
    card = Decision(round((float(row["gpu_mem_gib"]) - CONTEXT_GIB) * GIB), fitted=peak is not None)
    caps = re.findall(r"cap ([\d.]+) GiB -> (fits|OOM)", row["note"])
    others = {tool: row[f"{tool.lower()}_est_gib"] for tool in OTHER_TOOLS}
    if tokens:
        length = int(row["image_size"].removeprefix("seq"))
        model, inputs = f"transformer_subjects:{SUBJECTS[row['model']]}", InputSpec("tokens", length=length)
    else:
        side, classes = int(row["image_size"]), 10 if row["model"] in TEN_CLASSES else 1000
        model, inputs = row["model"], InputSpec("images", height=side, width=side, classes=classes)
    optimizer = cast("Optimizer", row["optimizer"])
    return Run(
        model=row["model"],
        gpu=row["gpu"],
        request=TraceRequest(model, inputs, "fp32"),
        around=Around(
            batch,
            optimizer,
            momentum=0.0,
            weight_decay=0.01 if optimizer == "adamw" else 0.0,
            loop=loop,
            buckets=False,
            # The scripts published with the image runs set CUBLAS_WORKSPACE_CONFIG=:0:0.
            cublas_workspace=CUBLAS_WORKSPACE if tokens else 0,
        ),
        measured=peak,
        decisions=(card, *(Decision(round(float(gib) * GIB), word == "fits") for gib, word in caps)),
        constant=not tokens or batch >= FEWEST_SEQUENCES,
        others={tool: float(gib) * GIB for tool, gib in others.items() if gib},
    )


def _step_of_ladder(row: dict[str, str]) -> Run:
    side = int(row["image_size"])
    return Run(
        model=row["model"],
        gpu=row["gpu"],
        request=TraceRequest(f"timm_subjects:{row['model']}", InputSpec("images", height=side, width=side), "mixed"),
        around=Around(int(row["batch_per_gpu"]), "sgd", 0.9, 0.0, "plain, gradients zeroed in place", buckets=False),
        measured=None,
        decisions=(Decision(round(LADDER_LINE_GIB * GIB), row["measured_peak_gib"] == "fits"),),
    )


def _compact(trace: dict[str, Any]) -> dict[str, Any]:
    columns = trace["allocations"]
    columns["module"] = [0] * len(columns["module"])
    for name in ("fixed", "per_sample"):
        columns[name] = [int(value) if value == int(value) else value for value in columns[name]]
    trace["modules"] = [""]
    trace["trainable_module"] = [0] * len(trace["trainable"])
    trace["operations"] = {name: [] for name in trace["operations"]}
    return trace
