"""Wheels that came with a job: installed offline by their digests, refused in words when they are something else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from gpuplan_job import wheels
from gpuplan_job.failures import JobError
from gpuplan_job.supervision import Stop

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("pip")
NAME = "gpuplan_wheel_of_a_test"


class NoStop(Stop):
    """A stop that nobody asks for; it leaves the test process's signals alone."""

    def __init__(self) -> None:
        self.signal = None


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    """Return a folder with one wheel and its requirement."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = folder / f"{NAME}-1.0-py3-none-any.whl"
    about = f"{NAME}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{NAME}.py", "FOUND = 'from the wheel'\n")
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\nRequires-Dist: torch\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "requirements.txt").write_text(f"{NAME}==1.0 --hash=sha256:{digest}\n")
    return folder


def test_a_wheel_is_installed_without_an_index_or_what_it_depends_on(channel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    # An image's pip settings must not lead it to an index.
    settings = {**os.environ, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INDEX": "false"}
    wheels.install(channel, target, settings, NoStop())
    assert {path.name for path in target.iterdir()} - {"__pycache__"} == {f"{NAME}-1.0.dist-info", f"{NAME}.py"}
    done = subprocess.run(
        [sys.executable, "-c", f"import {NAME}; print({NAME}.FOUND)"],
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "from the wheel\n"


def test_a_wheel_with_another_digest_is_refused(channel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next(channel.glob("*.whl")), "a") as archive:
        archive.writestr("more.py", "")
    with pytest.raises(JobError, match=r"cannot be installed: .*HASHES") as caught:
        wheels.install(channel, tmp_path / "installed", os.environ, NoStop())
    assert caught.value.kind == "import"
    assert not (tmp_path / "installed" / f"{NAME}.py").exists()


@pytest.mark.parametrize("damage", ["wheel", "garbage", "requirements"])
def test_wheels_that_are_missing_or_broken_are_refused_in_words(channel: Path, tmp_path: Path, damage: str) -> None:
    wheel = next(channel.glob("*.whl"))
    if damage == "wheel":
        wheel.unlink()
    elif damage == "garbage":
        wheel.write_bytes(b"garbage")
    else:
        (channel / "requirements.txt").unlink()
    with pytest.raises(JobError, match=r"cannot be installed: ERROR|no .*requirements\.txt came with the job"):
        wheels.install(channel, tmp_path / "installed", os.environ, NoStop())


def test_a_stop_is_no_failure_of_the_wheels(channel: Path, tmp_path: Path) -> None:
    asked = NoStop()
    asked.signal = 15
    wheels.install(channel, tmp_path / "installed", os.environ, asked)
    assert asked.error() is not None
