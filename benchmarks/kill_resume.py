"""Kill -9 a two-process training at random moments, resume it, and print what was lost and what came out.

    python benchmarks/kill_resume.py                        # 200 kills of forked processes, 20 of real jobs
    python benchmarks/kill_resume.py --kills 50 --jobs 0    # quicker
    python benchmarks/kill_resume.py --kills 40 --jobs 0 --interval 1 --samples 8100    # what is lost: see below

Forked ranks train a tiny network with BatchNorm, dropout, augmentation, accumulation, a ragged step and an average of
the weights; a kill takes one rank, the other, or both. Real jobs are `gpuplan_job.launch` with torchrun; a kill takes a
rank, torchrun or the launcher. The ranks agree on a save by votes a quarter of a second apart, so an interval of less
than a second, which lets many saves fall into a short training, says nothing of what is lost. TMPDIR lies on another
filesystem than the checkpoints. A run is resumed if it ends well, and the same if its weights, and those of its best
epoch, are those of an undisturbed run to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from gpuplan_job import manifest, train
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec, WorkloadSpec
from gpuplan_job.loaders import DataSets
from gpuplan_job.manifest import Owner
from gpuplan_job.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCHS, SEED = 4, 20261129
SLOTS = 8192
"""Times of micro-batches that a rank can note."""
GRACE_SECONDS = 5.0
OTHER_DISK = Path("/dev/shm")  # noqa: S108 - a filesystem of its own, which is the point
JOB_SAMPLES = 400


class Shaken(Dataset[tuple[Tensor, int]]):
    """Two clouds of points, shaken anew each time they are drawn to train on."""

    def __init__(self, samples: int, noise: float) -> None:
        self.samples = samples
        self.noise = noise

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        centre = torch.randn(8, generator=torch.Generator().manual_seed(index)) + 1.0 * (index % 2)
        return centre + self.noise * torch.randn(8), index % 2

    def __len__(self) -> int:
        return self.samples


class Noting(nn.Module):
    """A small network that notes when each of its training micro-batches begins."""

    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 2))
        self.note = note

    def forward(self, points: Tensor) -> Tensor:
        """Return the logits [B, 2]."""
        if self.training:
            self.note()
        logits: Tensor = self.layers(points)
        return logits


class Notes:
    """Times of micro-batches in memory that outlives the ranks that wrote them."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 2 * SLOTS * 8)

    def clear(self) -> None:
        """Forget all."""
        self._memory[:] = bytes(len(self._memory))

    def of(self, rank: int) -> Callable[[], None]:
        """Return what notes that a rank's next micro-batch begins."""
        count = 0

        def note() -> None:
            nonlocal count
            struct.pack_into("d", self._memory, (rank * SLOTS + count) * 8, time.monotonic())
            count += 1

        return note

    def times(self) -> list[float]:
        """Return when each micro-batch began on the rank that came farthest."""
        values = struct.unpack(f"{2 * SLOTS}d", self._memory)
        ranks = [[time for time in values[rank * SLOTS : (rank + 1) * SLOTS] if time] for rank in (0, 1)]
        return max(ranks, key=len)


@dataclass(frozen=True)
class Outcome:
    """What one kill led to."""

    victim: str
    resumed: bool
    same: bool
    steps_lost: int
    seconds_lost: float
    steps_done: int


def tiny_input(interval: float) -> JobInput:
    """Return the input of the forked trainings."""
    workload = WorkloadSpec(
        model="tiny", data="clouds", optimizer="adamw", momentum=0.9, weight_decay=1e-3, schedule="onecycle",
        label_smoothing=0.1, epochs=EPOCHS, precision="fp32", seed=5, workers=0, ema_decay=0.9,
    )  # fmt: skip
    spec = TrainSpec(0.01, checkpoint_seconds=interval)
    return JobInput("run-1", "train", 1, "plan", workload, BatchSpec(8, 2, 2), "cpu", train=spec)


