"""`gpuplan compare` as a user meets it: a table, a list for scripts, and commands that work."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.cli.app import main

if TYPE_CHECKING:
    from pathlib import Path

Capture = pytest.CaptureFixture[str]
IMAGENET = ("--model", "resnet50", "--data", "imagenet", "--epochs", "90")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUPLAN_HOME", str(tmp_path / "home"))


def run(capsys: Capture, *arguments: str, status: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert (ended.value.code or 0) == status, said.err
    return said.out if status == 0 else said.err


def listed(capsys: Capture, *arguments: str) -> dict[str, dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(run(capsys, "compare", *arguments, "-o", "json"))
    return {row["instance"]: row for row in rows}


def test_the_list_has_what_scripts_rely_on(capsys: Capture) -> None:
    rows = listed(capsys, *IMAGENET)
    assert len(rows) == 10
    for row in rows.values():
        assert {"instance", "backend", "batch", "memory", "time_hours", "cost_usd", "lifecycle"} <= row.keys()
        assert row["backend"] == "sagemaker"
        assert row["quota"]["sagemaker"] == f"ml.{row['instance']} for training job usage"
    assert rows["g5.12xlarge"]["quota"]["ec2"] == {
        "code": "L-DB2E81BA",
        "name": "Running On-Demand G and VT instances",
    }


def test_the_cost_of_a_row_is_that_of_the_plan(capsys: Capture) -> None:
    rows = listed(capsys, *IMAGENET)
    for name in ("g5.12xlarge", "p4d.24xlarge"):
        plan = json.loads(run(capsys, "plan", "--instance", name, *IMAGENET, "-o", "json"))
        assert rows[name]["cost_usd"] == plan["total"]["cost_usd"]
        assert rows[name]["time_hours"] == plan["total"]["time_hours"]
        assert rows[name]["plan_id"] == plan["plan_id"]


def test_every_next_command_plans_a_best_row(capsys: Capture) -> None:
    arguments = ("--model", "vit_b_16", "--data", "imagenet", "--per-gpu-batch", "512")
    best = [row for row in listed(capsys, *arguments).values() if row["best"]]
    lines = run(capsys, "compare", *arguments).split(" next  ")[1].splitlines()
    assert len(lines) == len(best)
    for line, row in zip(lines, best, strict=True):
        program, *command = shlex.split(line)
        assert program == "gpuplan"
        plan = json.loads(run(capsys, *command, "-o", "json"))
        assert plan["plan_id"] == row["plan_id"]


def test_the_best_are_marked_in_words(capsys: Capture) -> None:
    text = run(capsys, "compare", *IMAGENET)
    for word in ("cheapest", "fastest", "retired"):
        found = [line for line in text.splitlines() if line.startswith(f" {word} ")]
        assert found, "more than one where they are equal"
        assert all("xlarge" in line for line in found)


def test_the_instance_that_is_named_is_found_in_the_list(capsys: Capture) -> None:
    text = run(capsys, "compare", "--instance", "g6", *IMAGENET)
    assert " yours       g6.12xlarge is row " in text
    assert "more than the cheapest" in text
    assert "local" not in listed(capsys, "--instance", "g5")


def test_this_machine_is_compared_when_it_is_named(capsys: Capture) -> None:
    row = listed(capsys, "--instance", "local")["local"]
    assert (row["backend"], row["best"]) == ("local", [])
    assert "quota" not in row


def test_a_backend_that_aws_bills_and_is_not_here_can_be_compared(capsys: Capture) -> None:
    assert {row["backend"] for row in listed(capsys, "--backend", "ec2", *IMAGENET).values()} == {"ec2"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--backend", "fake"), "AWS bills nothing there"),
        (("--instance", "g55"), "no instance profile is called"),
        (("--model", "resnt50"), "is not known"),
        (("--data", "imagefolder:/nowhere"), "--data"),
    ],
)
def test_what_is_not_usable_is_refused_with_the_way_out(capsys: Capture, arguments: tuple[str, ...], said: str) -> None:
    error = run(capsys, "compare", *arguments, status=2)
    assert said in error
    assert "next:" in error
