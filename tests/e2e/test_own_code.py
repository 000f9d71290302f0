"""A user's own code from their folder into the job: on this machine, on an emulated SageMaker, refused before either.

Slow on purpose and few: each test starts PyTorch several times.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from e2e.conftest import Client
    from gpuplan.testing import Emulator

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_model"
SMALL = ("--epochs", "2", "--runs", "1", "--lr-iterations", "40")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The example as a user has it: a folder of their own, with gpuplan's state elsewhere."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__")))


def gpuplan(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from gpuplan.cli.app import main; main()", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"GPUPLAN_HOME": str(folder.parent / "home"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        cwd=folder,
        check=False,
    )


def test_the_example_finds_its_learning_rate_and_trains_with_its_own_optimizer_on_the_code_it_was_planned_with(
    project: Path,
) -> None:
    saved = gpuplan(project, "plan", *SMALL, "--out", "plan.json")
    assert saved.returncode == 0, saved.stderr
    launched = gpuplan(project, "launch", "--plan", "plan.json", "--yes", "-o", "json")
    assert launched.returncode == 0, launched.stderr
    run: dict[str, Any] = json.loads(launched.stdout)
    assert run["lr"]["suggestion"]["verdict"] == "ok"
    assert (run["state"], run["train"]["world_size"]) == ("succeeded", 2)
    assert run["train"]["metrics"]["best_val_accuracy"] > 0.5
    job = Path(run["train"]["checkpoint"]).parents[1]
    told = json.loads((job / "input.json").read_text())
    assert told["workload"]["optimizer"] == told["workload"]["schedule"] == "own"
    assert (job / "user-code" / "digits_net.py").read_text() == (project / "digits_net.py").read_text()
    assert sorted(path.name for path in (project.parent / "home" / "code").iterdir()) == [
        f"{told['code']['sha256']}.zip"
    ]

    (project / "digits_net.py").write_text((project / "digits_net.py").read_text() + "\n")
    stale = gpuplan(project, "launch", "--plan", "plan.json", "--yes")
    assert stale.returncode == 5
    assert "plan.json is stale" in stale.stderr
    assert "provenance.code" in stale.stderr


def test_a_broken_model_is_refused_with_file_and_line_before_anything_is_submitted(project: Path) -> None:
    path = project / "digits_net.py"
    path.write_text(path.read_text().replace("nn.Linear(2 * width * 4 * 4, 10)", "nn.Linear(2 * width, 10)"))
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "self.layers(images)" in text)
    refused = gpuplan(project, "launch", "--yes")
    assert refused.returncode == 2
    said = " ".join(refused.stderr.split())
    assert (
        "error: --model digits_net:DigitsNet: training_step failed, for a batch of float32 [2, 1, 8, 8], int64 [2]: "
        f"digits_net.py:{line}, in forward: RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x512 and 32x10)"
    ) in said
    assert f"correct digits_net.py:{line} then: gpuplan plan, with the same options, checks it again" in said
    assert "Traceback" not in said
    assert not list((project.parent / "home").glob("runs/*"))


def test_the_code_is_shipped_to_sagemaker_unpacked_searched_and_trained(client: Client, emulator: Emulator) -> None:
    shutil.copytree(EXAMPLE, client.home, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    arguments = ("--instance", "g5", "--world-size", "2", "--pipeline", "lr-then-train", *SMALL)
    plan = client.json("plan", *arguments)
    run = client.json("launch", "--yes", *arguments)
    assert (run["state"], run["exit_code"]) == ("succeeded", 0), run
    assert run["lr"]["suggestion"]["verdict"] == "ok"
    assert run["train"]["metrics"]["best_val_accuracy"] > 0.5
    for step in plan["steps"]:
        job = emulator.job(f"{run['run_id']}-{step['name']}-1")
        planned = step["request"]
        assert job.request["InputDataConfig"] == planned["InputDataConfig"], "the plan names the very folder, offline"
        code = json.loads(job.request["HyperParameters"]["code"])
        assert code["sha256"] == plan["provenance"]["code"]["sha256"]
        uri = planned["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"]
        key = uri.removeprefix(f"s3://{client.bucket}/") + "code.zip"
        assert emulator.client("s3").head_object(Bucket=client.bucket, Key=key)["ContentLength"] == code["bytes"]
