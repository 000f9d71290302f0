"""Bad data end a job in its first minute, by name; good data cost it nothing it can feel."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gpuplan_job import data, data_check
from gpuplan_job.contract import FAILURE_FILE, Failure, JobInput, LrTarget, SweepSpec
from gpuplan_job.data import DataError
from gpuplan_job.sample_check import SampleCheck, refuse_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path


class Told(Dataset[tuple[Tensor, int]]):
    """Samples of two classes in turn, some of them bad, all of them counted when they are opened."""

    def __init__(self, count: int, bad: Collection[int] = ()) -> None:
        self.labels = [index % 2 for index in range(count)]
        self.bad = bad
        self.opened: list[int] = []

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.opened.append(index)
        if index in self.bad:
            raise DataError(f"cannot read the image {index}.png")
        return torch.zeros(3, 4, 4), self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)


def checked(train: Told, val: Told, clock: Callable[[], float] = lambda: 0.0) -> SampleCheck:
    return SampleCheck((train, val), 2, clock)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(2, 20), st.integers(1, 90))
def test_some_and_the_rest_are_every_sample_once(train: int, val: int, most: int) -> None:
    check = checked(Told(train), Told(val))
    check.some(most, 10, 3)
    assert check.looked == min(most, train + val)
    check.rest()
    opened = [sorted(samples.opened) for samples in check.sets if isinstance(samples, Told)]
    assert opened == [[*range(train)], [*range(val)]]
    assert check.error() is None


def test_the_first_of_every_class_is_looked_at_first_in_training_and_validation() -> None:
    train, val = Told(1000), Told(1000)
    checked(train, val).some(4, 10, 3)
    assert (sorted(train.opened), sorted(val.opened)) == ([0, 1], [0, 1])


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 49), min_size=1))
def test_a_bad_sample_is_named_with_the_number_of_others(bad: set[int]) -> None:
    check = checked(Told(50, bad), Told(10))
    check.some(60, 10, 3)
    others = f"{len(bad) - 1} others of them bad too" if len(bad) > 1 else "no other of them bad"
    assert str(check.error()).endswith(f"(60 of 60 samples opened, {others})")
    assert any(str(check.error()).startswith(f"cannot read the image {index}.png") for index in bad)


def test_the_rest_ends_at_the_first_bad_sample() -> None:
    train = Told(5000, bad=range(3000, 5000))
    check = checked(train, Told(10))
    check.rest()
    assert len(train.opened) == 3001
    assert "3000.png (3,001 of 5,010 samples opened, no other of them bad)" in str(check.error())


def test_a_look_at_some_ends_with_its_time_and_sooner_once_one_is_bad() -> None:
    ticks = itertools.count()
    slow = checked(Told(5000), Told(10), lambda: next(ticks))
    bad = checked(Told(5000, {0}), Told(10), lambda: next(ticks))
    slow.some(5000, 10, 3)
    bad.some(5000, 10, 3)
    assert 0 < bad.looked < slow.looked < 5000


def test_other_shapes_labels_and_errors_are_named_too() -> None:
    class Odd(Told):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if index == 1:
                raise ZeroDivisionError("by the user's own code")
            return torch.zeros(3, 4, 4 + (index == 2)), 7 if index == 3 else 0

    messages = []
    for number in range(1, 4):
        odd = Odd(4)
        check = SampleCheck((odd, Told(2)), 2, lambda: 0.0)
        check._shape = torch.Size([3, 4, 4])
        check._count(check._problem((0, number)))
        messages.append(check.first)
    assert messages == [
        "sample 1 of the training data cannot be read: ZeroDivisionError: by the user's own code",
        "sample 2 of the training data is [3, 4, 5], others are [3, 4, 4]: a batch holds one shape",
        "sample 3 of the training data has label 7: the model has the classes 0 to 1",
    ]


def test_labels_out_of_the_model_s_classes_and_classes_that_are_not_trained_on_are_refused_unread() -> None:
    train, val = Told(4), Told(4)
    refuse_labels((train, val), 2)
    val.labels[3] = 2
    with pytest.raises(DataError, match="the validation data have label 2: the model has the classes 0 to 1"):
        refuse_labels((train, val), 2)
    with pytest.raises(DataError, match="no training sample is of class 2, 3, 4, 5, 6 and 3 more, of 10 classes"):
        refuse_labels((train, Told(4)), 10)
    assert not train.opened + val.opened


def test_the_check_is_a_process_of_its_own_and_tells_the_job() -> None:
    heard: list[str] = []
    told = threading.Event()

    def on_bad(error: DataError) -> None:
        heard.append(str(error))
        told.set()

    train = Told(400, bad={399})
    check = data_check.DataCheck()
    check.run((train, Told(4)), 2, on_bad, everything=True)
    assert told.wait(60)
    check.stop()
    assert "399.png" in heard[0]
    assert not train.opened, "this process opened nothing"


def test_a_check_that_is_stopped_tells_nothing_more() -> None:
    check = data_check.DataCheck()
    check.run((Told(400, bad={0}), Told(4)), 2, lambda _: pytest.fail("after the end"), everything=True)
    check.stop()
    process = check._process
    assert process is not None
    assert not process.is_alive()


def images(root: Path, count: int) -> str:
    """Write a folder of two classes, so many images of each to train on."""
    for part, number in (("train", count), ("val", 4)):
        for name, grey in (("dark", 40), ("light", 200)):
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                Image.new("RGB", (16, 16), (grey,) * 3).save(root / part / name / f"{index:04}.png")
    return f"imagefolder:{root}"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["lr_find", "train"])
def test_a_job_that_would_meet_a_bad_file_late_fails_at_once_and_names_it(
    task: str, tmp_path: Path, train_input: JobInput
) -> None:
    # Validation comes after an epoch of many seconds, and in a range test never.
    spec, bad = images(tmp_path / "images", 600), tmp_path / "images" / "val" / "light" / "0003.png"
    bad.write_bytes(b"no image")
    workload = replace(train_input.workload, data=spec, image_size=64, epochs=2)
    job_input = replace(train_input, workload=workload)
    if task == "lr_find":
        target = LrTarget("normalised", "sqrt", 32, 1000)
        sweep = SweepSpec(1, 10**6, 1e-9, 2e-9, reference_steps=1000, noise_micro_batches=0, target=target)
        job_input = replace(job_input, step="lr-find", train=None, sweep=sweep)
    (tmp_path / "input.json").write_text(job_input.to_json())
    done = subprocess.run(
        [sys.executable, "-m", f"gpuplan_job.{task}", str(tmp_path / "input.json"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    failure = Failure.from_json((tmp_path / FAILURE_FILE).read_bytes())
    assert done.returncode == 1
    assert failure.kind == "data"
    assert str(bad) in failure.message
    assert "of 1,208 samples opened, no other of them bad" in failure.message, "it was the check that met it"


def test_data_in_memory_start_no_process(tmp_path: Path, train_input: JobInput) -> None:
    check = data_check.start(
        data.load("digits", None), data.describe("digits"), (tmp_path, train_input), everything=True
    )
    assert check._process is None
    check.stop()
