"""Loading by name, and what a broken file or folder is told."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from gpuplan.core.errors import UsageError
from gpuplan.profiles import load
from gpuplan.profiles.schema import DetectedProfile, InstanceProfile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two profiles that agree with each other."""
    for name in ("g5.12xlarge", "g5.48xlarge", "g6.12xlarge", "g6e.12xlarge"):
        shutil.copy(load.profiles_directory() / f"{name}.toml", tmp_path)
    return tmp_path


def edit(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / f"{name}.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("name", ["g5", "G5", "g5.12xlarge", "G5.12XLARGE", "ml.g5.12xlarge", " g5 "])
def test_short_full_and_sagemaker_names_lead_to_the_same_profile(name: str) -> None:
    assert load.load(name).name == "g5.12xlarge"


def test_local_names_no_hardware() -> None:
    assert isinstance(load.load("local"), DetectedProfile)


def test_alias_that_starts_no_file_name_is_found(folder: Path) -> None:
    edit(folder, "g6.12xlarge", 'aliases = ["g6"]', 'aliases = ["g6", "ada"]')
    assert load.load("ada", folder).name == "g6.12xlarge"


def test_broken_file_does_not_stop_another_from_loading(folder: Path) -> None:
    (folder / "g4dn.12xlarge.toml").write_text("name = ")
    assert load.load("g5", folder).name == "g5.12xlarge"
    assert load.load("g6e.12xlarge", folder).name == "g6e.12xlarge"


@pytest.mark.parametrize(
    ("wrong", "meant"), [("g5.12xlrage", "g5.12xlarge"), ("p3dm", "p3dn"), ("locla", "local"), ("h200", "choose from")]
)
def test_unknown_name_gets_a_suggestion(wrong: str, meant: str) -> None:
    with pytest.raises(UsageError) as error:
        load.load(wrong)
    assert meant in error.value.what
    assert error.value.fix == "gpuplan profiles list"


def test_name_cannot_leave_the_folder(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    with pytest.raises(UsageError):
        load.load("../g5.12xlarge", inner)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gpus = 4", "gpus = 4.5", "train.gpus = 4.5: "),
        ("gpus = 4", "gpus = 0", "train.gpus = 0: input should be greater than 0"),
        ("gpus = 4", 'gpus = "4"', "train.gpus = '4': input should be a valid integer"),
        ("gpus = 4", "gpu_count = 4", "train.gpus: missing"),
        ("memory_mib", "memory_mb", "gpu.memory_mb: unknown key; did you mean 'memory_mib'?"),
        ('service = "ec2"', 'servise = "ec2"', "prices[1].servise: unknown key; did you mean 'service'?"),
        ("gpus = 1", "gpus = 1\ngpu = {modell = 'T4'}", "finders[1].gpu.modell: unknown key; did you mean 'model'?"),
        ("[quota]", "[quota]\nspott = 'L-1'", "quota.spott: unknown key; did you mean 'spot'?"),
        ('model = "A10G"', 'model = ""', "gpu.model = '': string should have at least 1 character"),
        ("[lifecycle]", "[life]", "life: unknown key; did you mean 'lifecycle'?"),
        ('usd_per_hour = "5.672"', "usd_per_hour = 5.672", "prices[1].usd_per_hour: write money in quotes"),
        ('region = "us-east-1"', 'region = "Virginia"', "defaults.region = 'Virginia': "),
        ('interconnect = "pcie"', 'interconnect = "pci"', "train.interconnect = 'pci': input should be "),
        ("as_of = 2026-10-27", 'as_of = "last week"', "lifecycle.as_of = 'last week': "),
        ('state = "previous-generation"', 'state = "retired"\nsubstitutes = []', "not TOML: "),
        ('name = "g5.12xlarge"', 'name = "g5.24xlarge"', "name: 'g5.24xlarge' is not the file's name"),
    ],
)
def test_broken_file_gets_one_clear_message(folder: Path, old: str, new: str, message: str) -> None:
    edit(folder, "g5.12xlarge", old, new)
    with pytest.raises(UsageError) as error:
        load.load("g5.12xlarge", folder)
    said = f"{error.value.what} {error.value.why}"
    assert error.value.what.startswith("g5.12xlarge.toml is not a valid instance profile: ")
    assert message in said
    assert "pydantic" not in said
    assert str(folder / "g5.12xlarge.toml") in error.value.fix


def test_syntax_error_names_its_line(folder: Path) -> None:
    (folder / "g5.12xlarge.toml").write_text('name = "g5.12xlarge"\n\n\n= 4\n')
    for name in ("g5.12xlarge", "g5"):
        with pytest.raises(UsageError) as error:
            load.load(name, folder)
        assert "line 4" in f"{error.value.what} {error.value.why}"


def test_missing_table_is_named_not_taken_for_local(folder: Path) -> None:
    edit(folder, "g5.12xlarge", "[train]", "[train2]")
    with pytest.raises(UsageError) as error:
        load.load("g5", folder)
    assert "train: missing" in f"{error.value.what} {error.value.why}"


def test_folder_of_sound_files_has_no_findings(folder: Path) -> None:
    assert load.check(folder) == []


def test_check_names_every_fault_of_every_file_and_goes_on(folder: Path) -> None:
    edit(folder, "g5.12xlarge", "gpus = 4", "gpus = 0")
    edit(folder, "g5.12xlarge", "vcpus = 48", "vcpus = -1")
    (folder / "g6.12xlarge.toml").write_bytes(b"\xff")
    found = [(finding.file, finding.message) for finding in load.check(folder)]
    assert [file for file, _ in found] == ["g5.12xlarge.toml", "g5.12xlarge.toml", "g6.12xlarge.toml"]
    assert "not readable" in found[2][1]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("g6.12xlarge", 'aliases = ["g6"]', 'aliases = ["g5"]', "'g5' already leads to g5.12xlarge"),
        ("g5.48xlarge", '["g6e.12xlarge"]', '["g7.12xlarge"]', "'g7.12xlarge' is no other profile"),
        ("g5.48xlarge", "memory_mib = 22_888", "memory_mib = 24_000", "states the GPU A10G otherwise than g5.12xlarge"),
        ("g5.48xlarge", "ram_gib = 16.0", "ram_gib = 15.0", "states the shape g5.xlarge otherwise"),
        ("g5.48xlarge", 'usd_per_hour = "1.006"', 'usd_per_hour = "1.007"', "price ec2 g5.xlarge us-east-1 otherwise"),
        ("g5.48xlarge", "as_of = 2026-11-21\n", "\n", "has no `as_of`"),
        ("g5.48xlarge", "as_of = 2026-10-27\n", "\n", "lifecycle.as_of: missing"),
    ],
)
def test_check_finds_what_two_files_or_a_missing_date_make_wrong(
    folder: Path, name: str, old: str, new: str, message: str
) -> None:
    edit(folder, name, old, new)
    findings = load.check(folder)
    assert [finding.file for finding in findings] == [f"{name}.toml"]
    assert message in findings[0].message


def test_names_need_no_valid_file(folder: Path) -> None:
    (folder / "x1.toml").write_text("not toml")
    assert load.names(folder) == ["g5.12xlarge", "g5.48xlarge", "g6.12xlarge", "g6e.12xlarge", "x1"]


def test_profiles_of_a_folder_come_in_the_order_of_their_names(folder: Path) -> None:
    loaded = load.load_all(folder)
    assert [profile.name for profile in loaded] == load.names(folder)
    assert all(isinstance(profile, InstanceProfile) for profile in loaded)
