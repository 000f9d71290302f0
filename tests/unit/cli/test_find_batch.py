"""`gpuplan find-batch`: the search alone, what it prints, and what can be done with what it found."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Protocol

import pytest

from gpuplan.cli.app import main
from gpuplan.core.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

FAKE = ("--backend", "fake")
FOUND = 24
"""What the fake device holds."""


class Gpuplan(Protocol):
    """Run gpuplan; return its status, stdout and stderr."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@pytest.fixture
def gpuplan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gpuplan:
    monkeypatch.setenv("GPUPLAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


def test_it_finds_without_asking_and_leads_to_a_launch_at_the_found_batch(gpuplan: Gpuplan) -> None:
    code, out, err = gpuplan("find-batch", *FAKE, "--channels-last")
    assert code == 0, err
    assert f"found batch  {FOUND} per GPU (the largest safe one" in out
    assert f"{FOUND} *" in out
    assert "ran, over 80 %" in out, "a batch that ran and is not safe says so"
    command = next(line.split("next")[1] for line in out.splitlines() if "gpuplan launch" in line)
    _, name, *arguments = shlex.split(command)
    code, out, err = gpuplan(name, *arguments, "--dry-run", "-o", "json")
    assert code == 0, err
    planned = json.loads(out)
    assert planned["workload"]["channels_last"] is True
    assert planned["batch"]["per_gpu"] == FOUND


def test_batch_size_is_where_it_starts_and_the_largest_where_it_ends(gpuplan: Gpuplan) -> None:
    code, out, err = gpuplan("find-batch", *FAKE, "--batch-size", "2", "--largest-batch", "16", "-o", "json")
    assert code == 0, err
    document = json.loads(out)["find_batch"]
    assert [tried["batch"] for tried in document["tries"]] == [2, 4, 8, 16]
    assert document["chosen"] == document["largest"] == 16


def test_less_memory_finds_a_smaller_batch(gpuplan: Gpuplan) -> None:
    def chosen(*more: str) -> int:
        code, out, err = gpuplan("find-batch", *FAKE, "-o", "json", *more)
        assert code == 0, err
        batch: int = json.loads(out)["find_batch"]["chosen"]
        return batch

    assert chosen("--memory-share", "0.6") < chosen() < chosen("--memory-gib", "1.5")


def test_a_card_on_which_not_even_one_sample_fits_by_the_estimate_is_refused_before_it_is_paid_for(
    gpuplan: Gpuplan,
) -> None:
    for pipeline in (("find-batch",), ("launch", "--pipeline", "batch-then-lr-then-train", "--yes")):
        code, _, err = gpuplan(*pipeline, *FAKE, "--memory-gib", "0.5")
        assert code == ExitCode.PLAN_REFUSED
        assert "not even one sample" in err


def test_a_dry_run_starts_nothing_and_names_the_command_that_would(gpuplan: Gpuplan) -> None:
    code, out, _ = gpuplan("find-batch", "--instance", "g5", "--dry-run")
    assert code == 0
    assert "find-batch   ml.g5.xlarge" in out
    assert "gpuplan find-batch --instance g5" in out
    assert gpuplan("list")[1].strip() == "" or "no runs yet" in gpuplan("list")[1] + gpuplan("list")[2]


def test_a_learning_rate_is_no_option_of_it(gpuplan: Gpuplan) -> None:
    assert gpuplan("find-batch", "--lr", "0.1")[0] == ExitCode.USAGE


def test_a_learning_rate_of_another_run_needs_a_batch_that_is_known(gpuplan: Gpuplan) -> None:
    gpuplan("find-lr", *FAKE)
    run = json.loads(gpuplan("status", "-o", "json")[1])["run_id"]
    arguments = ("plan", *FAKE, "--pipeline", "batch-then-lr-then-train", "--lr-from", run)
    code, _, err = gpuplan(*arguments)
    assert code == ExitCode.USAGE
    assert "is not known yet" in err


def test_a_run_that_waits_for_its_batch_says_so(gpuplan: Gpuplan) -> None:
    gpuplan("launch", *FAKE, "--pipeline", "batch-then-lr-then-train", "--yes", "--detach", "-o", "json")
    document = json.loads(gpuplan("status", "-o", "json")[1])
    assert document["find_batch"]["unknown"] == "find-batch has not ended well"
    assert document["find_batch"]["predicted"] == document["batch"]["train"]["per_gpu"]
