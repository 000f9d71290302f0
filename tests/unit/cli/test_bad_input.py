"""Bad input: one clear message with a fix, the documented exit code, no traceback, and nothing recorded is lost."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

from gpuplan.cli.app import main

ADVISE = ["advise", "--from-batch", "64", "--to-batch", "256"]


class Run(Protocol):
    """Run gpuplan with arguments; return its status, stdout and stderr."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("GPUPLAN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def gpuplan(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        captured = capsys.readouterr()
        code = end.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return gpuplan


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "--instance", "g5.12xlrage"], "did you mean 'g5.12xlarge'"),
        (["plan", "--instance", "../../etc/passwd"], "no instance profile"),
        (["plan", "--model", "resnet5O"], "resnet50"),
        (["plan", "--pipeline", "lr-then-trian"], "did you mean 'lr-then-train'"),
        (["plan", "--backend", "sagmaker"], "did you mean 'sagemaker'"),
        (["plan", "--lr-rule", "egde"], "did you mean 'edge'"),
        (["plan", "--lr-transfer", "nois-scale"], "did you mean 'noise-scale'"),
        (["plan", "--per-gpu-batch", "0"], "--per-gpu-batch = 0 (from --per-gpu-batch)"),
        (["plan", "--per-gpu-batch", "1000000000000"], "--per-gpu-batch"),
        (["plan", "--per-gpu-batch", "1000"], "1,437 training samples, fewer than one global batch of 2,000"),
        (["plan", "--per-gpu-batch", "many"], "--per-gpu-batch"),
        (["plan", "--epochs", "-1"], "--epochs = -1"),
        (["plan", "--lr", "nan"], "--lr = nan"),
        (["plan", "--lr", "-0.1"], "--lr = -0.1"),
        (["plan", "--max-cost", "lots"], "--max-cost"),
        (["plan", "--max-cost", "0"], "--max-cost"),
        (["plan", "--precision", "fp8"], "--precision"),
        (["plan", "--world-size", "9", "--instance", "g5"], "more than the 4 GPUs"),
        (["plan", "--lr-min", "1", "--lr-max", "0.1"], "not below"),
        (["plan", "--data", "imagenot"], "unknown data"),
        (["plan", "--data", "imagefolder:/nowhere/at/all"], "/nowhere/at/all"),
        (["plan", "--data", "fake:3x32"], "fake"),
        (["plan", "--pipeline", "train"], "--pipeline train needs a learning rate"),
        (["plan", "--pipeline", "lr", "--lr", "0.1"], "--lr gives the learning rate"),
        (["plan", "--config", "absent.toml"], "cannot read absent.toml"),
        (["launch", "--plan", "absent.json"], "cannot read the plan"),
        (["launch"], "nobody is here to say yes"),
        (["resume", "no-such-run"], "no runs yet"),
        (["status"], "no runs yet"),
        (["advise"], "--from-batch and --to-batch and --lr are missing"),
        (
            ["advise", "--from-batch", "64", "--to-batch", "256"],
            "next: gpuplan advise --from-batch 64 --to-batch 256 --lr",
        ),
        ([*ADVISE, "--lr", "nan"], "--lr = nan"),
        ([*ADVISE, "--lr", "0.1", "--to-batch", "0"], "--to-batch = 0"),
        ([*ADVISE, "--lr", "0.1", "--dropout", "1"], "--dropout = 1.0"),
        ([*ADVISE, "--lr", "0.1", "--optimizer", "adam"], "'sgd' or 'adamw'"),
        ([*ADVISE, "--lr", "0.1", "--norm", "bath"], "did you mean 'batch'"),
        ([*ADVISE, "--lr", "0.1", "--model", "resnet5O"], "resnet50"),
        ([*ADVISE, "--lr", "0.1", "--data", "imagenot"], "unknown data"),
        ([*ADVISE, "--lr", "0.1", "--data", "digits", "--samples", "9"], "--data and --samples"),
        ([*ADVISE, "--lr", "0.1", "--instance", "g5", "--gpus", "6"], "--gpus 4"),
        ([*ADVISE, "--lr", "0.1", "--gpus", "0"], "--gpus 0"),
        ([*ADVISE, "--lr", "0.1", "--gpus", "3"], "--to-batch 255 or --to-batch 258"),
        (["frobnicate"], "frobnicate"),
        (["lanch"], "did you mean 'launch'?"),
        (["plan", "--frobnicate"], "--frobnicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_exit_2_with_its_name_and_a_way_out(run: Run, arguments: list[str], says: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2, err
    assert says in " ".join(err.split()), err
    assert "Traceback" not in err
    assert "pydantic" not in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[workload\n", "not valid TOML"),
        ("[workload]\nepoch = 3\n", "did you mean 'epochs'"),
        ("[worklod]\n", "did you mean 'workload'"),
        ("workload = 3\n", "must be a table"),
        ('[workload]\nepochs = "3"\n', "--epochs = '3' (from gpuplan.toml)"),
        ("[workload]\nepochs = true\n", "--epochs = True"),
        ("[workload]\nepochs = 3\nepochs = 4\n", "not valid TOML"),
        ("[lr]\nlearning_rate = inf\n", "--lr = inf"),
        ("[launch]\ninstance = 5\n", "--instance = 5"),
    ],
)
def test_a_wrong_configuration_file_names_the_key_and_where_it_stands(run: Run, text: str, says: str) -> None:
    Path("gpuplan.toml").write_text(text, encoding="utf-8")
    code, _, err = run("plan")
    assert code == 2
    assert says in " ".join(err.split()), err


