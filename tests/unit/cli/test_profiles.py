"""`gpuplan profiles`: what is listed is what the files say, an unknown price is said, a broken file is found."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.cli.app import main
from gpuplan.profiles import detect, load
from gpuplan.profiles.schema import InstanceProfile
from gpuplan.reports.layout import Facts, Line, Table
from gpuplan.reports.profiles_text import list_document, list_text, profile_text

if TYPE_CHECKING:
    from pathlib import Path

Capture = pytest.CaptureFixture[str]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["profiles", *arguments])
    return int(ended.value.code or 0)


def printed_json(capsys: Capture) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def words(blocks: list[Line | Table | Facts]) -> str:
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Line):
            parts.append(block.text)
        elif isinstance(block, Table):
            parts += [" ".join(row) for row in block.rows]
        else:
            parts += [f"{label} {value}" for label, value in block.items]
    return "\n".join(parts)


def concrete(name: str) -> InstanceProfile:
    profile = load.load(name)
    assert isinstance(profile, InstanceProfile)
    return profile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one sound profile."""
    shutil.copy(load.profiles_directory() / "g6.12xlarge.toml", tmp_path)
    return tmp_path


def test_list_has_a_row_for_every_file(capsys: Capture) -> None:
    assert run("list") == 0
    out = capsys.readouterr().out
    for name in load.names():
        assert f"\n {name} " in out
    assert f"{len(load.names())} instance profiles" in out


def test_list_says_gpus_memory_and_prices_with_their_day(capsys: Capture) -> None:
    run("list")
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(" g5.12xlarge"))
    for cell in (
        "g5 ",
        "4 x A10G",
        "22.4",
        "48",
        "$5.67 2026-07-20",
        "$7.09 undated",
        "previous-generation",
        "g5.xlarge",
    ):
        assert cell in row


def test_show_lists_spot_samples_with_their_range_and_window() -> None:
    profile = concrete("g5")
    tables = [block for block in profile_text(profile, detected=False) if isinstance(block, Table)]
    rows = [row for table in tables for row in table.rows if row[2] == "ec2 spot"]
    assert len(rows) == len(profile.spot_prices) == 3
    assert rows[0][3:5] == ("$2.18 ($2.08 to $2.78)", "2025-09..2026-05")


def test_list_marks_a_finder_with_another_gpu_and_a_derived_price() -> None:
    rows = {line.split()[0]: line for line in words(list_text(load.load_all())).splitlines()}
    assert rows["p4d.24xlarge"].endswith("g6e.xlarge*")
    assert rows["g5.12xlarge"].endswith("g5.xlarge")
    assert "~$20.36" in rows["g5.48xlarge"]


def test_price_that_is_not_known_is_said_not_zero() -> None:
    profile = concrete("g5").model_copy(update={"prices": ()})
    assert "unknown unknown" in words(list_text([profile]))
    (entry,) = list_document([profile])["profiles"]
    assert set(entry["rate_usd_per_hour"]["ec2"]) == {"unknown"}
    assert "prices unknown" in words(profile_text(profile, detected=False))


def test_list_as_json_holds_money_as_strings_and_what_only_this_machine_knows_as_unknown(capsys: Capture) -> None:
    assert run("list", "-o", "json") == 0
    document = printed_json(capsys)
    assert document["schema"] == "gpuplan.profiles/1"
    entries = {entry["name"]: entry for entry in document["profiles"]}
    assert list(entries) == load.names()
    assert entries["g5.12xlarge"]["rate_usd_per_hour"]["ec2"]["amount"] == "5.672"
    assert entries["g5.48xlarge"]["rate_usd_per_hour"]["sagemaker"]["derived"] is True
    assert entries["p4d.24xlarge"]["finder_differs"] is True
    assert "unknown" in entries["local"]["gpu"]


@pytest.mark.parametrize("name", [name for name in load.names() if name != "local"])
def test_show_leaves_out_no_price_source_or_note(name: str) -> None:
    profile = concrete(name)
    text = words(profile_text(profile, detected=False))
    for source in profile.sources:
        assert source.what in text
        assert source.where in text
    for price in profile.prices:
        assert price.source in text
    assert profile.lifecycle.note in text
    assert all(substitute in text for substitute in profile.lifecycle.substitutes)
    assert f"{profile.defaults.per_gpu_batch} samples per GPU, {profile.defaults.precision}" in text
    assert ("another GPU than training" in text) == profile.finder_differs


