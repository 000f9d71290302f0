"""`gpuplan find-lr` and what can be done with what it found: `--lr-from`, `suggest`."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from gpuplan.backends import fake
from gpuplan.backends.fake import Script, synthetic_results
from gpuplan.cli.app import main
from gpuplan.core.errors import ExitCode
from gpuplan_job.contract import LR_RESULT_FILE, JobInput, LrResult
from gpuplan_job.decision import decide
from gpuplan_job.sampling import EpochLayout

FAKE = ("--backend", "fake")
DIGITS = 1437


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


def found(gpuplan: Gpuplan, *arguments: str) -> dict[str, Any]:
    code, out, err = gpuplan("find-lr", *FAKE, "-o", "json", *arguments)
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def carried(document: dict[str, Any]) -> int:
    batch: int = document["batch"]["train"]["global"]
    return batch


def test_it_finds_without_asking_prints_the_decision_and_where_the_curve_is(gpuplan: Gpuplan) -> None:
    code, out, err = gpuplan("find-lr", *FAKE)
    assert code == 0, err
    assert "· lr ·" in out
    for label in ("found LR", "training LR", "curve"):
        assert label in out
    picture = Path(next(line.split()[1] for line in out.splitlines() if line.strip().startswith("curve")))
    assert "<svg" in picture.read_text(encoding="utf-8")


def test_here_it_is_for_one_gpu_and_for_as_many_as_it_is_told(gpuplan: Gpuplan) -> None:
    assert carried(found(gpuplan, "--per-gpu-batch", "32")) == 32
    assert carried(found(gpuplan, "--per-gpu-batch", "32", "--carry-to-gpus", "8")) == 256


def test_for_an_aws_instance_it_is_for_all_its_gpus_as_launch_would_be(gpuplan: Gpuplan) -> None:
    assert carried(found(gpuplan, "--instance", "g5", "--per-gpu-batch", "32")) == 4 * 32
    assert carried(found(gpuplan, "--instance", "g5", "--per-gpu-batch", "32", "--carry-to-gpus", "1")) == 32


def test_a_world_size_in_the_file_is_how_many_gpus_it_is_for(gpuplan: Gpuplan) -> None:
    Path("gpuplan.toml").write_text("[launch]\nworld_size = 2\npipeline = 'train'\n", encoding="utf-8")
    assert carried(found(gpuplan, "--per-gpu-batch", "32")) == 64


def test_batch_size_is_the_per_gpu_batch(gpuplan: Gpuplan) -> None:
    assert found(gpuplan, "--batch-size", "16")["batch"]["lr_find"]["per_gpu"] == 16


@pytest.mark.parametrize("command", ["launch", "plan", "compare"])
def test_where_several_gpus_run_batch_size_is_refused_with_the_question_which_is_meant(
    gpuplan: Gpuplan, command: str
) -> None:
    code, _, err = gpuplan(command, "--batch-size", "64")
    assert code == ExitCode.USAGE
    assert "per GPU or over all GPUs?" in err
    assert "--per-gpu-batch" in err


def test_world_size_leads_to_carry_to_gpus(gpuplan: Gpuplan) -> None:
    code, _, err = gpuplan("find-lr", "--world-size", "4")
    assert code == ExitCode.USAGE
    assert "--carry-to-gpus" in err


def test_a_dry_run_starts_nothing_and_leads_to_itself(gpuplan: Gpuplan) -> None:
    code, out, err = gpuplan("find-lr", "--instance", "g5", "--batch-size", "16", "--dry-run")
    assert code == 0, err
    assert " next  gpuplan find-lr --instance g5 --per-gpu-batch 16" in out
    assert gpuplan("list")[1].startswith("no runs yet")


def test_batches_are_compared_in_one_table_with_their_spread(gpuplan: Gpuplan) -> None:
    code, out, _ = gpuplan("find-lr", *FAKE, "--batch-size", "32", "--compare-batches", "16,32,64")
    assert code == 0
    rows = [line.split()[:2] for line in out.splitlines() if line.split()[1:2] == ["ok"]]
    assert rows == [["16", "ok"], ["32", "ok"], ["64", "ok"]]
    assert "x the smallest, over 3 batches" in out
    lr = json.loads(gpuplan("status", "-o", "json")[1])["lr"]
    assert [row["global"] for row in lr["compared"]["batches"]] == [16, 32, 64]
    rates = [row["learning_rate"] for row in lr["compared"]["batches"]]
    assert lr["compared"]["spread"] == max(rates) / min(rates)


def test_without_a_usable_learning_rate_it_exits_with_9_and_says_why_and_what_to_do(
    gpuplan: Gpuplan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flat(job: JobInput) -> dict[str, bytes]:
        result = LrResult.from_json(synthetic_results(job)[LR_RESULT_FILE])
        result = replace(result, curves=[replace(c, losses=[2.3] * len(c.losses)) for c in result.curves])
        return {LR_RESULT_FILE: replace(result, decision=decide(result)).to_json().encode()}

    monkeypatch.setattr(fake, "create", lambda home, _aws: fake.FakeBackend(home / "fake", Script(results=flat)))
    code, out, _ = gpuplan("find-lr", *FAKE)
    assert code == ExitCode.NO_RESULT
    for told in ("none: the range test is flat", "does not fall beyond chance", "fix", "--lr-iterations 200"):
        assert told in out
    run = json.loads(gpuplan("status", "-o", "json")[1])
    assert run["exit_code"] == ExitCode.NO_RESULT
    code, _, err = gpuplan("launch", *FAKE, "--lr-from", run["run_id"], "--world-size", "1", "--dry-run")
    assert code == ExitCode.NO_RESULT
    assert "gives no learning rate by rule normalised: flat" in err


def test_its_next_command_trains_with_what_it_found(gpuplan: Gpuplan) -> None:
    _, page, _ = gpuplan("find-lr", *FAKE, "--batch-size", "16", "--epochs", "3", "--lr-rule", "minimum", "--runs", "1")
    launch = next(line for line in page.splitlines() if "gpuplan launch" in line)
    arguments = shlex.split(launch.partition("gpuplan launch")[2])
    code, out, err = gpuplan("launch", *FAKE, *arguments, "--yes", "-o", "json")
    assert code == 0, err
    run = json.loads(out)
    assert [step["name"] for step in run["steps"]] == ["train"]
    assert run["lr"]["from_run"] == arguments[-1]
    assert run["lr"]["suggestion"]["rule"] == "minimum"
    assert run["train"]["learning_rate"] == run["lr"]["training_learning_rate"]
    assert f"the range test of run {arguments[-1]}" in gpuplan("status")[1]


def test_lr_from_refuses_other_conditions_with_each_difference(gpuplan: Gpuplan) -> None:
    run = found(gpuplan, "--batch-size", "16")["run_id"]
    code, _, err = gpuplan("plan", *FAKE, "--lr-from", run, "--per-gpu-batch", "16", "--optimizer", "adamw")
    assert code == ExitCode.USAGE
    assert "--optimizer: sgd there, adamw here" in err
    assert f"gpuplan suggest {run}" in err


def test_lr_from_takes_the_start_of_an_id_and_a_plan_with_it_can_be_saved_and_launched(gpuplan: Gpuplan) -> None:
    run = found(gpuplan, "--batch-size", "16")["run_id"]
    same = (*FAKE, "--per-gpu-batch", "16", "--lr-from", run.rsplit("-", 1)[-1][:9])
    code, page, err = gpuplan("plan", *same, "--out", "plan.json")
    assert code == 0, err
    assert f"from the range test of run {run}" in page
    assert f"--lr-from {run}" in page.split(" next ")[1]
    code, _, err = gpuplan("launch", "--plan", "plan.json", "--yes")
    assert code == 0, err
    code, _, err = gpuplan("launch", "--plan", "plan.json", "--lr-from", run)
    assert code == ExitCode.USAGE
    assert "--plan fixes everything, but --lr-from was given as well" in err


def test_a_run_without_a_range_test_of_its_own_leads_to_the_one_that_has_it(gpuplan: Gpuplan) -> None:
    run = found(gpuplan, "--batch-size", "16")["run_id"]
    second = json.loads(gpuplan("launch", *FAKE, "--per-gpu-batch", "16", "--lr-from", run, "--yes", "-o", "json")[1])[
        "run_id"
    ]
    for arguments in (("suggest", second), ("plan", *FAKE, "--lr-from", second)):
        code, _, err = gpuplan(*arguments)
        assert code == ExitCode.NO_RESULT
        assert f"its learning rate is from run {run}" in err
    code, _, err = gpuplan("plan", "--lr-from", "nothing")
    assert code == ExitCode.USAGE
    assert "there is no run 'nothing'" in err


def suggested(gpuplan: Gpuplan, *arguments: str) -> dict[str, Any]:
    code, out, err = gpuplan("suggest", "-o", "json", *arguments)
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def test_suggest_on_another_world_size_counts_the_steps_of_that_training(gpuplan: Gpuplan) -> None:
    found(gpuplan, "--batch-size", "16", "--carry-to-gpus", "4", "--lr-check")
    told = suggested(gpuplan)
    assert (told["global_batch"], told["steps"]) == (64, 5 * EpochLayout(DIGITS, 16, 4, 1).steps)
    assert all("checked_learning_rate" in one for one in told["decisions"])
    other = suggested(gpuplan, "--world-size", "8")
    assert (other["global_batch"], other["steps"]) == (128, 5 * EpochLayout(DIGITS, 16, 8, 1).steps)
    assert not any("checked_learning_rate" in one for one in other["decisions"]), "the check was of another batch"
    again = suggested(gpuplan, "--world-size", "4")
    assert again == told


def test_suggest_keeps_the_steps_where_they_are_fixed(gpuplan: Gpuplan) -> None:
    found(gpuplan, "--batch-size", "16", "--carry-to-gpus", "2", "--fixed", "steps")
    assert suggested(gpuplan, "--world-size", "8")["steps"] == suggested(gpuplan)["steps"]


def test_suggest_refuses_more_gpus_than_the_data_fill(gpuplan: Gpuplan) -> None:
    found(gpuplan, "--batch-size", "16")
    code, _, err = gpuplan("suggest", "--world-size", "90")
    assert code == ExitCode.USAGE
    assert "1,437 training samples, fewer than a global batch of 1,440" in err
    assert "--world-size 89 or less" in err


def test_suggest_shows_every_rule_by_every_policy(gpuplan: Gpuplan) -> None:
    found(gpuplan, "--carry-to-gpus", "4")
    out = gpuplan("suggest")[1]
    heading = next(line for line in out.splitlines() if "noise-scale" in line and "sqrt" in line)
    assert heading.split() == ["rule", "accumulate", "linear", "noise-scale", "none", "sqrt"]
