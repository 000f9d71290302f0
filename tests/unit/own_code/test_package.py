"""The archive of a user's code: the same bytes for the same files, a manifest, a size, no name that hides another."""

from __future__ import annotations

import io
import json
import os
import subprocess
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.core.errors import UsageError
from gpuplan.own_code import shelf
from gpuplan.own_code.package import MANIFEST, Packed, pack
from gpuplan_job import user_code
from gpuplan_job.contract import CodeSpec
from gpuplan_job.document import sha256_hex
from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from pathlib import Path


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "net.py").write_text("WIDTH = 1\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def packed(folder: Path, **options: Any) -> Packed:  # noqa: ANN401 - those of `pack`
    return pack(folder, most_mb=1.0, **options)


def manifest(found: Packed) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(found.archive)) as archive:
        read: dict[str, Any] = json.loads(archive.read(MANIFEST))
    return read


def test_the_same_files_make_the_same_bytes_whenever_they_were_written(project: Path) -> None:
    first = packed(project)
    os.utime(project / "net.py", (1, 1))
    again = packed(project)
    assert again.archive == first.archive
    assert again.code == first.code
    assert first.code.sha256 == sha256_hex(first.archive)


def test_the_manifest_tells_commit_changes_and_the_digest_of_each_file(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    clean = packed(project)
    assert (clean.code.commit, clean.code.changed) == (commit, 0)
    (project / "net.py").write_text("WIDTH = 2\n")
    (project / "new.py").write_text("x = 1\n")
    found = packed(project)
    told = manifest(found)
    assert (found.code.commit, found.code.changed, found.code.files) == (commit, 2, 3)
    assert told["changed"] == ["net.py", "new.py"]
    assert "-WIDTH = 1\n+WIDTH = 2\n" in told["diff"]
    assert told["files"]["net.py"] == sha256_hex("WIDTH = 2\n")
    assert found.code.sha256 != clean.code.sha256


def test_the_difference_says_nothing_of_a_file_that_is_not_sent(project: Path) -> None:
    (project / ".env").write_text("TOKEN=old\n")
    git(project, "add", "-f", ".env")
    git(project, "commit", "-qm", "a mistake")
    (project / ".env").write_text("TOKEN=new\n")
    found = packed(project)
    assert b"TOKEN" not in found.archive
    assert found.code.changed == 0
    assert found.code.notes == ("not sent: .env (it may hold a secret; --include NAME sends it)",)


def test_committing_changes_the_archive_but_not_what_the_code_is(project: Path) -> None:
    (project / "new.py").write_text("x = 1\n")
    before = packed(project)
    git(project, "add", ".")
    git(project, "commit", "-qm", "second")
    after = packed(project)
    assert after.code.files_sha256 == before.code.files_sha256
    assert after.code.sha256 != before.code.sha256


def test_a_folder_without_git_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / "net.py").touch()
    found = packed(tmp_path)
    assert (found.code.commit, found.code.changed, found.code.files) == (None, 0, 1)


def test_too_much_is_refused_with_the_largest_files_by_name(project: Path) -> None:
    (project / "big.npz").write_bytes(bytes(2_000_000))
    with pytest.raises(UsageError, match=r"is 2\.0 MB, more than 1 MB") as caught:
        packed(project)
    assert "big.npz 2.0 MB" in caught.value.why
    assert "--exclude 'big.npz'" in caught.value.fix
    assert packed(project, exclude=["big.npz"]).code.files == 2


def test_a_folder_without_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no code in"):
        packed(tmp_path)


@pytest.mark.parametrize("name", ["torch.py", "gpuplan_job/__init__.py", "src/numpy/__init__.py"])
def test_a_module_with_the_name_of_one_that_the_training_needs_is_refused(project: Path, name: str) -> None:
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / name).touch()
    with pytest.raises(UsageError, match="has the name of a module that the training needs"):
        packed(project)
    assert packed(project, exclude=[f"/{name}"]).code.files == 2


def test_a_file_with_the_name_of_the_manifest_is_refused(project: Path) -> None:
    (project / MANIFEST).write_text("{}")
    with pytest.raises(UsageError, match="is the name of the list that gpuplan puts beside your code"):
        packed(project)
    assert list(manifest(packed(project, exclude=[f"/{MANIFEST}"]))["files"]) == ["net.py", "run.sh"]


def test_a_module_that_the_standard_library_hides_is_noted_and_a_mere_folder_is_not(project: Path) -> None:
    (project / "random.py").touch()
    (project / "code").mkdir()
    (project / "code" / "layers.py").touch()
    assert packed(project).code.notes == ("random.py is not imported: its name is one of the standard library's",)


def test_what_is_unpacked_is_what_was_packed(project: Path, tmp_path: Path) -> None:
    found = packed(project)
    archive = shelf.keep(tmp_path / "home", found.code.sha256, found.archive)
    target = tmp_path / "job" / "user-code"
    user_code.unpack(archive, CodeSpec(found.code.sha256, found.code.archive_bytes), target)
    assert (target / "net.py").read_text() == "WIDTH = 1\n"
    assert os.access(target / "run.sh", os.X_OK)
    assert not os.access(target / "net.py", os.X_OK)
    (target / "stray.py").touch()
    user_code.unpack(archive, CodeSpec(found.code.sha256, found.code.archive_bytes), target)
    assert not (target / "stray.py").exists(), "made anew"


def test_another_archive_than_the_planned_one_is_not_unpacked(project: Path, tmp_path: Path) -> None:
    found = packed(project)
    spec = CodeSpec(found.code.sha256, found.code.archive_bytes)
    with pytest.raises(JobError, match="did not come with it"):
        user_code.unpack(tmp_path / "code.zip", spec, tmp_path / "target")
    (tmp_path / "code.zip").write_bytes(found.archive[:-1] + b"?")
    with pytest.raises(JobError, match="is not the planned code"):
        user_code.unpack(tmp_path / "code.zip", spec, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_the_shelf_gives_what_was_put_there_and_says_what_it_lacks(project: Path, tmp_path: Path) -> None:
    found = packed(project)
    digest = found.code.sha256
    with pytest.raises(UsageError, match="is not on this machine"):
        shelf.taken(tmp_path, digest)
    shelf.keep(tmp_path, digest, found.archive)
    assert shelf.taken(tmp_path, digest) == found.archive
    shelf.place(tmp_path, digest).write_bytes(b"damaged")
    with pytest.raises(UsageError, match="is damaged"):
        shelf.taken(tmp_path, digest)
    shelf.keep(tmp_path, digest, found.archive)
    assert shelf.taken(tmp_path, digest) == found.archive
