"""Every example is a configuration that plans today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATIONS = sorted((ROOT / "examples").glob("*/gpuplan.toml"))


def test_there_are_examples() -> None:
    assert CONFIGURATIONS


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.parent.name)
def test_an_example_plans(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUPLAN_HOME", str(tmp_path))
    monkeypatch.chdir(path.parent)  # as its first lines say: code of a user's own is that of the current folder
    if path.parent.name == "imagefolder":
        monkeypatch.chdir(tmp_path)
        subprocess.run([sys.executable, path.with_name("make_images.py")], check=True)
    plan = plan_from(Given({}, {}, path)).plan
    assert plan.steps


def test_the_digits_example_is_the_default() -> None:
    example = plan_from(Given({}, {}, ROOT / "examples" / "digits" / "gpuplan.toml")).plan
    nothing = plan_from(Given({"workload.seed": 0}, {"workload.seed": "the test"}, None)).plan
    assert example.plan_id == nothing.plan_id
