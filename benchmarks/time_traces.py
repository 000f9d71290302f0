"""Rebuilds benchmarks/data/step_operations.csv.xz: the kernels of a training step of each model with published speeds.

Run by hand where the models changed: `PYTHONPATH=TIMM python benchmarks/time_traces.py`, TIMM made by
`pip install --target TIMM --no-deps timm==0.6.13 pyyaml safetensors huggingface_hub`. Takes some 5 s of one core a
model; needs torch, no GPU. `load` reads the table back, without torch, for time_accuracy.py and time_calibration.py.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import lzma
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job.failures import JobError
from gpuplan_job.step_trace import KINDS, Allocations, InputSpec, Operations, StepTrace, TraceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).parent / "data"
TABLE = DATA / "step_operations.csv.xz"
CACHE = Path.home() / ".cache" / "gpuplan-benchmarks" / "traces"
MODELS = 110
"""timm models, the first by the hash of their names that can be traced."""
TOKENS = InputSpec("tokens", length=384)
OTHERS = (
    TraceRequest("subjects:bert_base", TOKENS, "fp32"),
    TraceRequest("subjects:bert_base_half", TOKENS, "fp32"),
    TraceRequest("subjects:SSD300", InputSpec("images", 3, 300, 300), "fp32"),
    TraceRequest("subjects:SSD300", InputSpec("images", 3, 300, 300), "mixed"),
    TraceRequest("resnet50", InputSpec("images"), "fp32"),
    TraceRequest("resnet50", InputSpec("images"), "mixed"),
    TraceRequest("subjects:timm_gluon_resnext101_32x4d", InputSpec("images"), "fp32"),
    TraceRequest("subjects:timm_gluon_resnext101_32x4d", InputSpec("images"), "mixed"),
    TraceRequest("subjects:timm_seresnext101_32x4d", InputSpec("images"), "fp32"),
    TraceRequest("subjects:timm_seresnext101_32x4d", InputSpec("images"), "mixed"),
    TraceRequest("subjects:bert_large", InputSpec("tokens", length=512), "fp32"),
    TraceRequest("subjects:bert_large", InputSpec("tokens", length=512), "mixed"),
)
PARAMETERS = "parameters"
"""Name of the row that counts a model's trainable tensors and their bytes."""
SEED = 0
"""Of the halves."""
KEPT = "kept"
"""Name of the row with the bytes that the backward pass keeps: one of time_accuracy.py's peers needs them."""
COLUMNS = ("model", "side", "arithmetic", "operator", "forward", "count")
FIGURES = ("flops_fixed", "flops_per_sample", "bytes_fixed", "bytes_per_sample")


