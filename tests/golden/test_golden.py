"""What users and scripts rely on, frozen: texts, JSON keys, flags, exit codes. A change here belongs in the changelog.

`GPUPLAN_UPDATE_GOLDEN=1` rewrites the files; read the difference before you keep it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpuplan.cli.app import COMMANDS, main
from gpuplan.core.errors import ExitCode

HERE = Path(__file__).parent
UPDATE = os.environ.get("GPUPLAN_UPDATE_GOLDEN", "") not in {"", "0"}
AWS = ("--instance", "g5", "--backend", "sagemaker", "--region", "us-east-1")
IMAGENET = (*AWS, "--model", "resnet50", "--data", "imagenet", "--epochs", "90")
LONG = (*AWS, "--model", "resnet50", "--data", "fake:3x224x224:1000:100000", "--epochs", "90")
CHANGING = (
    (r"(?<=gpuplan plan )[0-9a-f]{10}", "<plan id>"),
    (r"\d{4}-\d\d-\d\d,\s+\d+\s+days?\s+old", "<date>, <age> days old"),
)
"""What differs from one day, machine or payload to the next."""


@dataclass(frozen=True)
class Shell:
    """A place to run gpuplan in, as a user would."""

    folder: Path

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """Return stdout of a command that ends with that status."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GPUPLAN_")}
        done = subprocess.run(
            [sys.executable, "-c", "from gpuplan.cli.app import main; main()", *arguments],
            capture_output=True,
            text=True,
            env=kept | {"GPUPLAN_HOME": str(self.folder / "home"), "COLUMNS": "80", "PYTHONUTF8": "1"},
            cwd=self.folder,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def gpuplan(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("user"))


def check(name: str, found: str) -> None:
    """Compare a text with the frozen one, or freeze it."""
    path = HERE / name
    if UPDATE:
        path.write_text(found, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == found, f"{name} differs; see this file's docstring"


def steady(text: str) -> str:
    for pattern, name in CHANGING:
        text = re.sub(pattern, name, text)
    return text


def keys(value: object, path: str = "") -> set[str]:
    """Return the paths of all keys; of a list, those of all its items together."""
    if isinstance(value, dict):
        here = {f"{path}.{key}".lstrip(".") for key in value}
        return here.union(*(keys(below, f"{path}.{key}".lstrip(".")) for key, below in value.items()))
    if isinstance(value, list):
        return set().union(*(keys(below, f"{path}[]") for below in value))
    return set()


def key_list(document: str) -> str:
    parsed: dict[str, Any] = json.loads(document)
    # Names of what a machine has installed are values, not keys of ours.
    found = {key for key in keys(parsed) if not re.search(r"\b(versions|sources)\.", key)}
    return json.dumps(sorted(found), indent=1) + "\n"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("plan_digits.txt", AWS),
        ("plan_imagenet.txt", IMAGENET),
        ("plan_given_lr.txt", (*AWS, "--pipeline", "train", "--lr", "0.05", "--accumulate", "2")),
        ("plan_unknown_price.txt", ("--instance", "p4de", "--backend", "ec2", "--region", "nowhere-1", *IMAGENET[6:])),
        ("plan_retired.txt", ("--instance", "p3", *AWS[2:], "--per-gpu-batch", "8")),
        ("plan_find_batch.txt", (*IMAGENET, "--pipeline", "batch-then-lr-then-train")),
        ("plan_nodes_spot_budget.txt", (*AWS, "--nodes", "2", "--spot", "--max-cost", "40")),
    ],
)
def test_a_plan_reads_as_it_did(gpuplan: Shell, name: str, arguments: tuple[str, ...]) -> None:
    text = gpuplan("plan", *arguments)
    assert max(map(len, text.splitlines())) <= 140
    check(name, steady(text))


ADVISE = ("advise", "--from-batch", "64", "--to-batch", "256", "--lr", "2.11e-3")
MACHINE = ("--instance", "g5", "--model", "resnet50", "--data", "imagenet", "--epochs", "90")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("advise.txt", ADVISE),
        ("advise_machine.txt", (*ADVISE, *MACHINE, "--noise-scale", "784", "--dropout", "0.1")),
        ("advise_large.txt", (*ADVISE[:3], "--to-batch", "16384", *ADVISE[5:], "--optimizer", "adamw")),
        ("advise_smaller.txt", (*ADVISE[:3], "--to-batch", "8", *ADVISE[5:], "--fixed", "steps")),
        ("advise_same.txt", (*ADVISE[:3], "--to-batch", "64", *ADVISE[5:], "--finetune")),
    ],
)
def test_an_advice_reads_as_it_did(gpuplan: Shell, name: str, arguments: tuple[str, ...]) -> None:
    text = gpuplan(*arguments)
    assert max(map(len, text.splitlines())) <= 140
    check(name, text)