class Forked:
    """Trainings in ranks forked from this process, which has imported all and started nothing."""

    victims = ("rank 0", "rank 1", "both ranks")

    def __init__(self, root: Path, samples: int, interval: float) -> None:
        self.job_input = tiny_input(interval)
        self.samples = samples
        self.layout = TrainingLayout.of(samples, self.job_input.batch, "constant", EPOCHS)
        self.notes = Notes()
        self.root = root
        self.expected = root / "whole"
        if self.wait(self.start(self.expected)) != [0, 0]:
            raise SystemExit("the undisturbed training failed")
        self.seconds = time.monotonic() - self.notes.times()[0]
        """From the first micro-batch to the end: before it there is nothing to lose."""

    def start(self, folder: Path) -> list[int]:
        """Start the ranks of a training in a folder and return their ids."""
        self.notes.clear()
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        return [self._fork(folder, rank, port) for rank in (0, 1)]

    def _fork(self, folder: Path, rank: int, port: int) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            with (folder / f"log-{rank}.txt").open("a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            torch.set_num_threads(1)
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
            os.environ |= {"TORCHELASTIC_RUN_ID": "1", "GROUP_RANK": "0"}
            sets = DataSets(Shaken(self.samples, 0.5), Shaken(60, 0.0))
            network = Noting(self.notes.of(rank))
            train.fit(self.job_input, "0" * 64, network, sets, folder, Process.from_environment(os.environ))
            code = 0
        except BaseException:
            (folder / f"error-{rank}.txt").write_text(traceback.format_exc())
            raise
        finally:
            os._exit(code)

    @staticmethod
    def wait(ranks: list[int]) -> list[int]:
        """Return the exit codes; once one has failed the others have a moment, as with torchrun."""
        codes: dict[int, int] = {}
        deadline: float | None = None
        while len(codes) < len(ranks):
            for rank in set(ranks) - set(codes):
                found, status = os.waitpid(rank, os.WNOHANG)
                if found:
                    codes[rank] = os.waitstatus_to_exitcode(status)
            if any(codes.values()) and deadline is None:
                deadline = time.monotonic() + GRACE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                for rank in set(ranks) - set(codes):
                    os.kill(rank, signal.SIGKILL)
            time.sleep(0.005)
        return [codes[rank] for rank in ranks]

    def kill(self, number: int, moment: float, victim: str) -> Outcome | None:
        """Kill `moment` seconds into a training and resume it; None where it was over before."""
        folder = self.root / f"cut-{number}"
        ranks = self.start(folder)
        while not self.notes.times():
            if any(os.waitid(os.P_PID, rank, os.WEXITED | os.WNOHANG | os.WNOWAIT) for rank in ranks):
                raise SystemExit(f"a rank ended before its first step: see {folder}")
            time.sleep(0.005)
        time.sleep(moment)
        chosen = {"rank 0": ranks[:1], "rank 1": ranks[1:], "both ranks": ranks}[victim]
        over = (folder / "checkpoints" / "last.ckpt").exists()
        for rank in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)
        at = time.monotonic()
        codes = self.wait(ranks)
        if over or codes == [0, 0]:
            shutil.rmtree(folder)
            return None
        times, ends = self.notes.times(), self._ends()
        done = sum(1 for end in ends if end < len(times))
        kept = next(manifest.verified(folder / "checkpoints", Owner.of(self.job_input), lambda _: None), None)
        from_step = kept[0].place.steps(self.layout) if kept else 0
        began = times[ends[from_step - 1] if from_step else 0 :][:1]
        lost = max(0.0, at - began[0]) if began else 0.0
        resumed = self.wait(self.start(folder)) == [0, 0]
        same = resumed and equal(folder, self.expected)
        if same:
            shutil.rmtree(folder)
        return Outcome(victim, resumed, same, max(0, done - from_step), lost, done)

    def _ends(self) -> list[int]:
        """Return the micro-batches of a rank after each optimizer step."""
        ends, before = [], 0
        for cut in self.layout.epochs:
            ends += [before + cut.micro_batches_before(step) for step in range(1, cut.steps + 1)]
            before = ends[-1]
        return ends


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


def equal(folder: Path, expected: Path) -> bool:
    """Tell whether two trainings ended with the same last and best weights and averages, and the same losses."""
    pairs = [
        [torch.load(path / "checkpoints" / name, weights_only=True) for path in (folder, expected)]
        for name in ("last.ckpt", "best.ckpt")
    ]
    for ours, theirs in pairs:
        for key in ("state_dict", "ema_state_dict"):
            mine, other = ours.get(key, {}), theirs.get(key, {})
            if mine.keys() != other.keys() or not all(torch.equal(mine[name], other[name]) for name in mine):
                return False
        losses = [[epoch["train_loss"] for epoch in found["gpuplan_epochs"]] for found in (ours, theirs)]
        if losses[0] != losses[1]:
            return False
    return True


