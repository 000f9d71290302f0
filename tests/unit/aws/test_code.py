from __future__ import annotations

import hashlib
import io
import zipfile
from typing import TYPE_CHECKING

import pytest

from gpuplan.aws import code
from gpuplan.core import payload

if TYPE_CHECKING:
    from pathlib import Path


class MemoryBucket:
    """Objects in memory; `breaks_after` writes, the connection is gone."""

    def __init__(self, breaks_after: int | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.written: list[str] = []
        self.breaks_after = breaks_after

    def head(self, key: str) -> bool:
        return key in self.objects

    def put_once(self, key: str, data: bytes) -> bool:
        if len(self.written) == self.breaks_after:
            raise ConnectionError
        if key in self.objects:
            return False
        self.written.append(key)
        self.objects[key] = data
        return True


WHEELS = {"one-1.0-py3-none-any.whl": b"1", "two_parts-2.0-py3-none-any.whl": b"2"}


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder that the wheels of `lock` were downloaded into."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, content in WHEELS.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "lock.txt"
    digests = [hashlib.sha256(content).hexdigest() for content in WHEELS.values()]
    path.write_text(f"one==1.0 --hash=sha256:{digests[0]}\ntwo-parts==2.0 --hash=sha256:{digests[1]}\n")
    return path


def lr_folder(prefix: str = "gpuplan") -> str:
    return f"{prefix}/code/{code.digest(wheels=False)}/"


def test_the_digest_is_known_without_a_wheel_and_names_the_folder() -> None:
    bucket = MemoryBucket()
    code.upload(wheels=None, bucket=bucket, prefix="team/gpuplan")
    assert bucket.written == [f"team/gpuplan/code/{code.digest(wheels=False)}/payload.pyz"]


def test_what_is_uploaded_is_the_payload_that_python_runs() -> None:
    bucket = MemoryBucket()
    code.upload(wheels=None, bucket=bucket, prefix="gpuplan")
    content = bucket.objects[f"{lr_folder()}payload.pyz"]
    assert content == payload.archive()
    assert "__main__.py" in zipfile.ZipFile(io.BytesIO(content)).namelist()


def test_a_training_and_an_lr_search_have_folders_of_their_own() -> None:
    assert code.digest(wheels=True) != code.digest(wheels=False)
    assert code.digest(wheels=True) == code.digest(wheels=True)


def test_code_that_is_there_is_not_sent_again() -> None:
    bucket = MemoryBucket()
    for _ in range(2):
        code.upload(wheels=None, bucket=bucket, prefix="gpuplan")
    assert len(bucket.written) == 1


def test_a_training_gets_its_wheels_beside_their_lock_and_the_payload_last(wheels: Path, lock: Path) -> None:
    bucket = MemoryBucket()
    code.upload(wheels=wheels, bucket=bucket, prefix="gpuplan", lock=lock)
    folder = f"gpuplan/code/{code.digest(wheels=True, lock=lock)}/"
    assert set(bucket.written) == {
        f"{folder}payload.pyz",
        f"{folder}wheels/requirements.txt",
        *(f"{folder}wheels/{name}" for name in WHEELS),
    }
    assert bucket.written[-1] == f"{folder}payload.pyz"
    assert bucket.objects[f"{folder}wheels/requirements.txt"] == lock.read_bytes()
    assert bucket.objects[f"{folder}wheels/two_parts-2.0-py3-none-any.whl"] == b"2"


@pytest.mark.parametrize("writes", range(4))
def test_an_upload_that_breaks_off_is_completed_by_the_next(wheels: Path, lock: Path, writes: int) -> None:
    bucket = MemoryBucket(breaks_after=writes)
    with pytest.raises(ConnectionError):
        code.upload(wheels=wheels, bucket=bucket, prefix="gpuplan", lock=lock)
    assert not [key for key in bucket.objects if key.endswith("payload.pyz")]
    bucket.breaks_after = None
    code.upload(wheels=wheels, bucket=bucket, prefix="gpuplan", lock=lock)
    assert len(bucket.written) == len(set(bucket.written)) == 4


def test_another_lock_is_another_folder(lock: Path) -> None:
    before = code.digest(wheels=True, lock=lock), code.digest(wheels=False, lock=lock)
    lock.write_text(lock.read_text().replace("1.0", "1.1"))
    assert code.digest(wheels=True, lock=lock) != before[0]
    assert code.digest(wheels=False, lock=lock) == before[1]


def test_a_training_whose_code_is_there_needs_no_wheel_on_this_machine(tmp_path: Path, lock: Path) -> None:
    bucket = MemoryBucket()
    bucket.objects[f"gpuplan/code/{code.digest(wheels=True, lock=lock)}/payload.pyz"] = payload.archive()
    code.upload(wheels=tmp_path / "none", bucket=bucket, prefix="gpuplan", lock=lock)
    assert not bucket.written
    assert not (tmp_path / "none").exists()