def hash_of(name: str) -> int:
    """Return the number that orders the names and splits them in two halves: SHA-256, so that nobody chose it."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16)


def held_out(model: str) -> bool:
    """Tell whether a model is in the half that the calibration never sees."""
    return hash_of(f"{SEED}:{model}") % 2 == 1


def load() -> dict[tuple[str, int, str], StepTrace]:
    """Return the traces by model, side (tokens for text) and arithmetic; their one allocation is all that is kept."""
    rows: dict[tuple[str, int, str], list[dict[str, str]]] = {}
    with lzma.open(TABLE, "rt", encoding="utf-8", newline="") as file:
        file.readline()  # provenance
        for row in csv.DictReader(file):
            rows.setdefault((row["model"], int(row["side"]), row["arithmetic"]), []).append(row)
    return {key: _trace(*key, found) for key, found in rows.items()}


def _trace(model: str, side: int, arithmetic: str, rows: list[dict[str, str]]) -> StepTrace:
    weights, kept, *kernels = rows
    tensors, total = int(weights["count"]), int(float(weights["bytes_fixed"]))
    figures = {name: [float(row[name]) for row in kernels] for name in FIGURES}
    return StepTrace(
        request=TraceRequest(model, InputSpec("images", 3, side, side), "mixed" if arithmetic == "mixed" else "fp32"),
        modules=[""],
        trainable=[total - (tensors - 1) * (total // tensors), *[total // tensors] * (tensors - 1)],
        trainable_module=[0] * tensors,
        frozen=[],
        buffers=[],
        inputs=[],
        allocations=Allocations([0], [0], [float(kept["bytes_fixed"])], [float(kept["bytes_per_sample"])]),
        outputs=[],
        forward=[],
        backward=[],
        operations=Operations(
            name=[row["operator"] for row in kernels],
            count=[int(row["count"]) for row in kernels],
            forward=[row["forward"] == "1" for row in kernels],
            **figures,
        ),
        guesses=0,
        versions={},
    )


def _lines(trace: StepTrace) -> Iterator[tuple[object, ...]]:
    spec = trace.request.inputs
    key = (trace.request.model.removeprefix("subjects:"), spec.length or spec.height, trace.request.arithmetic)
    yield (*key, PARAMETERS, 0, len(trace.trainable), 0, 0, sum(trace.trainable), 0)
    made = trace.allocations
    kept = [i for i, kind in enumerate(made.kind) if KINDS[kind] == "activation"]
    fixed, each = sum(made.fixed[i] for i in kept), sum(made.per_sample[i] for i in kept) + sum(trace.inputs)
    yield (*key, KEPT, 1, len(kept), 0, 0, f"{fixed:.5g}", f"{each:.5g}")
    of = trace.operations
    columns = (of.flops_fixed, of.flops_per_sample, of.bytes_fixed, of.bytes_per_sample)
    for name, forward, count, *figures in zip(of.name, of.forward, of.count, *columns, strict=True):
        yield (*key, name, int(forward), count, *(f"{figure:.5g}" for figure in figures))


def _cached(request: TraceRequest, cache: Path, *, retry: bool = True) -> StepTrace | None:
    """Return a trace, from the cache if it is there; None if there is none, with the reason on stderr."""
    name = hashlib.sha256(request.to_json().encode()).hexdigest()[:20]
    found = cache / f"{name}.json"
    if found.exists():
        return StepTrace.from_json(found.read_text(encoding="utf-8"))
    from gpuplan_job.trace.step import trace

    try:
        made = trace(request)
    except JobError as error:
        if retry and "does something else" in str(error):  # once in a hundred times, not reproducible
            return _cached(request, cache, retry=False)
        print(f"left out: {error}", file=sys.stderr)
        return None
    cache.mkdir(parents=True, exist_ok=True)
    found.write_text(made.to_json(), encoding="utf-8")
    return made


def _wanted(models: int, cache: Path) -> Iterator[StepTrace]:
    for request in OTHERS:
        found = _cached(request, cache)
        if found is not None:
            yield found
    with (DATA / "training_speeds.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["model"]: row for row in csv.DictReader(file) if row["group"] == "timm"}
    taken, there = 0, {request.model for request in OTHERS}
    for name in sorted(rows, key=hash_of):
        if taken == models:
            return
        if f"subjects:timm_{name}" in there:
            continue
        side = int(rows[name]["side"])
        found = _cached(TraceRequest(f"subjects:timm_{name}", InputSpec("images", 3, side, side), "mixed"), cache)
        if found is not None:
            taken += 1
            yield found


def main() -> None:
    """Trace what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder that keeps each trace")
    parser.add_argument("--models", type=int, default=MODELS, help="how many timm models")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    versions = ""
    for trace in _wanted(arguments.models, arguments.cache):
        if not versions:
            versions = ", ".join(f"{name} {version}" for name, version in trace.versions.items())
            text.write(f"# kernels of a training step by gpuplan_job.trace; {versions}, timm 0.6.13\n")
            writer.writerow((*COLUMNS, *FIGURES))
        writer.writerows(_lines(trace))
    TABLE.write_bytes(lzma.compress(text.getvalue().encode(), preset=9))


if __name__ == "__main__":
    main()