def trial(kind: Forked | Launched, kills: int, seconds: float) -> list[Outcome]:
    """Kill at `kills` random moments of the training's `seconds`."""
    outcomes: list[Outcome] = []
    number = 0
    while len(outcomes) < kills:
        number += 1
        victim = kind.victims[len(outcomes) % len(kind.victims)]
        outcome = kind.kill(number, random.uniform(0, seconds), victim)  # noqa: S311 - a moment, no secret
        if outcome is not None:
            outcomes.append(outcome)
            end = "same" if outcome.same else "OTHERWISE"
            told = f"{victim} after {outcome.steps_done} steps, {outcome.steps_lost} lost: ended {end}"
            print(f"{len(outcomes)}/{kills} {told}", file=sys.stderr, flush=True)
    return outcomes


def table(title: str, outcomes: list[Outcome], interval: float | None) -> None:
    """Print what became of each kind of kill; `interval` between saves is given where seconds were measured."""
    print(f"\n{title}\n")
    # A job reports its steps about once a second, so what it took since then is lost and not counted.
    steps_of = "steps lost" if interval else "reported steps lost"
    print(f"| killed | times | resumed | same to the bit | {steps_of}: median, most | seconds lost: most |")
    print("|---|---|---|---|---|---|")
    for victim, times in Counter(outcome.victim for outcome in outcomes).items():
        of = [outcome for outcome in outcomes if outcome.victim == victim]
        steps = sorted(outcome.steps_lost for outcome in of)
        seconds = f"{max(o.seconds_lost for o in of):.2f} s" if interval else "not measured"
        same, resumed = sum(o.same for o in of), sum(o.resumed for o in of)
        print(f"| {victim} | {times} | {resumed} | {same} | {steps[len(steps) // 2]}, {steps[-1]} | {seconds} |")
    print(f"\nresumes {sum(o.resumed for o in outcomes)}/{len(outcomes)}, ", end="")
    print(f"final weights and losses of the undisturbed run {sum(o.same for o in outcomes)}/{len(outcomes)}, ", end="")
    print(f"kills after {min(o.steps_done for o in outcomes)} to {max(o.steps_done for o in outcomes)} steps")
    if interval:
        most = max(o.seconds_lost for o in outcomes)
        print(f"lost work at most {most:.2f} s = {most / interval:.1f} intervals of {interval:g} s")


def main() -> int:
    """Print both tables; the exit status says whether any run did not end as the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills of forked ranks")
    parser.add_argument("--jobs", type=int, default=20, help="kills of real jobs")
    parser.add_argument("--interval", type=float, default=0.1, help="seconds between saves")
    parser.add_argument("--samples", type=int, default=810, help="training samples of the forked ranks")
    parser.add_argument("--folder", type=Path, help="where trainings are kept; by default the current folder's disk")
    options = parser.parse_args()
    random.seed(SEED)
    failed = 0
    with (
        tempfile.TemporaryDirectory(dir=options.folder or Path.cwd(), prefix="kill-resume-") as root,
        tempfile.TemporaryDirectory(dir=OTHER_DISK) as elsewhere,
    ):
        os.environ["TMPDIR"] = elsewhere
        os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1] / "src")
        if options.kills:
            forked = Forked(Path(root), options.samples, options.interval)
            print(f"forked: an undisturbed training takes {forked.seconds:.1f} s for its {forked.layout.steps} steps")
            outcomes = trial(forked, options.kills, forked.seconds)
            table("Two ranks forked from a warm process", outcomes, options.interval)
            failed += sum(not outcome.same for outcome in outcomes)
        if options.jobs:
            try:
                launched = Launched(Path(root) / "jobs", options.interval)
                print(f"\njobs: an undisturbed one takes {launched.seconds:.1f} s, imports included")
                outcomes = trial(launched, options.jobs, launched.seconds / 3)
                table("Real jobs: launcher, torchrun, two ranks", outcomes, None)
                failed += sum(not outcome.same for outcome in outcomes)
            finally:
                shutil.rmtree(OTHER_DISK / Path(root).name, ignore_errors=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
