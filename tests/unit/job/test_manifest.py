"""Manifests: only a checkpoint that is what was written, by the same job, is gone on from."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpuplan_job import manifest
from gpuplan_job.contract import BatchSpec, JobInput, TrainSpec, WorkloadSpec
from gpuplan_job.document import sha256_hex
from gpuplan_job.manifest import Manifest, Owner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORKLOAD = WorkloadSpec("resnet18", "digits", "sgd", 0.9, 5e-4, "onecycle", 0.0, 2, "fp32", 0, 0)
JOB = JobInput("run-1", "train", 1, "plan", WORKLOAD, BatchSpec(32, 1, 1), "cpu", train=TrainSpec(0.05))
OWNER = Owner.of(JOB)


def write(folder: Path, name: str, epoch: int, owner: Owner = OWNER, step: int = 0) -> Path:
    content = f"weights of {name}".encode()
    (folder / f".{name}.tmp").write_bytes(content)
    path = folder / name
    found = Manifest(name, sha256_hex(content), 0, epoch, step, JOB.batch, owner)
    manifest.adopt(folder / f".{name}.tmp", path, found)
    return path


def epochs(folder: Path, refused: list[str] | None = None) -> list[int]:
    told: list[str] = [] if refused is None else refused
    return [found.epoch for found, _ in manifest.verified(folder, OWNER, told.append)]


def test_the_newest_comes_first_with_what_was_written(tmp_path: Path) -> None:
    for epoch in (3, 11, 2):
        write(tmp_path, f"last-{epoch:04d}.ckpt", epoch)
    refused: list[str] = []
    found = list(manifest.verified(tmp_path, OWNER, refused.append))
    assert [one.epoch for one, _ in found] == [11, 3, 2]
    assert found[0][1] == b"weights of last-0011.ckpt"
    assert refused == []


def test_within_an_epoch_the_one_of_more_steps_comes_first(tmp_path: Path) -> None:
    write(tmp_path, "midway-1.ckpt", 2, step=9)
    write(tmp_path, "midway-2.ckpt", 2, step=12)
    write(tmp_path, "last-0002.ckpt", 2)
    found = [one.file for one, _ in manifest.verified(tmp_path, OWNER, lambda _: None)]
    assert found == ["midway-2.ckpt", "midway-1.ckpt", "last-0002.ckpt"]


def test_while_a_name_changes_hands_it_has_no_manifest(tmp_path: Path) -> None:
    path = write(tmp_path, "midway-1.ckpt", 2, step=9)
    there: list[bool] = []

    class Watched(type(path)):  # type: ignore[misc] # of the platform's own kind
        def replace(self, target: Path) -> Path:
            there.append(manifest.beside(target).exists())
            found: Path = super().replace(target)
            return found

    (tmp_path / ".midway-1.ckpt.tmp").write_bytes(b"new")
    new = Manifest(path.name, sha256_hex("new"), 0, 2, 12, JOB.batch, OWNER)
    manifest.adopt(Watched(tmp_path / ".midway-1.ckpt.tmp"), path, new)
    assert there == [False]
    assert [one.step for one, _ in manifest.verified(tmp_path, OWNER, lambda _: None)] == [12]


def test_a_checkpoint_without_a_manifest_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "last-0009.ckpt").write_bytes(b"half")
    (tmp_path / ".last-0009.ckpt.tmp").write_bytes(b"half")
    assert epochs(tmp_path) == []
    assert epochs(tmp_path / "nowhere") == []


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def tear(path: Path) -> None:
    os.truncate(path, 5)


def of_a_newer_format(path: Path) -> None:
    beside = manifest.beside(path)
    beside.write_text(beside.read_text().replace("gpuplan.checkpoint/2", "gpuplan.checkpoint/3"))


def of_another_name(path: Path) -> None:
    beside = manifest.beside(path)
    beside.write_text(beside.read_text().replace("last-0002.ckpt", "../last-0002.ckpt"))


def torn_manifest(path: Path) -> None:
    os.truncate(manifest.beside(path), 30)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (flip_a_bit, "its sha256 is not"),
        (tear, "5 bytes of 25"),
        (lambda path: path.unlink(), "No such file"),
        (of_a_newer_format, "its format is gpuplan.checkpoint/3, this one's gpuplan.checkpoint/2"),
        (of_another_name, "it describes"),
        (torn_manifest, "not JSON"),
        (lambda path: manifest.beside(path).write_bytes(b"\xff\xfe"), "not JSON"),
    ],
)
def test_a_damaged_one_is_passed_over_and_named(tmp_path: Path, damage: Callable[[Path], None], why: str) -> None:
    write(tmp_path, "last-0001.ckpt", 1)
    damage(write(tmp_path, "last-0002.ckpt", 2))
    refused: list[str] = []
    assert epochs(tmp_path, refused) == [1]
    assert len(refused) == 1
    assert "last-0002.ckpt" in refused[0]
    assert why in refused[0]


@pytest.mark.parametrize(
    "other",
    [
        replace(JOB, run_id="run-2"),
        replace(JOB, step="train-again"),
        replace(JOB, train=TrainSpec(0.06)),
        replace(JOB, workload=replace(WORKLOAD, seed=1)),
    ],
)
def test_the_checkpoint_of_another_job_is_refused(tmp_path: Path, other: JobInput) -> None:
    path = write(tmp_path, "last-0002.ckpt", 2, Owner.of(other))
    refused: list[str] = []
    assert epochs(tmp_path, refused) == []
    assert "it belongs to run" in refused[0]
    assert manifest.foreign(path, OWNER)


@pytest.mark.parametrize(
    "same",
    [
        replace(JOB, attempt=7),
        replace(JOB, plan_id="another plan"),
        replace(JOB, workload=replace(WORKLOAD, workers=8)),
        replace(JOB, train=TrainSpec(0.05, mean_seconds_between_failures=1e5, checkpoint_seconds=60)),
        # How the global batch is made up is for `regrouping` to judge.
        replace(JOB, batch=BatchSpec(16, 2, 1)),
    ],
)
def test_what_trains_the_same_goes_on(tmp_path: Path, same: JobInput) -> None:
    path = write(tmp_path, "last-0002.ckpt", 2, Owner.of(same))
    assert epochs(tmp_path) == [2]
    assert not manifest.foreign(path, OWNER)
