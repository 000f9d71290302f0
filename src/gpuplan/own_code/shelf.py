"""Where archives of users' code are kept: by digest, below gpuplan's home, for as long as their runs may go on.

Called by the command line, which puts them there, and by the backends, which send them. A resumed run sends the very
code that it was planned with, whatever has become of the folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError
from gpuplan_job.atomic import write_atomic
from gpuplan_job.document import sha256_hex

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "code"


def keep(home: Path, sha256: str, archive: bytes) -> Path:
    """Keep an archive and return its path.

    Raises:
        UsageError: the disk refuses.
    """
    path = place(home, sha256)
    try:
        if not path.exists() or sha256_hex(path.read_bytes()) != sha256:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, archive)
    except OSError as error:
        raise UsageError(
            "your code cannot be kept", why=f"{path}: {error.strerror or error}", fix="free space, or set GPUPLAN_HOME"
        ) from error
    return path


def taken(home: Path, sha256: str) -> bytes:
    """Return the archive of that digest.

    Raises:
        UsageError: it is not there, or damaged.
    """
    path = place(home, sha256)
    try:
        archive = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the code of this run is not on this machine: {sha256[:10]}",
            why=f"{path}: {error.strerror or error}",
            fix="resume where it was launched, or launch again from the folder of the code",
        ) from error
    if sha256_hex(archive) != sha256:
        raise UsageError(f"{path} is damaged", fix="launch again from the folder of the code: it is written anew")
    return archive


def place(home: Path, sha256: str) -> Path:
    """Return where the archive of a digest lies."""
    return home / FOLDER / f"{sha256}.zip"
