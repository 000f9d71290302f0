"""What batch is found under a limit of memory, in how many tries, and whether a training survives at it.

gpuplan's `find_batch` beside Lightning's `Tuner.scale_batch_size`, by doubling and by bisection, on the same modules,
data and limits, each in a process of its own on the CPU. A found batch is then trained at for 4 steps in a fresh
process under the same limit, alone and with DDP's buckets beside. Usage: python benchmarks/find_batch.py [SUBJECT ...]
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models

from gpuplan_job.batch_trial import reserved_gib
from gpuplan_job.device_memory import DeviceMemory
from gpuplan_job.finder import find_batch

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")
SUBJECTS: dict[str, tuple[str, int, float]] = {
    "resnet18 96 px, 1.5 GiB": ("resnet18", 96, 1.5),
    "resnet18 96 px, 2 GiB": ("resnet18", 96, 2.0),
}
METHODS = ("gpuplan", "lightning power", "lightning binsearch")
SAMPLES, CLASSES, START = 256, 10, 8
STEPS = 4
ROW = "{:<36} {:<20} {:>6} {:>6} {:>6} {:>8} {:>10} {:>10} {:>10}"


class Classifier(pl.LightningModule):
    """A network that counts its steps and the batches they were at."""

    def __init__(self, name: str, side: int) -> None:
        super().__init__()
        options = {"image_size": side} if name.startswith("vit_") else {}
        self.network: nn.Module = models.get_model(name, weights=None, num_classes=CLASSES, **options)
        self.batch_size = START
        self.side = side

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Return the loss and note the batch."""
        images, targets = batch
        SEEN.append(len(images))
        return functional.cross_entropy(self.network(images), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer with state: two more copies of the weights."""
        return torch.optim.AdamW(self.parameters(), lr=1e-4)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a loader at the batch that stands now."""
        data = TensorDataset(
            torch.zeros(1, 3, self.side, self.side).expand(SAMPLES, -1, -1, -1), torch.arange(SAMPLES) % CLASSES
        )
        return DataLoader(data, batch_size=self.batch_size, shuffle=True)


SEEN: list[int] = []


def trainer(**options: Any) -> pl.Trainer:  # noqa: ANN401 - Lightning's own
    """Return a trainer that writes nothing."""
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def fingerprint(module: nn.Module) -> list[bytes]:
    """Return what a search must not change."""
    parts = [value.detach().numpy().tobytes() for value in module.state_dict().values()]
    return [*parts, torch.get_rng_state().numpy().tobytes()]


def search(method: str, module: Classifier, limit_gib: float) -> int:
    """Return the batch that a method finds."""
    if method == "gpuplan":
        return find_batch(module, module, device="cpu", start=START, memory_gib=limit_gib, trial_seconds=120.0).batch
    from pytorch_lightning.tuner.tuning import Tuner

    with DeviceMemory(CPU, limit_gib).limited():
        mode = method.split()[1]
        found = Tuner(trainer(max_epochs=1)).scale_batch_size(module, mode=mode, init_val=START, steps_per_trial=3)
    return found or 0


def one(method: str, subject: str) -> dict[str, object]:
    """Search in this process."""
    name, side, limit = SUBJECTS[subject]
    torch.manual_seed(0)
    module = Classifier(name, side)
    before, began = fingerprint(module), time.perf_counter()
    found = search(method, module, limit)
    seconds = time.perf_counter() - began
    tries = sum(1 for previous, size in zip([0, *SEEN], SEEN, strict=False) if size != previous)
    return {
        "found": found,
        "tries": tries,
        "steps": len(SEEN),
        "seconds": seconds,
        "untouched": fingerprint(module) == before,
    }


def survive(subject: str, batch: int, world_size: int) -> dict[str, object]:
    """Train in this process, under the limit."""
    name, side, limit = SUBJECTS[subject]
    torch.manual_seed(0)
    module = Classifier(name, side)
    module.batch_size = batch
    with DeviceMemory(CPU, limit).limited():
        buckets = torch.ones(int(reserved_gib(module, CPU, world_size) * 2**30), dtype=torch.uint8)
        trainer(max_steps=STEPS, max_epochs=-1).fit(module)
    return {"steps": len(SEEN), "buckets": len(buckets)}


def child(*arguments: str) -> dict[str, Any] | None:
    """Return what a process of its own says, None if it died."""
    with tempfile.TemporaryDirectory() as folder:  # the tuner leaves a file in the folder it is in
        done = subprocess.run(
            [sys.executable, __file__, "--child", *arguments],
            capture_output=True,
            text=True,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "2"},
            check=False,
        )
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 and lines else None


def main(subjects: list[str]) -> None:
    """Print the table."""
    lightning = metadata.version("pytorch-lightning")
    print(f"Lightning {lightning}, torch {torch.__version__}, CPU; AdamW, fp32, from batch {START}")
    print(f"survives: {STEPS} steps in a fresh process under the same limit; DDP: with its buckets beside\n")
    head = ("subject", "method", "found", "tries", "steps", "seconds", "untouched", "survives", "with DDP")
    print(ROW.format(*head))
    for subject in subjects or SUBJECTS:
        for method in METHODS:
            said = child("search", method, subject)
            if said is None:
                print(ROW.format(subject, method, "died", "", "", "", "", "", ""), flush=True)
                continue
            lives = ["yes" if child("survive", subject, str(said["found"]), str(n)) else "NO" for n in (1, 2)]
            print(
                ROW.format(
                    subject,
                    method,
                    said["found"],
                    said["tries"],
                    said["steps"],
                    f"{said['seconds']:.0f}",
                    "yes" if said["untouched"] else "NO",
                    *lives,
                ),
                flush=True,
            )


TASKS: dict[str, Callable[..., dict[str, object]]] = {
    "search": one,
    "survive": lambda subject, batch, world_size: survive(subject, int(batch), int(world_size)),
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(sys.stderr):
            answer = TASKS[sys.argv[2]](*sys.argv[3:])
        print(json.dumps(answer))
    else:
        main(sys.argv[1:])
