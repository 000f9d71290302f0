"""Settings from the shell: switches have two flags, variables and files say the same, and `next` repeats them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, Protocol

import pytest

from gpuplan.cli.app import main
from gpuplan.cli.options import Given
from gpuplan.workload.schema import SECTIONS, SettingField, setting_fields


class Plan(Protocol):
    """Plan on an AWS instance with more arguments; return the plan's settings."""

    def __call__(self, *arguments: str) -> dict[str, Any]: ...


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run gpuplan; return its status, stdout and stderr."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plan:
    monkeypatch.chdir(tmp_path)

    def settings(*arguments: str) -> dict[str, Any]:
        code, out, err = run(capsys, "plan", "--instance", "g5", "-o", "json", *arguments)
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)["provenance"]["settings"]
        return found

    return settings


SWITCHES = [field for field in setting_fields() if field.annotation is bool]


def test_there_are_switches() -> None:
    assert {"launch.spot", "aws.network_isolation"} <= {field.key for field in SWITCHES}


@pytest.mark.parametrize(
    ("field", "default"),
    [(field, SECTIONS[field.section].model_fields[field.name].default) for field in SWITCHES],
    ids=[field.key for field in SWITCHES],
)
class TestSwitch:
    """A setting that is yes or no."""

    def test_has_a_flag_for_yes_and_one_for_no(self, planned: Plan, field: SettingField, *, default: bool) -> None:
        name, section = field.name, field.section
        assert planned()[section][name] is default
        assert planned(field.flag)[section][name] is True
        assert planned(f"--no-{field.flag[2:]}")[section][name] is False

    @pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
    def test_has_a_variable(
        self,
        planned: Plan,
        monkeypatch: pytest.MonkeyPatch,
        field: SettingField,
        text: str,
        *,
        default: bool,
        value: bool,
    ) -> None:
        monkeypatch.setenv(field.variable, text)
        assert planned()[field.section][field.name] is value
        flag = f"--{'no-' if value else ''}{field.flag[2:]}"
        assert planned(flag)[field.section][field.name] is not value, default

    def test_may_stand_in_the_file(self, planned: Plan, field: SettingField, *, default: bool) -> None:
        name, section = field.name, field.section
        Path("gpuplan.toml").write_text(f"[{section}]\n{name} = {str(not default).lower()}\n", encoding="utf-8")
        assert planned()[section][name] is not default
        assert planned(f"--{'' if default else 'no-'}{field.flag[2:]}")[section][name] is default

    @pytest.mark.parametrize("text", ["maybe", "2"])
    def test_is_nothing_but_yes_or_no(
        self,
        planned: Plan,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        field: SettingField,
        text: str,
        *,
        default: bool,
    ) -> None:
        del planned, default
        Path("gpuplan.toml").write_text(f'[{field.section}]\n{field.name} = "{text}"\n', encoding="utf-8")
        code, _, err = run(capsys, "plan", "--instance", "g5")
        assert (code, field.flag in err) == (2, True)
        Path("gpuplan.toml").unlink()
        monkeypatch.setenv(field.variable, text)
        code, _, err = run(capsys, "plan", "--instance", "g5")
        assert code == 2
        assert f"unset {field.variable}" in err


BATCHES = (32, 64, 128)


@pytest.mark.parametrize("text", ["32,64,128", "32, 64, 128", "32,64,,64,128,"])
def test_a_setting_of_several_numbers_is_a_comma_list_as_flag_and_as_variable(
    planned: Plan, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    assert tuple(planned("--compare-batches", text)["lr"]["compare_batches"]) == BATCHES
    monkeypatch.setenv("GPUPLAN_COMPARE_BATCHES", text)
    assert tuple(planned()["lr"]["compare_batches"]) == BATCHES
    assert tuple(planned("--compare-batches", "16")["lr"]["compare_batches"]) == (16,)


def test_a_setting_of_several_numbers_is_a_list_in_the_file(planned: Plan) -> None:
    Path("gpuplan.toml").write_text("[lr]\ncompare_batches = [32, 64, 128]\n", encoding="utf-8")
    assert tuple(planned()["lr"]["compare_batches"]) == BATCHES


@pytest.mark.parametrize("text", ["32;64", "32,x", "1e2", "0", "-4", "2000000", "1,2,3,4,5,6,7,8,9"])
def test_what_is_no_list_of_batches_is_refused_with_its_flag(
    planned: Plan, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    del planned
    code, _, err = run(capsys, "plan", "--instance", "g5", "--compare-batches", text)
    assert code == 2
    assert f"--compare-batches = {text!r}" in err or "(from --compare-batches)" in err


@pytest.mark.parametrize("value", ["64", "[64.5]", "[true]", '["64"]', "[[64]]"])
def test_what_is_no_list_of_whole_numbers_in_the_file_is_refused(
    planned: Plan, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    del planned
    Path("gpuplan.toml").write_text(f"[lr]\ncompare_batches = {value}\n", encoding="utf-8")
    code, _, err = run(capsys, "plan", "--instance", "g5")
    assert code == 2
    assert "--compare-batches" in err
    assert "gpuplan.toml" in err


def test_the_role_is_read_from_its_documented_variable(planned: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    role = "arn:aws:iam::123456789012:role/x"
    monkeypatch.setenv("GPUPLAN_ROLE_ARN", role)
    assert planned()["aws"]["role_arn"] == role


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--spot", "--nodes", "2", "--per-gpu-batch", "16"],
        ["--no-spot", "--no-network-isolation", "--bucket", "gpuplan-123456789012"],
        ["--max-hours", "12", "--max-cost", "30", "--region", "us-west-2"],
        ["--compare-batches", "32,64", "--lr-check"],
    ],
    ids=" ".join,
)
def test_what_was_given_is_repeated_as_a_command_that_means_the_same(
    planned: Plan, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    _, page, _ = run(capsys, "plan", "--instance", "g5", *arguments)
    launch = next(line for line in page.splitlines() if "gpuplan launch" in line).partition("gpuplan launch")[2]
    repeated = shlex.split(launch)
    assert planned(*repeated) == planned(*arguments)


def test_variables_and_the_file_are_not_repeated_but_the_files_name_is() -> None:
    values: dict[str, object] = {"launch.spot": True, "aws.network_isolation": False, "workload.epochs": 3}
    origins = {
        "launch.spot": "--spot",
        "aws.network_isolation": "--network-isolation",
        "workload.epochs": "GPUPLAN_EPOCHS",
    }
    given = Given(values, origins, Path("own.toml"))
    assert given.arguments() == ["--spot", "--no-network-isolation", "--config", "own.toml"]
