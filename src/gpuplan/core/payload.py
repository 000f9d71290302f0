"""The code that will run in the job, and its digest: a plan names the very payload it was made for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import gpuplan_job

_LEFT_OUT = {"__pycache__"}


def folder() -> Path:
    """Return the payload package's folder."""
    return Path(gpuplan_job.__file__).parent


def digest(root: Path | None = None) -> str:
    """Return the hex sha256 over names and contents of the payload's files, sorted; compiled files left out."""
    base = root or folder()
    total = hashlib.sha256()
    for path in sorted(base.rglob("*")):
        if path.is_file() and not _LEFT_OUT.intersection(path.parts):
            name = path.relative_to(base).as_posix().encode()
            content = hashlib.sha256(path.read_bytes()).digest()
            total.update(len(name).to_bytes(4, "big") + name + content)
    return total.hexdigest()
