"""Two ranks forked from a warm process, which train within a second and can be killed hundreds of times."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
import traceback
from typing import TYPE_CHECKING

import torch

from gpuplan_job import manifest, train
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec, WorkloadSpec
from gpuplan_job.loaders import DataSets
from gpuplan_job.manifest import Owner
from gpuplan_job.process import Process
from kills.clouds import Notes, Noting, Shaken
from kills.outcome import Outcome, equal

if TYPE_CHECKING:
    from pathlib import Path

EPOCHS = 4
GRACE_SECONDS = 5.0


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
