"""What the process that may hold credentials loads: measured in real processes, not read off the source."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

FOR_DRAWING = ("matplotlib", "numpy", "PIL")
HEAVY = ("torch", "torchvision", "pytorch_lightning", "lightning", "boto3", "botocore", "sagemaker", *FOR_DRAWING)
PROBE = """
import sys
from gpuplan.cli.app import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("LOADED", code, *(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


def loaded(arguments: list[str], home: Path) -> list[str]:
    """Run gpuplan in a process of its own; return its status and the heavy modules it ended up with."""
    probe = [sys.executable, "-c", PROBE.format(heavy=HEAVY), *arguments]
    environment = {"PATH": "/usr/bin:/bin", "GPUPLAN_HOME": str(home), "HOME": str(home)}
    done = subprocess.run(probe, capture_output=True, text=True, env=environment, cwd=home, check=True)
    line = next(line for line in done.stderr.splitlines() if line.startswith("LOADED"))
    return line.split()[1:]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plan", "--help"],
        ["plan"],
        ["plan", "--instance", "g5", "-o", "json"],
        ["compare"],
        ["profiles", "list"],
        [
            "advise",
            "--from-batch",
            "64",
            "--lr",
            "0.1",
            "--instance",
            "g5",
            "--model",
            "resnet50",
            "--data",
            "imagenet",
        ],
        ["list"],
        ["doctor", "--help"],
        ["infra", "--help"],
        ["resume", "--help"],
        ["infra", "show", "--template"],
    ],
    ids=" ".join,
)
def test_a_command_that_starts_nothing_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert loaded(arguments, tmp_path) == ["0"]


def test_launching_loads_no_training_framework(tmp_path: Path) -> None:
    arguments = ["launch", "--backend", "fake", "--yes"]
    assert loaded(arguments, tmp_path) == ["0", *FOR_DRAWING]


def test_a_look_at_a_run_whose_curve_was_drawn_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded(["launch", "--backend", "fake", "--yes"], tmp_path)
    assert loaded(["status"], tmp_path) == ["0"]


def test_help_of_the_program_loads_neither_pydantic_nor_rich() -> None:
    code = "import sys; from gpuplan.cli.app import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'pydantic', 'rich'} & sys.modules.keys(), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