@pytest.mark.parametrize("name", ["p3", "P3.16xlarge", "ml.p3.16xlarge"])
def test_show_takes_every_form_of_a_name(name: str, capsys: Capture) -> None:
    assert run("show", name) == 0
    out = capsys.readouterr().out
    assert out.startswith("p3.16xlarge (p3) · 8 x V100-16GB")
    assert "retired, as of 2026-10-27" in out
    assert "no bf16" in out


def test_show_as_json_is_the_file_and_what_follows_from_it(capsys: Capture) -> None:
    assert run("show", "p4d", "-o", "json") == 0
    document = printed_json(capsys)
    assert document["schema"] == "gpuplan.profile/1"
    assert document["detected"] is False
    assert document["finder_differs"] is True
    kept = {key: value for key, value in document.items() if key not in {"schema", "detected", "finder_differs"}}
    assert InstanceProfile.model_validate_json(json.dumps(kept)) == concrete("p4d")


def test_show_local_says_what_this_machine_has(capsys: Capture) -> None:
    assert run("show", "local", "-o", "json") == 0
    document = printed_json(capsys)
    assert document["detected"] is True
    assert document["train"]["vcpus"] == detect.this_machine().vcpus
    assert run("show", "local") == 0
    out = capsys.readouterr().out
    assert "detected here" in out
    assert "this machine costs nothing here" in out


@pytest.mark.parametrize(
    ("accelerator", "gpus", "model", "said"),
    [
        ("cuda", 2, "NVIDIA A10G", "2 GPUs, 16 vCPU"),
        ("mps", 1, "Apple M3", "1 GPU, 16 vCPU"),
        ("cpu", 2, "CPU", "2 CPU processes, 16 vCPU"),
    ],
)
def test_show_tells_gpus_from_cpu_processes(accelerator: Any, gpus: int, model: str, said: str) -> None:  # noqa: ANN401 - a Literal
    machine = detect.Machine(
        accelerator=accelerator,
        gpus=gpus,
        gpu_model=model,
        memory_mib=16_000,
        compute_capability="8.6" if accelerator == "cuda" else None,
        vcpus=16,
        ram_gib=64.0,
    )
    text = words(profile_text(detect.resolve(load.load("local"), machine), detected=True))
    assert said in text
    assert f"detected here {model}, 15.6 GiB" in text


def test_unknown_name_is_a_usage_error_with_the_near_one(capsys: Capture) -> None:
    assert run("show", "g5.12xlrage") == 2
    error = capsys.readouterr().err
    assert "did you mean 'g5.12xlarge'?" in error
    assert "gpuplan profiles list" in error


def test_check_of_the_shipped_files_says_how_many_and_finds_nothing(capsys: Capture) -> None:
    assert run("check") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{len(load.names())} profile files checked")
    assert "no findings" in out


def test_check_lists_each_finding_and_exits_2(folder: Path, capsys: Capture) -> None:
    path = folder / "g6.12xlarge.toml"
    path.write_text(path.read_text().replace("gpus = 4", "gpus = 0").replace("vcpus = 48", "vcpu = 48"))
    (folder / "broken.toml").write_text("name = ")
    assert run("check", str(folder)) == 2
    out = capsys.readouterr().out
    assert out.startswith("2 profile files checked")
    assert "broken.toml" in out
    assert "train.gpus = 0" in out
    assert "vcpus" in out


def test_check_as_json_holds_the_findings(folder: Path, capsys: Capture) -> None:
    path = folder / "g6.12xlarge.toml"
    path.write_text(path.read_text().replace("[lifecycle]\n", '[lifecycle]\nsubstitutes = ["g7"]\n'))
    assert run("check", str(folder), "-o", "json") == 2
    document = printed_json(capsys)
    assert document["schema"] == "gpuplan.profiles-check/1"
    assert document["files"] == 1
    assert document["findings"] == [finding.document() for finding in load.check(folder)]
    assert document["findings"]


@pytest.mark.parametrize("name", ["", "absent"])
def test_check_of_nothing_is_no_clean_check(name: str, tmp_path: Path, capsys: Capture) -> None:
    assert run("check", str(tmp_path / name)) == 2
    assert "no profile file" in capsys.readouterr().err
