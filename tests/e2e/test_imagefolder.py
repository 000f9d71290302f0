"""The example of image files for real: written, a learning rate found, trained; and a damaged file in it named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "imagefolder"
TINY = ["--epochs", "2", "--runs", "2", "--lr-iterations", "60", "--per-gpu-batch", "64", "--world-size", "1"]
"""Enough for a curve that is not noise, images shifted and flipped as they are, and a training that beats guessing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the example's folder with its images written."""
    copy = tmp_path_factory.mktemp("example")
    (copy / "gpuplan.toml").write_bytes((EXAMPLE / "gpuplan.toml").read_bytes())
    subprocess.run([sys.executable, EXAMPLE / "make_images.py"], check=True, cwd=copy)
    return copy


def launch(folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from gpuplan.cli.app import main; main()", "launch", "--yes", "-o", "json"]
    variables = os.environ | {"GPUPLAN_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*program, *TINY, "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=variables,
    )


def test_image_files_go_through_lr_then_train(folder: Path, tmp_path: Path) -> None:
    done = launch(folder, tmp_path)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert run["lr"]["suggestion"]["verdict"] == "ok"
    assert run["train"]["metrics"]["best_val_accuracy"] > 0.4
    logs = [path.read_text() for path in sorted(tmp_path.glob("runs/*/jobs/*/log.txt"))]
    assert all("data check: 1,797 of 1,797 samples opened, none is bad" in log for log in logs)


def test_a_damaged_file_ends_lr_find_by_name_and_nothing_is_trained(folder: Path, tmp_path: Path) -> None:
    bad = next((folder / "images" / "val" / "3").iterdir())  # validation is not for lr-find, but the check looks there
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    try:
        done = launch(folder, tmp_path)
    finally:
        bad.write_bytes(whole)
    run = json.loads(done.stdout)
    assert (done.returncode, run["state"]) == (7, "failed"), done.stderr
    assert [step["name"] for step in run["steps"] if step["attempt"]] == ["lr-find"], run["steps"]
    assert str(bad) in run["failure"]["what"]
