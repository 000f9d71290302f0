"""What a job leaves under its S3OutputPath: model.tar.gz and output.tar.gz. Called by `job_run` at the end."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, Any

from gpuplan.testing.request_rules import s3_location

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def upload(s3: Any, output_path: str, job: str, name: str, folders: Sequence[Path], scratch: Path) -> str:  # noqa: ANN401 -- a boto3 client
    """Pack the folders of all hosts into one archive and upload it; return its URI, or "" if they are empty."""
    contents = [entry for folder in folders for entry in sorted(folder.iterdir())]
    if not contents:
        return ""
    archive = scratch / name
    with tarfile.open(archive, "w:gz") as tar:
        for entry in contents:
            tar.add(entry, entry.name)
    bucket, prefix = s3_location(output_path)
    key = "/".join(part for part in (prefix.rstrip("/"), job, "output", name) if part)
    s3.put_object(Bucket=bucket, Key=key, Body=archive.read_bytes())
    return f"s3://{bucket}/{key}"
