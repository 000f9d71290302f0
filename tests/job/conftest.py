"""What the payload's tests share: one job input to vary, and a copy of the payload whose tasks are scripts."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gpuplan_job
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec, WorkloadSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True, scope="module")
def _own_garbage_alone() -> Iterator[None]:
    """Spare searches that collect garbage before each try what all tests before them have left in this process."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def train_input() -> JobInput:
    workload = WorkloadSpec(
        model="resnet18",
        data="digits",
        optimizer="sgd",
        momentum=0.9,
        weight_decay=5e-4,
        schedule="onecycle",
        label_smoothing=0.0,
        epochs=2,
        precision="fp32",
        seed=0,
        workers=0,
    )
    return JobInput("run-1", "train", 1, "plan", workload, BatchSpec(32, 1, 1), "cpu", train=TrainSpec(0.05))


@pytest.fixture
def payload(tmp_path: Path) -> Callable[[str], Path]:
    """Return what copies the payload with a script as its training task, into a folder for the Python path."""

    def copy(script: str) -> Path:
        folder = tmp_path / "payload"
        source = Path(gpuplan_job.__file__).parent
        shutil.copytree(source, folder / "gpuplan_job", ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
        (folder / "gpuplan_job" / "train.py").write_text(script)
        return folder

    return copy
