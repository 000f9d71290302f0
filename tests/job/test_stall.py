"""A training that stands still is noticed from outside, with the rank that is behind and what it stands in."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from gpuplan_job import heartbeat
from gpuplan_job.contract import Failure
from gpuplan_job.failures import JobError
from gpuplan_job.heartbeat import Beat, Heart
from gpuplan_job.pulse import Pulse
from gpuplan_job.stall import START_SECONDS, Standing, Watchdog, behind, explained, standing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpuplan_job.contract import JobInput

TORCH = "/usr/lib/python3/site-packages/torch"
OTHER_THREAD = f"""Thread 0x0001 (most recent call first):
  File "{TORCH}/utils/data/_utils/pin_memory.py", line 28 in do_one_step
"""
STANDARD = sysconfig.get_path("stdlib")
LOADING = f"""{OTHER_THREAD}
Current thread 0x0002 (most recent call first):
  File "{STANDARD}/selectors.py", line 415 in select
  File "{TORCH}/utils/data/dataloader.py", line 1133 in _try_get_data
  File "{TORCH}/../pytorch_lightning/loops/training_epoch_loop.py", line 240 in advance
"""
REDUCING = f"""{OTHER_THREAD}
Current thread 0x0002 (most recent call first):
  File "{TORCH}/autograd/graph.py", line 769 in _engine_run_backward
  File "/home/me/model.py", line 12 in training_step
"""
VOTING = f"""Current thread 0x0002 (most recent call first):
  File "{TORCH}/../gpuplan_job/agreement.py", line 117 in _answer
  File "{TORCH}/../gpuplan_job/checkpoints.py", line 190 in _after_step
"""
OWN = """Current thread 0x0002 (most recent call first):
  File "/home/me/model.py", line 12 in training_step
