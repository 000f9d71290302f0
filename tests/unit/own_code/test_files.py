"""Which files are a user's code: by git, without git, with patterns, and never a secret unasked."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from gpuplan.core.errors import UsageError
from gpuplan.own_code import files
from gpuplan.own_code.files import code_files

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    write(folder, "net.py", "pkg/__init__.py", "weights.bin", "old.py", ".github/ci.yml")
    (folder / ".gitignore").write_text("*.bin\n/data/\n")
    git(folder.parent, "init", "-q", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    write(folder, "new.py", "data/big.npz")
    (folder / "old.py").unlink()
    return folder


def test_git_names_the_files_tracked_or_not_yet_but_not_the_ignored_nor_the_deleted(repository: Path) -> None:
    found = code_files(repository)
    assert found.names == (".github/ci.yml", ".gitignore", "net.py", "new.py", "pkg/__init__.py")
    assert found.by_git


def test_a_part_of_a_repository_is_a_project_too(repository: Path) -> None:
    write(repository, "part/deep.py")
    assert code_files(repository / "part").names == ("deep.py",)


def test_a_folder_that_the_repository_around_it_ignores_is_read_as_if_there_were_no_git(repository: Path) -> None:
    write(repository, "data/net.py", "data/.hidden")
    found = code_files(repository / "data")
    assert found.names == ("big.npz", "net.py")
    assert not found.by_git


def test_without_git_it_is_all_but_what_is_hidden_compiled_or_an_environment(tmp_path: Path) -> None:
    write(
        tmp_path, "net.py", ".hidden", ".cache/x", "__pycache__/net.cpython-311.pyc", "env/pyvenv.cfg", "env/lib/x.py"
    )
    write(tmp_path, "data/labels.csv", "gpuplan.toml", "gpuplan.schema.json")
    found = code_files(tmp_path)
    assert found.names == ("data/labels.csv", "net.py")
    assert not found.by_git
    assert not found.notes()


def test_an_environment_that_nobody_ignored_is_no_code(repository: Path) -> None:
    write(repository, "env/pyvenv.cfg", "env/lib/python/x.py")
    assert not [name for name in code_files(repository).names if name.startswith("env/")]


def test_submodules_bring_their_files_and_so_do_repositories_inside(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other, "layers.py")
    git(tmp_path, "init", "-q", str(other))
    git(other, "add", ".")
    git(other, "commit", "-qm", "first")
    git(repository, "submodule", "add", str(other), "vendored")
    git(repository, "clone", "-q", str(other), "cloned")
    write(repository, "vendored/changed.py")
    names = code_files(repository).names
    assert {"vendored/layers.py", "vendored/changed.py", "cloned/layers.py"} <= set(names)
    assert not [name for name in names if ".git/" in name]


def test_include_adds_what_git_ignores_and_exclude_has_the_last_word(repository: Path) -> None:
    found = code_files(repository, ["data/*.npz", "*.bin"], ["weights.bin", "/pkg/"])
    assert "data/big.npz" in found.names
    assert not {"weights.bin", "pkg/__init__.py"} & set(found.names)


@pytest.mark.parametrize(
    "name", [".env", ".env.prod", "server.pem", "keys/id_rsa", "credentials", "aws/credentials.json", "kaggle.json"]
)
def test_what_is_named_like_a_secret_is_sent_only_if_it_is_included(repository: Path, name: str) -> None:
    write(repository, name)
    found = code_files(repository)
    assert name not in found.names
    assert found.notes() == [f"not sent: {name} (it may hold a secret; --include NAME sends it)"]
    asked = code_files(repository, [f"/{name}"])
    assert name in asked.names
    assert not asked.notes()


@pytest.mark.parametrize(
    ("name", "pattern", "sent"),
    [
        ("data/.env", "data/", False),
        ("data/.env", "*", False),
        ("data/.env", ".env*", True),
        ("keys/server.pem", "keys/*", False),
        ("keys/server.pem", "*.pem", True),
        (".aws/config", "*", False),
        (".aws/config", ".aws/", True),
    ],
)
def test_a_pattern_that_takes_anything_takes_no_secret(repository: Path, name: str, pattern: str, sent: bool) -> None:  # noqa: FBT001 - a case
    write(repository, name, "data/labels.csv")
    found = code_files(repository, [pattern])
    assert (name in found.names) is sent
    assert (name in found.left_out.get("it may hold a secret", [])) is not sent


def test_what_is_never_sent_cannot_be_included(repository: Path) -> None:
    (repository / "plan.json").write_text('{\n  "plan_id": "abc",\n  "schema": "gpuplan.plan/1"\n}')
    write(repository, "home/code/x.zip", "gpuplan.toml", "net.pyc", "part/.git", "env/pyvenv.cfg", "env/x.py")
    found = code_files(repository, ["*"], without=[repository / "home"])
    assert found.names == (
        *(".github/ci.yml", ".gitignore", "data/big.npz", "net.py", "new.py", "pkg/__init__.py", "weights.bin"),
    )


def test_an_example_of_a_secret_is_none(repository: Path) -> None:
    write(repository, ".env.example")
    assert ".env.example" in code_files(repository).names


def test_a_link_to_a_file_of_the_folder_is_sent_one_that_leads_elsewhere_is_noted(
    repository: Path, tmp_path: Path
) -> None:
    write(tmp_path, "outside.py", "mount/image.png")
    for name, target in (
        ("alias.py", repository / "net.py"),
        ("away.py", tmp_path / "outside.py"),
        ("images", tmp_path / "mount"),
        ("dead", tmp_path / "nothing"),
    ):
        (repository / name).symlink_to(target)
    found = code_files(repository)
    assert "alias.py" in found.names
    assert found.left_out == {
        "a link that leads out of the folder": ["away.py"],
        "a link to a folder, or to nothing": ["dead", "images"],
    }
    assert "away.py" in code_files(repository, ["away.py"]).names


def test_a_saved_plan_and_gpuplans_own_state_are_no_code(repository: Path) -> None:
    (repository / "plan.json").write_text('{\n  "plan_id": "abc",\n  "schema": "gpuplan.plan/1"\n}')
    (repository / "classes.json").write_text('{"cat": 0}')
    write(repository, "home/code/x.zip")
    names = code_files(repository, without=[repository / "home"]).names
    assert "classes.json" in names
    assert not {"plan.json", "home/code/x.zip"} & set(names)


def test_a_folder_of_a_whole_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_FILES", 5)
    write(tmp_path, *(f"{number}.py" for number in range(6)))
    with pytest.raises(UsageError, match="hardly a folder of code"):
        code_files(tmp_path)


def test_variables_of_a_git_hook_do_not_lead_to_another_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert code_files(repository).by_git


def test_names_that_are_no_plain_text_are_sent_as_they_are(repository: Path) -> None:
    write(repository, "mein modell.py", "größe\n2.py")
    assert {"mein modell.py", "größe\n2.py"} <= set(code_files(repository).names)