def test_an_advice_has_the_keys_it_had(gpuplan: Shell) -> None:
    check("advise_keys.json", key_list(gpuplan(*ADVISE, "--finetune", "-o", "json")))


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--finetune",),
        ("--gpus", "2"),
        ("--per-gpu-batch", "32"),
        MACHINE,
        (*MACHINE, "--gpus", "2"),
        (*MACHINE, "--gpus", "8"),
    ],
)
def test_every_next_command_of_an_advice_is_one_that_gpuplan_takes(gpuplan: Shell, more: tuple[str, ...]) -> None:
    commands = next_commands(gpuplan(*ADVISE, *more))
    assert commands
    for _, command, *arguments in commands:
        assert gpuplan(command, *arguments, *(["--dry-run"] if command == "launch" else []))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("compare_imagenet.txt", ("--region", "us-east-1", *IMAGENET[6:])),
        (
            "compare_large.txt",
            ("--region", "eu-west-1", "--model", "vit_l_16", *IMAGENET[8:], "--per-gpu-batch", "512"),
        ),
    ],
)
def test_a_comparison_reads_as_it_did(gpuplan: Shell, name: str, arguments: tuple[str, ...]) -> None:
    text = gpuplan("compare", *arguments)
    assert max(map(len, text.splitlines())) <= 140
    check(name, steady(text))


def test_a_comparison_has_the_keys_it_had(gpuplan: Shell) -> None:
    check("compare_keys.json", key_list(gpuplan("compare", "-o", "json", "--region", "us-east-1", *IMAGENET[6:])))


def next_commands(page: str) -> list[list[str]]:
    """Return the commands under `next`, one line one or more of them, as a shell would take them."""
    lines = re.split(r"\n *next  ", page)[1].splitlines()
    return [shlex.split(command) for line in lines for command in re.split(r" {6,}", line.strip())]


@pytest.mark.parametrize("arguments", [AWS, LONG], ids=["short", "long"])
def test_every_next_command_of_a_plan_stands_on_one_line_to_be_pasted(
    gpuplan: Shell, arguments: tuple[str, ...]
) -> None:
    launch, plan = ["gpuplan", "launch", *arguments], ["gpuplan", "plan", *arguments, "--out", "plan.json"]
    assert next_commands(gpuplan("plan", *arguments)) == [launch, plan]


def test_the_next_commands_of_a_dry_run_are_commands_that_work(gpuplan: Shell) -> None:
    page = gpuplan("launch", "--instance", "g5", "--backend", "fake", "--dry-run")
    for _, command, *arguments in next_commands(page):
        if command == "plan":
            assert gpuplan("plan", *arguments)
        else:
            assert "--dry-run" not in arguments, "the step after a dry run is the run"


@pytest.mark.parametrize("backend", ["fake", "local", "sagemaker"])
def test_a_plan_has_the_keys_it_had(gpuplan: Shell, backend: str) -> None:
    check(f"plan_keys_{backend}.json", key_list(gpuplan("plan", "-o", "json", *AWS, "--backend", backend)))


def test_a_run_has_the_keys_it_had(gpuplan: Shell) -> None:
    launched = gpuplan("launch", "--backend", "fake", "--yes", "-o", "json")
    status = gpuplan("status", "-o", "json")
    assert key_list(launched) == key_list(status), "launch and status speak of a run in the same words"
    check("status_keys.json", key_list(status))
    check("list_keys.json", key_list(gpuplan("list", "-o", "json")))
    check("suggest_keys.json", key_list(gpuplan("suggest", "-o", "json")))


def test_a_run_with_a_batch_search_has_the_keys_it_had(gpuplan: Shell) -> None:
    pipeline = ("--backend", "fake", "--pipeline", "batch-then-lr-then-train")
    check("plan_keys_find_batch.json", key_list(gpuplan("plan", "-o", "json", *pipeline)))
    launched = gpuplan("launch", *pipeline, "--yes", "-o", "json")
    assert key_list(launched) == key_list(gpuplan("status", "-o", "json"))
    check("status_keys_find_batch.json", key_list(launched))


def test_the_help_reads_as_it_did(gpuplan: Shell) -> None:
    check("help.txt", gpuplan("--help"))


def test_every_command_has_the_flags_it_had(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    flags: dict[str, list[str]] = {}
    pages = [[name] for name in COMMANDS] + [["profiles", name] for name in ("list", "show", "check")]
    pages += [["infra", name] for name in ("show", "deploy", "destroy")]
    for page in pages:
        with pytest.raises(SystemExit):
            main([*page, "--help"])
        shown = capsys.readouterr().out
        named = re.findall(r"^ +(?:-\w, )?(--[a-z][a-z-]+)(?: / (--no-[a-z-]+))?", shown, flags=re.MULTILINE)
        flags[" ".join(page)] = sorted({flag for pair in named for flag in pair if flag})
    check("flags.json", json.dumps(flags, indent=1) + "\n")


def test_the_exit_codes_are_what_they_were() -> None:
    check("exit_codes.txt", "".join(f"{code.value:>3}  {code.name.lower().replace('_', '-')}\n" for code in ExitCode))


@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("error_usage.json", ("plan", "--instance", "g5.12xlrage"), 2),
        ("error_refused.json", ("launch", "--instance", "p3", "--backend", "sagemaker", "--yes"), 5),
        ("error_budget.json", ("launch", *AWS, "--max-cost", "0.01", "--yes"), 6),
    ],
)
def test_an_error_is_the_document_it_was(gpuplan: Shell, name: str, arguments: tuple[str, ...], status: int) -> None:
    found = json.loads(gpuplan(*arguments, "-o", "json", status=status))
    # Estimates move when a formula is mended, folders from machine to machine; that they are named does not.
    text = re.sub(r"\$\d+\.\d+", "$<amount>", json.dumps(found, indent=1, ensure_ascii=False))
    text = re.sub(r"(?<= )/[^ \"]*(?=/instance_profiles)", "<folder>", text)
    check(name, text + "\n")
