from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gpuplan_job
from gpuplan.core import payload
from gpuplan_job import bootstrap

PROBE = """import json, os, sys
import gpuplan_job
print(json.dumps({
    "arguments": sys.argv[1:],
    "package": gpuplan_job.__file__,
    "path": os.environ["PYTHONPATH"],
    "safe": os.environ["PYTHONSAFEPATH"],
    "data": os.path.exists(os.path.join(os.path.dirname(gpuplan_job.__file__), "data", "numbers.bin")),
}))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A payload package with the real bootstrap, a data file, and an entry point that tells where it runs."""
    root = tmp_path / "source" / "gpuplan_job"
    (root / "data").mkdir(parents=True)
    (root / "__init__.py").touch()
    (root / "sagemaker.py").write_text(PROBE)
    (root / "data" / "numbers.bin").write_bytes(bytes(range(256)))
    shutil.copy(Path(gpuplan_job.__file__).with_name("bootstrap.py"), root)
    return root


def run(archive: Path, cwd: Path, root: Path = Path("nowhere"), **environment: str) -> dict[str, object]:
    settings = {"PATH": os.environ["PATH"]} | environment
    done = subprocess.run(
        [sys.executable, str(archive), str(root), "--probe", "a b"],
        capture_output=True,
        text=True,
        check=False,
        env=settings,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def write_archive(package: Path, folder: Path) -> Path:
    path = folder / "payload.pyz"
    path.write_bytes(payload.archive(package))
    return path


def test_the_archive_is_the_same_whenever_and_wherever_the_files_were_written(package: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "gpuplan_job"
    for path in sorted(package.rglob("*"), reverse=True):  # another order, other times, other permissions
        copy = elsewhere / path.relative_to(package)
        if path.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
            copy.chmod(0o700)
            os.utime(copy, (1, 1))
    assert payload.archive(elsewhere) == payload.archive(package)
    assert payload.digest(elsewhere) == payload.digest(package)


def test_the_archive_holds_each_file_of_the_package_uncompressed_and_no_compiled_one(package: Path) -> None:
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.cpython-311.pyc").touch()
    with zipfile.ZipFile(io.BytesIO(payload.archive(package))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "__main__.py",
            "gpuplan_job/__init__.py",
            "gpuplan_job/bootstrap.py",
            "gpuplan_job/data/numbers.bin",
            "gpuplan_job/sagemaker.py",
        ]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.read("__main__.py") == (package / "bootstrap.py").read_bytes()


def test_the_installed_payload_is_archived_with_its_data() -> None:
    with zipfile.ZipFile(io.BytesIO(payload.archive())) as archive:
        names = set(archive.namelist())
    assert {"gpuplan_job/launch.py", "gpuplan_job/data/digits.npz", "gpuplan_job/rules/__init__.py"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_another_content_is_another_digest(package: Path) -> None:
    before = payload.digest(package), payload.archive(package)
    (package / "sagemaker.py").write_text("pass\n")
    assert payload.digest(package) != before[0]
    assert payload.archive(package) != before[1]


def test_the_archive_unpacks_itself_and_hands_its_arguments_to_the_entry_point(package: Path, tmp_path: Path) -> None:
    archive = write_archive(package, tmp_path)
    volume = tmp_path / "volume"
    found = run(archive, tmp_path, GPUPLAN_CODE_DIR=str(volume), PYTHONPATH="/image/packages")
    assert found["arguments"] == ["nowhere", "--probe", "a b"]
    assert found["data"] is True
    assert found["safe"] == "1"
    unpacked, *others = str(found["path"]).split(os.pathsep)
    assert others == ["/image/packages"]
    assert Path(unpacked).parent == volume
    assert str(found["package"]) == f"{unpacked}/gpuplan_job/__init__.py"


def test_each_start_unpacks_into_a_folder_of_its_own(package: Path, tmp_path: Path) -> None:
    archive = write_archive(package, tmp_path)
    volume = str(tmp_path / "volume")
    first, second = (run(archive, tmp_path, GPUPLAN_CODE_DIR=volume)["path"] for _ in range(2))
    assert first != second


def test_without_the_volume_it_unpacks_into_a_temporary_folder(package: Path, tmp_path: Path) -> None:
    archive = write_archive(package, tmp_path)
    nowhere = str(tmp_path / "not" / "there")
    found = run(archive, tmp_path, GPUPLAN_CODE_DIR=nowhere, TMPDIR=str(tmp_path))
    assert Path(str(found["path"])).parent == tmp_path
    assert not (tmp_path / "not").exists()


def test_a_module_beside_the_archive_or_in_the_working_folder_is_not_taken_for_the_payload(
    package: Path, tmp_path: Path
) -> None:
    working = tmp_path / "working"
    (working / "gpuplan_job").mkdir(parents=True)
    (working / "gpuplan_job" / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    (working / "gpuplan_job" / "sagemaker.py").touch()
    found = run(write_archive(package, working), working, GPUPLAN_CODE_DIR=str(tmp_path / "volume"))
    assert str(found["package"]).startswith(str(tmp_path / "volume"))


def test_by_default_it_unpacks_onto_the_volume_of_the_job(package: Path, tmp_path: Path) -> None:
    root = tmp_path / "opt" / "ml"
    (root / "output").mkdir(parents=True)
    found = run(write_archive(package, tmp_path), tmp_path, root=root)
    assert Path(str(found["path"])).parent == root / "output" / "gpuplan-code"


def test_an_image_whose_python_is_too_old_is_refused_in_words_that_sagemaker_shows(
    package: Path, tmp_path: Path
) -> None:
    (tmp_path / "output").mkdir()
    with pytest.raises(SystemExit) as raised:
        bootstrap.main(write_archive(package, tmp_path), [str(tmp_path)], python=(3, 10, 13))
    reason = (tmp_path / "output" / "failure").read_text()
    assert reason == "the image's python3 is 3.10, a job needs 3.11 or later. Give another image with --image."
    assert reason in str(raised.value)
