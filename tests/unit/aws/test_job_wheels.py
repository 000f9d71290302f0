from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpuplan.aws import job_wheels
from gpuplan.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

MALICIOUS = {"2.6.2", "2.6.3"}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder that pip finds one small wheel in."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "small_thing-1.0.dist-info"
    with zipfile.ZipFile(folder / "small_thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-thing\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder


@pytest.fixture
def requirements(tmp_path: Path, index: Path) -> Path:
    content = (index / "small_thing-1.0-py3-none-any.whl").read_bytes()
    path = tmp_path / "requirements.txt"
    path.write_text(f"# locked\nsmall-thing==1.0 --hash=sha256:{hashlib.sha256(content).hexdigest()}\n")
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))


def unreachable(arguments: Sequence[str]) -> None:
    raise AssertionError(f"pip was called: {arguments}")


def test_the_shipped_lock_names_lightning_and_no_malicious_upload_of_it() -> None:
    wheels = {wheel.name: wheel for wheel in job_wheels.locked()}
    assert {"pytorch-lightning", "lightning-utilities", "torchmetrics"} <= set(wheels)
    assert wheels["pytorch-lightning"].version not in MALICIOUS
    assert (
        wheels["pytorch-lightning"].file == f"pytorch_lightning-{wheels['pytorch-lightning'].version}-py3-none-any.whl"
    )


def test_each_line_of_the_shipped_lock_is_a_comment_or_a_version_with_its_digest() -> None:
    lines = job_wheels.REQUIREMENTS.read_text().splitlines()
    locked = [line for line in lines if not line.startswith("#")]
    assert len(locked) == len(job_wheels.locked())
    assert all(re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in locked)


@pytest.mark.parametrize("line", ["torch", "torch>=2.6", "torch==2.6.0", "torch==2.6.0 --hash=md5:00", "-e ."])
def test_a_line_that_locks_nothing_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(f"{line}\n")
    with pytest.raises(ValueError, match="not locked"):
        job_wheels.locked(path)


@pytest.mark.usefixtures("offline")
def test_wheels_are_downloaded_once(tmp_path: Path, requirements: Path) -> None:
    folder = tmp_path / "home" / "wheels"
    job_wheels.fetch(folder, requirements)
    assert [path.name for path in folder.iterdir()] == ["small_thing-1.0-py3-none-any.whl"]
    job_wheels.fetch(folder, requirements, unreachable)


@pytest.mark.usefixtures("offline")
def test_a_damaged_wheel_is_downloaded_again(tmp_path: Path, requirements: Path) -> None:
    job_wheels.fetch(tmp_path / "wheels", requirements)
    path = tmp_path / "wheels" / "small_thing-1.0-py3-none-any.whl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    job_wheels.fetch(tmp_path / "wheels", requirements)
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("offline")
def test_a_wheel_with_another_digest_is_not_kept(tmp_path: Path, index: Path, requirements: Path) -> None:
    with (index / "small_thing-1.0-py3-none-any.whl").open("ab") as wheel:
        wheel.write(b"\0")
    with pytest.raises(UsageError, match="cannot be downloaded") as raised:
        job_wheels.fetch(tmp_path / "wheels", requirements)
    assert "DO NOT MATCH THE HASHES" in raised.value.why
    assert not list((tmp_path / "wheels").iterdir())


def test_what_pip_leaves_is_checked_again(tmp_path: Path, requirements: Path) -> None:
    def other(arguments: Sequence[str]) -> None:
        Path(arguments[-1], "small_thing-1.0-py3-none-any.whl").write_bytes(b"another")

    with pytest.raises(UsageError, match="the index has no small_thing"):
        job_wheels.fetch(tmp_path / "wheels", requirements, other)
    assert not list((tmp_path / "wheels").iterdir())


@pytest.mark.usefixtures("offline")
def test_without_a_network_the_message_says_what_to_copy_where(tmp_path: Path, index: Path, requirements: Path) -> None:
    (index / "small_thing-1.0-py3-none-any.whl").unlink()
    with pytest.raises(UsageError) as raised:
        job_wheels.fetch(tmp_path / "wheels", requirements)
    assert "small-thing==1.0" in raised.value.why
    assert f"-r {job_wheels.REQUIREMENTS}" in raised.value.fix
    assert str(tmp_path / "wheels") in raised.value.fix


def test_an_interpreter_without_pip_is_told_how_to_get_it(
    tmp_path: Path, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)  # how Python marks a module as missing
    with pytest.raises(UsageError, match="cannot be downloaded") as raised:
        job_wheels.fetch(tmp_path / "wheels", requirements)
    assert "has no pip" in raised.value.why
    assert "-m ensurepip" in raised.value.fix
