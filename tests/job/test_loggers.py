"""Loggers: the figures of the progress lines, no row twice after a resume, and no logger that stops a training."""

from __future__ import annotations

import csv
import json
import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from pytorch_lightning.loggers import Logger
from tensorboardX.proto import event_pb2
from torch import nn

from gpuplan_job import loggers, stop_request, train
from gpuplan_job.contract import BatchSpec, JobInput, Progress, TrainSpec
from gpuplan_job.csv_log import CsvLog
from gpuplan_job.data import fake
from gpuplan_job.loaders import DataSets, sample_count
from gpuplan_job.logged import Logged, settings
from gpuplan_job.loggers import Guarded
from gpuplan_job.process import Process
from gpuplan_job.supervision import StoppedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ALONE = Process(rank=0, local_rank=0, world_size=1, local_world_size=1)
VALIDATION = sample_count(fake.load("1x8x8:4:40", None)[1])


class CutOffError(Exception):
    """Stands for whatever ends a training in its midst."""


class Flat(nn.Module):
    """A network of one layer that is cut off after so many training steps."""

    def __init__(self, after_steps: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        self.left = after_steps

    def forward(self, images: Any) -> Any:  # noqa: ANN401 - as nn.Module has it
        if self.training and self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise CutOffError
        return self.layer(images)


class Kept(Logger):
    """A logger that keeps what it is told, or fails at the first row."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.params: list[dict[str, Any]] = []

    name = version = "kept"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.broken:
            raise OSError(28, "No space left on device")
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: object, **kwargs: object) -> None:  # noqa: ANN401 - Lightning's
        del args, kwargs
        self.params.append(params)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def events(folder: Path) -> list[event_pb2.Event]:
    """Return TensorBoard's events of all files in a folder, in the order of the files."""
    found = []
    for path in sorted(folder.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event()
            event.ParseFromString(data[12 : 12 + length])
            found.append(event)
            data = data[16 + length :]
    return found


def job(train_input: JobInput, *names: str) -> JobInput:
    workload = replace(train_input.workload, epochs=3)
    return replace(train_input, workload=workload, batch=BatchSpec(8, 1, 1), train=TrainSpec(0.01), loggers=list(names))  # type: ignore[arg-type] # names of loggers


def fit(job_input: JobInput, folder: Path, network: nn.Module) -> None:
    sets = DataSets(*fake.load("1x8x8:4:40", None))
    train.fit(job_input, "0" * 64, network, sets, folder, ALONE)


def test_a_training_logs_its_epochs_and_its_settings(tmp_path: Path, train_input: JobInput) -> None:
    fit(job(train_input, "csv", "tensorboard"), tmp_path, Flat())
    epochs = [row for row in rows(tmp_path / "logs") if row["val_accuracy"]]
    assert [(row["step"], row["epoch"]) for row in epochs] == [("5", "1.0"), ("10", "2.0"), ("15", "3.0")]
    assert all(float(row["train_loss"]) > 0 and float(row["learning_rate"]) > 0 for row in epochs)
    told = json.loads((tmp_path / "logs" / "settings.json").read_text())
    assert (told["model"], told["learning_rate"], told["global_batch"]) == ("resnet18", 0.01, 8)
    tags = {value.tag for event in events(tmp_path / "logs" / "tensorboard") for value in event.summary.value}
    assert {"val_accuracy", "train_loss", "learning_rate", "epoch"} <= tags


def test_a_resumed_training_goes_on_in_the_same_files_without_a_row_twice(
    tmp_path: Path, train_input: JobInput
) -> None:
    job_input = job(train_input, "csv", "tensorboard")
    with pytest.raises(CutOffError):
        fit(job_input, tmp_path, Flat(after_steps=12))
    log = tmp_path / "logs"
    with (log / "metrics.csv").open("a") as file:
        file.write("11,3.0,1.5,,,,,\n12,3.")  # what a kill -9 leaves: a row that will be repeated, and half a row
    fit(job_input, tmp_path, Flat())
    assert [row["step"] for row in rows(log) if row["val_loss"]] == ["5", "10", "15"]
    assert "11" not in {row["step"] for row in rows(log)}
    told = [event for event in events(log / "tensorboard") if event.HasField("session_log")]
    assert [event.step for event in told] == [11], "TensorBoard is told to forget from step 11 on"
    steps = [e.step for e in events(log / "tensorboard") for value in e.summary.value if value.tag == "val_accuracy"]
    assert steps == [5, 10, 15]


def test_without_loggers_nothing_is_written(tmp_path: Path, train_input: JobInput) -> None:
    fit(job(train_input), tmp_path, Flat())
    assert not (tmp_path / "logs").exists()


def test_what_a_module_logs_itself_is_a_new_column(tmp_path: Path) -> None:
    log = CsvLog(tmp_path, 0)
    log.log_metrics({"loss": 1.5}, 1)
    log.log_metrics({"my/f1": 0.25}, 2)
    first, second = rows(tmp_path)
    assert (first["loss"], first["my/f1"], second["my/f1"], second["loss"]) == ("1.5", "", "0.25", "")
    assert [row["my/f1"] for row in rows(tmp_path)] == ["", "0.25"]


@settings_of_hypothesis(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 50), unique=True, max_size=12).map(sorted), st.integers(1, 50))
def test_going_on_at_a_step_keeps_exactly_the_rows_up_to_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], at: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = CsvLog(folder, 0)
    for step in steps:
        log.log_metrics({"loss": float(step)}, step)
    CsvLog(folder, at)
    assert [int(row["step"]) for row in rows(folder)] == [step for step in steps if step <= at]


