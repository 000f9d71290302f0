"""Trace every torchvision classification model and write the files that `gpuplan.planning.traces.source` reads.

Run by maintainers on a new torchvision; no GPU is needed, and half an hour:
    python scripts/make_traces.py src/gpuplan/planning/traces/torchvision
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torchvision

from gpuplan.planning.traces import shipped
from gpuplan_job.failures import JobError
from gpuplan_job.step_trace import InputSpec, StepTrace, TraceRequest
from gpuplan_job.trace.step import trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan_job.step_trace import Arithmetic

SIDES = (32, 96, 224)
"""32 px runs with the payload's small stem. From 64 px on convolutions grow with the area where the side is a multiple
of 32, so two sides tell all others of them."""
DIGITS_SIDE = 8
DIGITS = ("resnet", "mobilenet", "shufflenet", "squeezenet")
"""Families that are tried on the shipped 8 px digits."""
ATTENTION = ("vit_", "swin_", "maxvit_")
ATTENTION_SIDES = (384,)
"""A third side for what does not grow with the area alone."""
ARITHMETICS: tuple[Arithmetic, ...] = ("fp32", "mixed")


def native_side(name: str) -> int:
    """Return the side in pixels that torchvision's default weights were evaluated at."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    return int(weights.transforms().crop_size[0])


def traces(name: str) -> Iterator[StepTrace]:
    """Yield the traces of one model: each side that the payload can build it at, in both arithmetics."""
    more = ATTENTION_SIDES if name.startswith(ATTENTION) else ()
    digits = (DIGITS_SIDE,) if name.startswith(DIGITS) else ()
    for side in sorted({*SIDES, *more, *digits, native_side(name)}):
        inputs = InputSpec("images", height=side, width=side, classes=shipped.CLASSES)
        for arithmetic in ARITHMETICS:
            try:
                yield trace(TraceRequest(name, inputs, arithmetic))
            except JobError as error:  # a side that a model cannot take is a trace less, and is reported
                print(f"{name} at {side} px: left out: {error}", file=sys.stderr)
                break


def main() -> None:
    """Write one file a model; progress and what was left out go to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="*", default=torchvision.models.list_models(module=torchvision.models))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        path = arguments.folder / f"{name}{shipped.SUFFIX}"
        path.write_bytes(shipped.pack(list(traces(name))))
        print(f"{name}: {path.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
