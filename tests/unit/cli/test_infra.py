"""`gpuplan infra` where no account can be reached: what it shows all the same, and what it refuses before any call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gpuplan.aws import stack_template
from gpuplan.cli.app import main

if TYPE_CHECKING:
    from pathlib import Path

Capture = pytest.CaptureFixture[str]
NOBODY_LISTENS = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "GPUPLAN_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOBODY_LISTENS)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["infra", *arguments])
    return int(ended.value.code or 0)


def test_the_template_is_printed_to_the_byte(capsys: Capture) -> None:
    assert run("show", "--template") == 0
    assert capsys.readouterr().out == stack_template.text()


def test_the_template_is_printed_without_loading_an_sdk(tmp_path: Path) -> None:
    program = (
        "import sys; from gpuplan.cli.app import main\n"
        "try: main(['infra', 'show', '--template'])\n"
        "except SystemExit: pass\n"
        "assert not {'boto3', 'botocore'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=tmp_path)


def test_show_without_credentials_shows_the_template_and_says_why_the_stack_is_unknown(capsys: Capture) -> None:
    assert run("show", "--region", "eu-west-1") == 0
    text = capsys.readouterr().out
    for resource in stack_template.resources():
        assert resource.logical_id in text
        assert resource.resource_type in text
    for parameter in stack_template.parameters():
        assert parameter.name in text
    assert "stack  unknown: cannot look at the stack gpuplan" in text


def test_show_without_a_region_needs_none_for_the_template(capsys: Capture) -> None:
    assert run("show", "-o", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "gpuplan.infra/1"
    assert [r["name"] for r in document["template"]["resources"]] == [r.logical_id for r in stack_template.resources()]
    assert document["stack"]["name"] == "gpuplan"
    assert "no AWS region is known" in document["stack"]["deployed"]["unknown"]


@pytest.mark.parametrize("verb", ["deploy", "destroy"])
def test_without_credentials_nothing_is_changed_and_the_exit_says_so(verb: str, capsys: Capture) -> None:
    assert run(verb, "--region", "eu-west-1", "--yes") == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "learn who is calling" in captured.err


@pytest.mark.parametrize("verb", ["deploy", "destroy"])
def test_without_a_region_it_does_not_guess_one(verb: str, capsys: Capture) -> None:
    assert run(verb, "--yes") == 2
    assert "no AWS region is known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--instance-types", "g55"), "no instance profile is called 'g55'"),
        (("--instance-types", "local"), "is no instance of AWS"),
        (("--max-runtime-hours", "0"), "--max-runtime-hours 0: must be between"),
        (("--budget", "much", "--budget-email", "a@b.c"), "--budget 'much': must be an amount"),
        (("--budget", "500"), "--budget needs --budget-email"),
        (("--parameter", "CheckpointDays"), "is not Name=value"),
        (("--prefix", "x", "--parameter", "Prefix=y"), "Prefix is given twice"),
        (("--prefix", "/x"), "--prefix"),
        (("--stack", "my stack"), "--stack"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_before_any_call(
    arguments: tuple[str, ...], said: str, capsys: Capture
) -> None:
    assert run("deploy", "--region", "eu-west-1", "--yes", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "next:" in error


def test_a_bad_value_names_where_it_came_from(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpuplan.toml").write_text('[aws]\nstack = "my stack"\n')
    assert run("destroy", "--region", "eu-west-1", "--yes") == 2
    assert "from gpuplan.toml" in capsys.readouterr().err
    monkeypatch.setenv("GPUPLAN_STACK", "9lives")
    assert run("destroy", "--region", "eu-west-1", "--yes") == 2
    assert "from GPUPLAN_STACK" in capsys.readouterr().err


def test_a_misspelt_subcommand_is_answered_with_those_of_infra(capsys: Capture) -> None:
    assert run("destory") == 2
    said = capsys.readouterr().err
    assert "did you mean 'destroy'?" in said
    assert "next: gpuplan infra --help" in said
