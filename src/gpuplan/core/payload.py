"""The code that will run in the job: its digest, by which a plan names it, and the archive that a container runs.

Called by `planning` and by the backends that ship the code; it reads the installed payload package, never writes.
"""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import gpuplan_job

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEFT_OUT = {"__pycache__"}
_BOOTSTRAP = "bootstrap.py"
_MAIN = "__main__.py"
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip can tell; when a file was last changed must not change the archive."""
_UNIX = 3
_MODE = (stat.S_IFREG | 0o644) << 16


def folder() -> Path:
    """Return the payload package's folder."""
    return Path(gpuplan_job.__file__).parent


def digest(root: Path | None = None) -> str:
    """Return the hex sha256 over names and contents of the payload's files, sorted; compiled files left out."""
    total = hashlib.sha256()
    for name, content in _files(root or folder()):
        encoded = name.encode()
        total.update(len(encoded).to_bytes(4, "big") + encoded + hashlib.sha256(content).digest())
    return total.hexdigest()


def archive(root: Path | None = None) -> bytes:
    """Return the payload as a zip that `python3` runs: the package, and its bootstrap as the archive's main program.

    The same files give the same bytes on any machine: nothing is compressed, because what zlib makes of a file differs
    between its builds.
    """
    base = root or folder()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        _add(target, _MAIN, (base / _BOOTSTRAP).read_bytes())
        for name, content in _files(base):
            _add(target, f"{gpuplan_job.__name__}/{name}", content)
    return buffer.getvalue()


def _files(base: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(base.rglob("*")):
        name = path.relative_to(base)
        if path.is_file() and not _LEFT_OUT.intersection(name.parts):
            yield name.as_posix(), path.read_bytes()


def _add(target: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EARLIEST)
    entry.create_system = _UNIX
    entry.external_attr = _MODE
    target.writestr(entry, content)
