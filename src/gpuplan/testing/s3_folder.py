"""Folders and S3 prefixes: a channel's download, a checkpoint folder's restore and its mirror while a job runs.

Used by the executor; talks to moto over HTTP as the platform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan.testing.request_rules import s3_location

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def download(s3: Any, uri: str, folder: Path) -> int:  # noqa: ANN401 -- a boto3 client
    """Write every object under an S3 URI into a folder, as SageMaker names them; return how many there were."""
    bucket, prefix = s3_location(uri)
    count = 0
    for key in _keys(s3, bucket, prefix):
        count += 1
        if key.endswith("/"):
            continue
        path = folder / _local_name(key, prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    return count


def _keys(s3: Any, bucket: str, prefix: str) -> Iterator[str]:  # noqa: ANN401
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            yield entry["Key"]


def _local_name(key: str, prefix: str) -> str:
    """Return a key relative to its prefix as a folder; a prefix may also end within a name, or be one object."""
    folder = prefix.rstrip("/") + "/"
    if prefix and key != prefix and key.startswith(folder):
        return key.removeprefix(folder)
    return key.removeprefix(prefix.rpartition("/")[0]).lstrip("/")


class Mirror:
    """One way from a folder to an S3 URI: new and changed files go up, nothing is deleted there."""

    def __init__(self, s3: Any, uri: str, folder: Path) -> None:  # noqa: ANN401
        self._s3 = s3
        self._bucket, prefix = s3_location(uri)
        self._prefix = prefix.rstrip("/")
        self._folder = folder
        self._sent: dict[str, tuple[int, int, int]] = {}

    def restore(self) -> None:
        """Fill the folder from S3; what came down does not go up again."""
        download(self._s3, f"s3://{self._bucket}/{self._prefix}{'/' if self._prefix else ''}", self._folder)
        self._sent = dict(self._changed())

    def sync(self) -> None:
        """Send what changed since the last time. A file that goes away meanwhile is not sent."""
        for name, stamp in list(self._changed()):
            try:
                data = (self._folder / name).read_bytes()
            except OSError:
                continue
            self._s3.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}".lstrip("/"), Body=data)
            self._sent[name] = stamp

    def _changed(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        for path in sorted(self._folder.rglob("*")):
            try:
                if not path.is_file():
                    continue
                status = path.stat()
            except OSError:
                continue
            name = path.relative_to(self._folder).as_posix()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._sent.get(name) != stamp:
                yield name, stamp
