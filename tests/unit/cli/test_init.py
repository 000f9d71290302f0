"""`gpuplan init`: both files or none, and never over what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuplan.cli.app import main
from gpuplan.cli.init import write_all
from gpuplan.core.errors import UsageError
from gpuplan.workload.load import read_config


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["init", *arguments])
    return int(ended.value.code or 0)


def there() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def test_writes_a_file_that_sets_nothing_and_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert there() == ["gpuplan.schema.json", "gpuplan.toml"]
    assert read_config(Path("gpuplan.toml")) == {}
    assert json.loads(Path("gpuplan.schema.json").read_text())["title"] == "gpuplan.toml"
    assert "gpuplan plan" in capsys.readouterr().out


def test_plan_reads_what_init_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    path = Path("gpuplan.toml")
    path.write_text(path.read_text().replace("#epochs = 5", "epochs = 9"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--debug"])
    assert ended.value.code == 0
    assert "9  (from gpuplan.toml)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "files"),
    [
        ("other.toml", ["gpuplan.schema.json", "other.toml"]),
        ("folder", ["folder/gpuplan.schema.json", "folder/gpuplan.toml"]),
        ("folder/own.toml", ["folder/gpuplan.schema.json", "folder/own.toml"]),
    ],
)
def test_path_is_a_file_or_a_folder(argument: str, files: list[str]) -> None:
    Path("folder").mkdir()
    assert run(argument) == 0
    assert there() == files


def test_same_files_every_time() -> None:
    run("a.toml")
    first = [Path(name).read_bytes() for name in there()]
    run("a.toml", "--force")
    assert [Path(name).read_bytes() for name in there()] == first


@pytest.mark.parametrize("name", ["gpuplan.toml", "gpuplan.schema.json"])
def test_existing_file_is_refused_and_nothing_written(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_text("mine")
    assert run() == 2
    assert there() == [name]
    assert Path(name).read_text() == "mine"
    error = capsys.readouterr().err
    assert f"{name} is already there" in error
    assert "gpuplan init gpuplan.toml --force" in error


def test_link_that_leads_nowhere_is_refused() -> None:
    Path("gpuplan.toml").symlink_to("absent.toml")
    assert run() == 2
    assert Path("gpuplan.toml").is_symlink()
    assert not Path("gpuplan.schema.json").exists()


def test_force_replaces_both_files() -> None:
    Path("gpuplan.toml").write_text("[launch]\ninstance = 'g5'\n")
    Path("gpuplan.schema.json").write_text("old")
    assert run("--force") == 0
    assert read_config(Path("gpuplan.toml")) == {}
    assert json.loads(Path("gpuplan.schema.json").read_text())


@pytest.mark.parametrize("argument", ["gpuplan", "gpuplan.yaml", "absent/gpuplan.toml"])
def test_path_that_cannot_be_written_is_a_usage_error(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(argument) == 2
    assert there() == []
    assert "error:" in capsys.readouterr().err


def test_second_file_that_fails_undoes_the_first(tmp_path: Path) -> None:
    new, old, blocked = tmp_path / "new", tmp_path / "old", tmp_path / "blocked"
    old.write_bytes(b"\xff kept to the byte")
    blocked.mkdir()
    with pytest.raises(UsageError, match="blocked"):
        write_all({new: "1", old: "2", blocked: "3"})
    assert there() == ["old"]
    assert old.read_bytes() == b"\xff kept to the byte"


def test_json_output_names_both_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-o", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "gpuplan.init/1",
        "config": "gpuplan.toml",
        "config_schema": "gpuplan.schema.json",
    }