def test_a_configuration_that_is_no_text_is_refused(run: Run) -> None:
    Path("gpuplan.toml").write_bytes("[workload]\nepochs = 3\n".encode("utf-16"))
    assert run("plan")[0] == 2


def test_a_byte_order_mark_and_windows_line_ends_are_fine(run: Run) -> None:
    Path("gpuplan.toml").write_bytes(b"\xef\xbb\xbf[workload]\r\nepochs = 3\r\n")
    code, out, _ = run("plan")
    assert code == 0
    assert "3 epochs" in out


def test_flag_beats_variable_beats_file_beats_profile(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("gpuplan.toml").write_text("[workload]\nepochs = 3\nper_gpu_batch = 8\nseed = 5\n", encoding="utf-8")
    monkeypatch.setenv("GPUPLAN_EPOCHS", "4")
    monkeypatch.setenv("GPUPLAN_PER_GPU_BATCH", "16")
    _, out, _ = run("plan", "--epochs", "7", "-o", "json")
    plan = json.loads(out)
    assert plan["workload"]["epochs"] == 7
    assert plan["batch"]["per_gpu"] == 16
    assert plan["workload"]["seed"] == 5
    assert plan["workload"]["precision"] == "fp32"
    _, out, _ = run("plan", "--epochs", "7", "--debug")
    assert "7  (from --epochs)" in out
    assert "16  (from GPUPLAN_PER_GPU_BATCH)" in out
    assert "5  (from gpuplan.toml)" in out


def test_a_retired_instance_plans_but_does_not_launch(run: Run) -> None:
    code, out, _ = run("plan", "--instance", "p3")
    assert code == 0
    assert "no longer offers it" in " ".join(out.split())
    code, _, err = run("launch", "--instance", "p3", "--yes", "--backend", "fake")
    assert code == 5
    assert "p4d.24xlarge" in err
    assert run("launch", "--instance", "p3", "--yes", "--backend", "fake", "--allow-retired")[0] == 0


def test_a_model_that_cannot_fit_is_refused_with_a_smaller_batch(run: Run) -> None:
    big = ["--instance", "g5", "--model", "resnet50", "--per-gpu-batch", "4096", "--backend", "fake", "--yes"]
    code, _, err = run("launch", *big, "--data", "fake:3x224x224:10:100000")
    assert code == 5
    assert "--per-gpu-batch 2048" in err


def test_a_plan_over_budget_is_exit_6_before_anything_starts(run: Run) -> None:
    code, _, err = run("launch", "--instance", "p4d", "--backend", "sagemaker", "--max-cost", "0.01", "--yes")
    assert code == 6
    assert "--max-cost $0.01" in err
    assert run("list")[1].startswith("no runs yet")


def test_a_backend_that_is_not_installed_plans_but_does_not_launch(run: Run) -> None:
    code, out, _ = run("plan", "--instance", "g5", "--backend", "ec2", "-o", "json")
    assert code == 0
    assert "unknown" in json.loads(out)["steps"][0]["request"]
    code, _, err = run("launch", "--instance", "g5", "--backend", "ec2", "--yes")
    assert code == 2
    assert "no backend 'ec2'" in err


@pytest.mark.parametrize("given", [(), ("--role", "arn:aws:iam::123456789012:role/x", "--bucket", "gpuplan-1")])
def test_a_launch_without_credentials_is_exit_3_and_leaves_nothing(run: Run, given: tuple[str, ...]) -> None:
    code, _, err = run("launch", "--instance", "g5", "--yes", *given)
    assert code == 3, err
    assert "aws configure" in err
    assert "Traceback" not in err
    assert run("list")[1].startswith("no runs yet")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--spot"], "no spot capacity"),
        (["--nodes", "2"], "runs jobs on one machine"),
        (["--max-hours", "2"], "enforces no time limit"),
        (["--checkpoint-minutes", "0"], "--checkpoint-minutes = 0"),
        (["--instance", "g5", "--spot", "--pipeline", "lr"], "lr-find writes no checkpoint"),
        (["--instance", "g5", "--nodes", "2", "--world-size", "7"], "does not divide"),
        (["--instance", "g5", "--nodes", "65"], "--nodes = 65"),
        (["--instance", "g5", "--max-hours", "0"], "--max-hours = 0"),
        (["--instance", "g5", "--role", "me"], "--role = 'me'"),
        (["--instance", "g5", "--bucket", "s3://b"], "--bucket = 's3://b'"),
        (["--instance", "g5", "--prefix", "../x"], "--prefix = '../x'"),
        (["--instance", "g5", "--image", "two words"], "--image = 'two words'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_aws_could_not_do_is_said_while_planning(run: Run, arguments: list[str], says: str) -> None:
    code, _, err = run("plan", *arguments, "-o", "json")
    assert code == 2, err
    assert says in " ".join(err.split()), err


def test_a_detached_launch_says_how_to_go_on_and_resume_does(run: Run) -> None:
    code, out, err = run("launch", "--backend", "fake", "--detach", "--yes", "-o", "json")
    assert code == 130
    document = json.loads(out)
    assert (document["state"], document["exit_code"]) == ("running", 130)
    assert f"gpuplan resume {document['run_id']}" in err
    assert "train starts only after resume" in err
    assert run("resume")[0] == 0


def test_an_edited_plan_is_refused(run: Run) -> None:
    assert run("plan", "--backend", "fake", "--out", "plan.json")[0] == 0
    text = Path("plan.json").read_text(encoding="utf-8")
    Path("edited.json").write_text(text.replace('"epochs": 5', '"epochs": 7'), encoding="utf-8")
    code, _, err = run("launch", "--plan", "edited.json", "--yes")
    assert code == 5
    assert "was changed after it was planned" in err
    assert run("launch", "--plan", "plan.json", "--yes")[0] == 0


def test_a_stale_plan_is_refused_with_what_changed(run: Run, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in ("cat", "dog"):
        (images / name).mkdir(parents=True)
        for index in range(40):
            (images / name / f"{index}.jpg").write_bytes(b"not read by a plan")
    flags = ["--data", f"imagefolder:{images}", "--backend", "fake", "--per-gpu-batch", "4"]
    assert run("plan", *flags, "--out", "plan.json")[0] == 0
    (images / "cat" / "more.jpg").write_bytes(b"one more")
    code, _, err = run("launch", "--plan", "plan.json", "--yes")
    assert code == 5
    assert "is stale" in err
    assert "data." in err


def test_a_relative_path_means_the_same_wherever_the_run_is_resumed(run: Run, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(40):
            (tmp_path / "images" / name / f"{index}.jpg").write_bytes(b"not read by a plan")
    _, out, _ = run("plan", "--data", "imagefolder:images", "--per-gpu-batch", "4", "-o", "json")
    assert json.loads(out)["workload"]["data"] == f"imagefolder:{tmp_path / 'images'}"


def test_a_saved_plan_takes_no_further_settings(run: Run) -> None:
    run("plan", "--backend", "fake", "--out", "plan.json")
    code, _, err = run("launch", "--plan", "plan.json", "--epochs", "3", "--yes")
    assert code == 2
    assert "--epochs" in err


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"plan_id": 1, "steps": 3}', "[" * 100_000])
def test_a_file_that_is_no_plan_is_refused(run: Run, text: str) -> None:
    Path("plan.json").write_text(text, encoding="utf-8")
    code, _, err = run("launch", "--plan", "plan.json", "--yes")
    assert code in {2, 5}
    assert "plan.json" in err


def test_a_broken_store_names_the_file_and_hides_no_other_run(run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        assert run("launch", "--backend", "fake", "--yes")[0] == 0
    logs = sorted((tmp_path / "home" / "runs").glob("*/events.sqlite3"))
    for leftover in logs[0].parent.glob("events.sqlite3-*"):
        leftover.unlink()
    before = b"this is no database" * 300
    logs[0].write_bytes(before)
    code, out, err = run("list")
    assert code == 0
    assert logs[1].parent.name in out
    assert logs[0].parent.name in err
    code, _, err = run("status", logs[0].parent.name)
    assert code == 2
    assert "events.sqlite3" in err
    assert logs[0].read_bytes() == before, "a damaged store is never touched"


def test_a_log_from_a_newer_version_is_refused_and_left_alone(run: Run, tmp_path: Path) -> None:
    run("launch", "--backend", "fake", "--yes")
    log = next((tmp_path / "home" / "runs").glob("*/events.sqlite3"))
    with sqlite3.connect(log) as connection:
        connection.execute("INSERT INTO events (at, body) VALUES ('2026-11-22T00:00:00+00:00', '{\"kind\": \"new\"}')")
    connection.close()
    code, _, err = run("status")
    assert code == 2
    assert "another version" in err


def test_a_home_that_cannot_be_written_is_said_before_anything_starts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("GPUPLAN_HOME", str(tmp_path / "file"))
    code, _, err = run("launch", "--backend", "fake", "--yes")
    assert code == 2
    assert "is not a folder" in err
    monkeypatch.setenv("GPUPLAN_HOME", str(tmp_path / "file" / "below"))
    code, _, err = run("launch", "--backend", "fake", "--yes")
    assert code == 2
    assert "GPUPLAN_HOME" in err


def test_an_ambiguous_run_lists_the_candidates(run: Run) -> None:
    for _ in range(2):
        run("launch", "--backend", "fake", "--yes")
    code, _, err = run("status", "resnet18")
    assert code == 2
    assert "matches 2 runs" in err


def test_an_error_is_a_json_document_where_json_was_asked_for(run: Run) -> None:
    code, out, err = run("plan", "--epochs", "0", "-o", "json")
    assert code == 2
    document = json.loads(out)
    assert document["schema"] == "gpuplan.error/1"
    assert document["exit_code"] == 2
    assert document["error"]["what"] in err


@pytest.mark.parametrize("out", ["", ".", "/", "no/such/folder/plan.json"])
def test_a_plan_that_cannot_be_saved_says_so(run: Run, out: str) -> None:
    code, _, err = run("plan", "--out", out)
    assert code == 2
    assert "cannot write" in err


@pytest.mark.parametrize("home", ["~nobody-of-this-name/x", "/" + "x" * 300])
def test_a_home_that_names_nothing_is_refused(run: Run, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUPLAN_HOME", home)
    code, _, err = run("launch", "--backend", "fake", "--yes")
    assert code == 2
    assert "GPUPLAN_HOME" in err


def test_a_configuration_that_is_no_file_is_refused_and_not_read(run: Run) -> None:
    assert run("plan", "--config", "/dev/zero")[0] == 2


def test_debug_shows_where_and_keeps_status_and_document(run: Run) -> None:
    code, out, err = run("plan", "--debug", "--instance", "nope", "-o", "json")
    assert code == 2
    assert "Traceback" in err
    assert json.loads(out)["exit_code"] == 2


def test_an_unknown_option_is_a_document_too_where_json_was_asked_for(run: Run) -> None:
    code, out, _ = run("plan", "--frobnicate", "-o", "json")
    assert code == 2
    assert json.loads(out)["error"]["what"]


def test_a_bad_variable_is_named_with_the_way_to_be_rid_of_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUPLAN_EPOCHS", "abc")
    code, _, err = run("plan")
    assert code == 2
    assert "unset GPUPLAN_EPOCHS" in err


def test_a_dry_run_of_a_saved_plan_is_a_document_where_json_was_asked_for(run: Run) -> None:
    run("plan", "--backend", "fake", "--out", "plan.json")
    code, out, _ = run("launch", "--plan", "plan.json", "--dry-run", "-o", "json")
    assert code == 0
    assert json.loads(out)["schema"] == "gpuplan.plan/1"


def test_a_result_of_another_version_hides_no_other_run(run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        run("launch", "--backend", "fake", "--yes")
    logs = sorted((tmp_path / "home" / "runs").glob("*/events.sqlite3"))
    with sqlite3.connect(logs[0]) as connection:
        connection.execute("UPDATE events SET body = replace(body, 'best_epoch', 'best_era')")
    connection.close()
    code, out, err = run("list")
    assert code == 0
    assert logs[1].parent.name in out
    assert logs[0].parent.name in err


@pytest.mark.parametrize("closed", [">&-", "2>&-", "| true"])
def test_a_closed_stream_is_no_fault(tmp_path: Path, closed: str) -> None:
    command = f"{sys.executable} -c 'from gpuplan.cli.app import main; main()' plan {closed}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["profiles"]], ids=["gpuplan", "gpuplan profiles"])
def test_no_command_is_answered_with_the_commands_there_are(run: Run, arguments: list[str]) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert err.startswith("Usage:")
    assert "Commands:" in err
    assert "error" not in err
    assert "Traceback" not in err


def test_the_version_is_printed_without_a_command(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("gpuplan 0.")


def test_user_text_cannot_leave_its_place(run: Run, tmp_path: Path) -> None:
    code, _, _ = run("launch", "--backend", "fake", "--yes", "--data", "fake:1x8x8:2:999", "--model", "resnet18")
    assert code == 0
    for name in ("../../x", "-rf", "$(touch canary)", "`touch canary`", "a\nb", "\u202ecod.exe"):
        assert run("status", "--", name)[0] == 2
    assert not list(tmp_path.rglob("canary"))
