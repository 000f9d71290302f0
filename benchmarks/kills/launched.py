"""Jobs as the backends start them, killed and started again as a later attempt would be."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from gpuplan_job import manifest
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec, WorkloadSpec
from gpuplan_job.manifest import Owner
from kills.outcome import Outcome, equal

OTHER_DISK = Path("/dev/shm")  # noqa: S108 - a filesystem of its own, which is the point
JOB_SAMPLES = 400


class Launched:
    """Jobs as the backends start them: the launcher, torchrun, two ranks with a data-loading process each."""

    victims = ("a rank", "torchrun", "the launcher")

    def __init__(self, root: Path, interval: float) -> None:
        self.root = root
        workload = WorkloadSpec(
            model="resnet18", data=f"fake:1x8x8:10:{JOB_SAMPLES}", optimizer="sgd", momentum=0.9, weight_decay=5e-4,
            schedule="onecycle", label_smoothing=0.0, epochs=3, precision="fp32", seed=5, workers=1,
        )  # fmt: skip
        spec = TrainSpec(0.05, checkpoint_seconds=interval)
        self.job_input = JobInput("run-1", "train", 1, "plan", workload, BatchSpec(8, 2, 2), "cpu", train=spec)
        self.expected = root / "whole"
        started = time.monotonic()
        if self.start(self.expected).wait():
            raise SystemExit(f"the undisturbed job failed: see {self.expected}/log.txt")
        self.seconds = time.monotonic() - started

    def start(self, folder: Path, checkpoints: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a job in a folder whose checkpoints lie on another disk, as a mount would."""
        folder.mkdir(parents=True)
        place = checkpoints or OTHER_DISK / self.root.parent.name / folder.name
        place.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints").symlink_to(place)
        source = folder / "input.json"
        source.write_text(self.job_input.to_json())
        with (folder / "log.txt").open("wb") as log:
            arguments = [sys.executable, "-m", "gpuplan_job.launch", str(source), str(folder)]
            return subprocess.Popen(arguments, stdout=log, stderr=log)

    def kill(self, number: int, moment: float, victim: str) -> Outcome | None:
        """Kill `moment` seconds into a job and resume it in a new attempt; None where it was over before."""
        folder = self.root / f"job-{number}"
        launcher = self.start(folder)
        place = (folder / "checkpoints").resolve()
        while not any(place.glob("*.json")) and launcher.poll() is None:
            time.sleep(0.05)  # imports take most of the time and hold nothing to lose
        time.sleep(moment)
        if launcher.poll() is not None:
            return None
        below = psutil.Process(launcher.pid).children(recursive=True)
        ranks = [p for p in below if "gpuplan_job.train" in p.cmdline() and "torch.distributed.run" not in p.cmdline()]
        torchrun = [p for p in below if "torch.distributed.run" in p.cmdline()]
        chosen = {
            "a rank": random.sample([p for p in ranks if p.ppid() == torchrun[0].pid], 1) if torchrun else [],
            "torchrun": torchrun[:1],
            "the launcher": [psutil.Process(launcher.pid)],
        }[victim]
        for process in chosen:
            process.kill()
        launcher.wait()
        gone, alive = psutil.wait_procs(below, timeout=15)
        del gone
        told = [json.loads(line.split(" ", 1)[1])["done"] for line in progress(folder)]
        kept = next(manifest.verified(place, Owner.of(self.job_input), lambda _: None), None)
        layout = TrainingLayout.of(JOB_SAMPLES, self.job_input.batch, "constant", 3)
        from_step = kept[0].place.steps(layout) if kept else 0
        again = self.root / f"job-{number}-again"
        resumed = self.start(again, place).wait() == 0 and not alive
        same = resumed and equal(again, self.expected)
        if same:
            for path in (folder, again, place):
                shutil.rmtree(path)
        done = max(told, default=0)
        return Outcome(victim, resumed, same, max(0, done - from_step), 0.0, done)


def progress(folder: Path) -> list[str]:
    """Return the progress lines of a job's log."""
    lines = (folder / "log.txt").read_text(errors="replace").splitlines()
    return [line for line in lines if line.startswith("gpuplan.progress {") and line.endswith("}")]
