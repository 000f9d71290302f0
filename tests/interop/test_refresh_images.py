"""The shipped table of images against the SDK that it is made from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpuplan.aws import images

pytest.importorskip("sagemaker.core", reason="the `sagemaker` extra is not installed")

SCRIPT = Path(__file__).parents[2] / "scripts" / "refresh_images.py"


def test_the_shipped_table_is_what_the_sdk_says_and_a_line_that_is_not_is_shown(tmp_path: Path) -> None:
    # One run for both, because asking the SDK for each address takes it half a minute.
    altered = tmp_path / "images.toml"
    altered.write_text(images.TABLE.read_text().replace("626614931356", "111111111111"))
    command = [sys.executable, str(SCRIPT), "--check", "--output", str(altered)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    changed = [line for line in done.stdout.splitlines() if line[0] in "+-" and line[:3] not in {"+++", "---"}]
    assert changed == [
        '-af-south-1 = "111111111111.dkr.ecr.af-south-1.amazonaws.com"',
        '+af-south-1 = "626614931356.dkr.ecr.af-south-1.amazonaws.com"',
    ]
