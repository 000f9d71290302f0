"""Published training speeds with the trace of each and the GPU it ran on; read by time_calibration, time_accuracy.

Values only: it prints nothing and judges nothing.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import time_traces

from gpuplan.planning.speed import roofline

if TYPE_CHECKING:
    from gpuplan_job.step_trace import StepTrace

DATA = Path(__file__).parent / "data"
NHWC_TABLE = DATA / "efficiencies_nhwc.csv"
ACCESSES = {"sgd": 8.0, "adam": 7.0}
"""Each parameter's bytes are moved so often: SGD with momentum by PyTorch; NVIDIA's Adam is one fused kernel."""
WITH_INPUT = "lambda, with input"
"""SSD300 by Lambda reads and decodes COCO: on the same A100 NVIDIA published 1.6 times the speed, mixed precision."""
CONTAINERS = ("nvidia", "lambda", WITH_INPUT)
"""Groups of rows measured in NVIDIA's containers, which allow TF32 everywhere."""


@dataclass(frozen=True)
class Run:
    """One published speed."""

    group: str
    model: str
    trace: StepTrace
    batch: int
    layout: str
    optimizer: str
    gpu: str
    gpus: int
    interconnect: str
    speeds: roofline.Speeds
    seconds: float
    """Of one step."""
    held_out: bool
    """Whether the calibration has not seen this model."""

    @property
    def computes_only(self) -> bool:
        """Whether the speed is the GPU's, not that of an input pipeline beside it."""
        return self.group != WITH_INPUT

    @property
    def alike(self) -> tuple[object, ...]:
        """What runs on one and on several GPUs have in common."""
        return self.group, self.model, self.gpu, self.batch, self.speeds.mixed

    @property
    def optimizer_bytes(self) -> float:
        """Bytes that the optimizer moves in a step."""
        return sum(self.trace.trainable) * ACCESSES[self.optimizer]

    def computed(self, table: roofline.Shares | None = None) -> float:
        """Return the estimated seconds of a step on one GPU."""
        time = roofline.gpu_time(self.trace, self.batch, self.speeds, table)
        weights = sum(self.trace.trainable)
        moved = ACCESSES[self.optimizer]
        return time.seconds + roofline.optimizer_seconds(weights, moved, self.speeds.bandwidth_gbs, table)


def losses(runs: list[Run]) -> list[float]:
    """Return how many times longer a step takes on several GPUs than on one, for each pair published together."""
    single = {run.alike: run.seconds for run in runs if run.gpus == 1}
    return [run.seconds / single[run.alike] for run in runs if run.gpus > 1 and run.alike in single]


def load() -> list[Run]:
    """Return the runs whose model is in the table of traces."""
    with (DATA / "gpus.csv").open(encoding="utf-8", newline="") as file:
        gpus = {row["gpu"]: row for row in csv.DictReader(file)}
    traces = time_traces.load()
    runs = []
    with (DATA / "training_speeds.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            arithmetic = "fp32" if row["trace"] == "bert_base_half" else row["arithmetic"]
            trace = traces.get((row["trace"], int(row["side"]), arithmetic))
            if trace is not None:
                runs.append(_run(row, trace, gpus[row["gpu"]]))
    return runs


def _run(row: dict[str, str], trace: StepTrace, gpu: dict[str, str]) -> Run:
    number, batch = int(row["n_gpus"]), int(row["batch_per_gpu"])
    return Run(
        group=row["group"],
        model=row["model"],
        trace=trace,
        batch=batch,
        layout=row["layout"],
        optimizer=row["optimizer"],
        gpu=row["gpu"],
        gpus=number,
        interconnect=row["interconnect"],
        speeds=roofline.Speeds(
            half_tflops=float(gpu["half_tflops"]),
            tf32_tflops=float(gpu["tf32_tflops"]) if gpu["tf32_tflops"] else None,
            fp32_tflops=float(gpu["fp32_tflops"]),
            bandwidth_gbs=float(gpu["bandwidth_gbs"]),
            mixed=row["arithmetic"] == "mixed",
            tf32_matmul=row["group"] in CONTAINERS,
        ),
        seconds=batch * number / float(row["samples_per_s"]),
        held_out=time_traces.held_out(row["model"]),
    )