def test_a_logger_that_fails_is_left_out_and_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    broken = Guarded("csv", lambda _: Kept(broken=True), tmp_path, said.append)
    broken.begin(0)
    for step in range(5):
        broken.log_metrics({"loss": 1.0}, step)
    broken.save()
    broken.finalize("success")
    assert said == ["logger csv failed: [Errno 28] No space left on device; the training goes on without it"]


def test_one_that_is_not_installed_says_what_brings_it(tmp_path: Path) -> None:
    said: list[str] = []

    def missing(step: int) -> Logger:
        del step
        raise ModuleNotFoundError("No module named 'mlflow'")

    logger = Guarded("mlflow", missing, tmp_path, said.append)
    logger.begin(0)
    logger.log_metrics({"loss": 1.0}, 1)
    assert said == ["logger mlflow is not installed: pip install 'gpuplan[mlflow]'; the training goes on without it"]


def test_one_that_cannot_forget_is_not_told_twice_what_a_resumed_training_repeats(tmp_path: Path) -> None:
    first, second = Kept(), Kept()
    logger = Guarded("wandb", lambda _: first, tmp_path, pytest.fail)
    logger.begin(0)
    for step in (1, 2, 3, 4):
        logger.log_metrics({"loss": 1.0}, step)
    again = Guarded("wandb", lambda _: second, tmp_path, pytest.fail)
    again.begin(2)
    for step in (3, 4, 5, 6):
        again.log_metrics({"loss": 1.0}, step)
    assert [step for step, _ in first.rows + second.rows] == [1, 2, 3, 4, 5, 6]


def test_settings_that_come_before_the_training_begins_are_kept(tmp_path: Path) -> None:
    kept = Kept()
    logger = Guarded("csv", lambda _: kept, tmp_path, pytest.fail)
    logger.log_hyperparams({"width": 64})
    assert kept.params == []
    logger.begin(0)
    assert kept.params == [{"width": 64}]


def test_only_the_first_rank_writes_and_the_others_take_anything(tmp_path: Path, train_input: JobInput) -> None:
    (mute,) = loggers.build(job(train_input, "csv"), tmp_path, 1, pytest.fail)
    mute.begin(0)
    mute.log_metrics({"loss": 1.0}, 1)
    mute.experiment.add_image("a", None)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_printed_first_and_logged_with_its_epoch(tmp_path: Path, train_input: JobInput) -> None:
    logged = Logged(job(train_input, "csv"), tmp_path, 0, pytest.fail)
    logged.loggers[0].begin(0)
    printed: list[Progress] = []
    progress = Progress("train", "epoch 2 of 3", 7, 12, {"loss": 0.5, "samples_per_second": 100.0})
    logged.and_log(printed.append)(progress)
    assert printed == [progress]
    (row,) = rows(tmp_path / "logs")
    assert (row["step"], row["epoch"], row["loss"], row["samples_per_second"]) == ("7", "2.0", "0.5", "100.0")


def test_the_settings_are_flat_and_name_the_workload(train_input: JobInput) -> None:
    told = settings(train_input)
    assert {"model", "per_gpu", "learning_rate", "global_batch", "run_id"} <= told.keys()


def test_one_that_was_not_there_before_begins_where_the_training_goes_on(tmp_path: Path) -> None:
    kept = Kept()
    logger = Guarded("wandb", lambda _: kept, tmp_path, pytest.fail)
    logger.begin(2)
    logger.log_metrics({"loss": 1.0}, 3)
    assert [step for step, _ in kept.rows] == [3]


class Asking(Flat):
    """Asks for a stop while the last samples of the first epoch's validation are under way."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.validated = folder, 0

    def forward(self, images: Any) -> Any:  # noqa: ANN401 - as nn.Module has it
        self.validated += 0 if self.training else len(images)
        if self.validated >= VALIDATION:
            assert stop_request.ask(self.folder)
            time.sleep(0.1)  # it looks at the disk a few times a second
        return super().forward(images)


def test_a_stop_at_the_end_of_an_epoch_comes_after_its_row(tmp_path: Path, train_input: JobInput) -> None:
    job_input = job(train_input, "csv")
    with pytest.raises(StoppedError):
        fit(job_input, tmp_path, Asking(tmp_path))
    assert [row["step"] for row in rows(tmp_path / "logs") if row["val_loss"]] == ["5"]
    fit(job_input, tmp_path, Flat())
    assert [row["step"] for row in rows(tmp_path / "logs") if row["val_loss"]] == ["5", "10", "15"]