"""


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def watchdog(folder: Path, time: Time, ranks: range = range(1)) -> Watchdog:
    return Watchdog(folder, ranks, lambda _text: None, time, sleep=lambda _seconds: None)


def passes(dog: Watchdog, time: Time, seconds: int) -> None:
    for _ in range(seconds):
        time.now += 1
        dog.look()


def test_a_beat_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert heartbeat.read(tmp_path, 0) is None
    heart = Heart(tmp_path, 0)
    assert heartbeat.read(tmp_path, 0) is None
    heart.beat("validation of it all", 7, 60.0)
    beat = heartbeat.read(tmp_path, 0)
    assert beat is not None
    assert (beat.beats, beat.steps, beat.limit_seconds, beat.phase) == (1, 7, 60.0, "validation of it")
    heartbeat.clear(tmp_path)
    assert heartbeat.read(tmp_path, 0) is None


def test_a_rank_that_beats_in_time_is_left_alone(tmp_path: Path) -> None:
    time = Time()
    heart, dog = Heart(tmp_path, 0), watchdog(tmp_path, time)
    for step in range(5):
        heart.beat("step", step, 60.0)
        passes(dog, time, 59)


def test_the_start_may_take_half_an_hour(tmp_path: Path) -> None:
    time = Time()
    dog = watchdog(tmp_path, time)
    passes(dog, time, int(START_SECONDS))
    with pytest.raises(JobError, match="it does not answer"):
        passes(dog, time, 2)


def test_a_launcher_that_was_itself_stopped_blames_nobody(tmp_path: Path) -> None:
    time = Time()
    heart, dog = Heart(tmp_path, 0), watchdog(tmp_path, time)
    heart.beat("step", 1, 60.0)
    dog.look()
    time.now += 3600
    dog.look()
    heart.beat("step", 2, 60.0)
    passes(dog, time, 59)


@pytest.mark.parametrize(
    ("stacks", "where", "frame"),
    [
        (LOADING, "data loading", "dataloader.py:1133 in _try_get_data"),
        (REDUCING, "collective", "graph.py:769 in _engine_run_backward"),
        (VOTING, "collective", "agreement.py:117 in _answer"),
        (OWN, "code", "model.py:12 in training_step"),
        ("", "no answer", ""),
    ],
)
def test_where_a_rank_stands_is_read_from_its_main_thread(stacks: str, where: str, frame: str) -> None:
    found = standing(1, 5, "step", stacks)
    assert (found.where, found.frame) == (where, frame)


def test_the_rank_that_is_in_no_collective_is_the_one_behind() -> None:
    standings = [standing(0, 8, "step", REDUCING), standing(1, 8, "data", LOADING)]
    error = explained(75, standings, "the stacks")
    assert error.message == (
        "nothing has moved for 75 s, after optimizer step 8: rank 1 is behind (data loading, at "
        "dataloader.py:1133 in _try_get_data), the others wait for it"
    )
    assert "--workers" in error.fix
    assert (error.rank, error.__notes__) == (1, ["the stacks"])


def test_of_ranks_that_all_wait_the_one_with_the_fewest_steps_is_behind() -> None:
    ahead = standing(0, 9, "step", REDUCING)
    late = standing(1, 8, "step", REDUCING)
    assert behind([ahead, late]) == [late]
    error = explained(75, [ahead, replace(late, steps=9)], "")
    assert "all ranks stand still, rank 0 in collective" in error.message
    assert "NCCL_DEBUG=INFO" in error.fix


def test_a_rank_that_does_not_answer_is_behind() -> None:
    gone = Standing(1, 8, "step", "no answer", "")
    error = explained(75, [standing(0, 8, "step", REDUCING), gone], "")
    assert "rank 1 is behind (it does not answer)" in error.message
    assert "nvidia-smi" in error.fix


class Beats(Heart):
    """Keeps what was beaten."""

    def __init__(self) -> None:
        self.all: list[Beat] = []

    def beat(self, phase: str, steps: int, limit_seconds: float) -> None:
        self.all.append(Beat(0, len(self.all), steps, limit_seconds, phase))


class Quiet(pl.LightningModule):
    def __init__(self, time: Time) -> None:
        super().__init__()
        self.time = time
        self.inside = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, _index: int) -> Tensor:
        self.time.now += 5
        loss: Tensor = self.inside(batch).sum()
        return loss

    def validation_step(self, batch: Tensor, _index: int) -> None:
        del batch

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=0.0)


def test_limits_follow_the_pace_and_leave_time_for_what_is_rare(tmp_path: Path) -> None:
    time, beats = Time(), Beats()
    pulse = Pulse(tmp_path, 0, time)
    pulse.heart = beats
    loader: DataLoader[Tensor] = DataLoader(torch.zeros(6, 1), batch_size=1)  # type: ignore[arg-type] # is a data set
    trainer = pl.Trainer(
        max_epochs=2,
        callbacks=[pulse],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(Quiet(time), loader, loader)
    limits: dict[str, list[float]] = {}
    for beat in beats.all:
        limits.setdefault(beat.phase, []).append(beat.limit_seconds)
    assert limits["first data"] == [START_SECONDS, 300.0]
    assert limits["data"][:2] == [START_SECONDS] * 2
    assert set(limits["data"][2:]) == {100.0}  # 20 times 5 s
    assert set(limits["validation"]) == {300.0}
    assert set(limits["checkpoint"]) == {1800.0}
    assert beats.all[-1].steps == 12


HANGS = """
import sys, time
from pathlib import Path
from gpuplan_job.heartbeat import Heart
heart = Heart(Path(sys.argv[2]), 0)
heart.beat("step", 3, 1.0)
def hang():
    time.sleep(600)
hang()
"""


def test_the_launcher_ends_a_training_that_hangs_and_keeps_its_stacks(
    tmp_path: Path, payload: Callable[[str], Path], train_input: JobInput
) -> None:
    source = tmp_path / "job.json"
    source.write_text(train_input.to_json())
    done = subprocess.run(
        [sys.executable, "-m", "gpuplan_job.launch", str(source), str(tmp_path / "job")],
        env={"PYTHONPATH": str(payload(HANGS)), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    failure = Failure.from_json((tmp_path / "job" / "failure.json").read_bytes())
    assert (failure.kind, failure.rank) == ("stall", 0)
    assert "after optimizer step 3: it stands in code, at train.py:8 in hang" in failure.message
    assert "in hang" in failure.trace
    assert "stacks of rank 0:" in done.stderr
