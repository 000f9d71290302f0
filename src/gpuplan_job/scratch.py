"""Where a job's processes put temporary files: on the filesystem of its results, under a path short enough for sockets.

Called by `launch`. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_PATH = 64
"""Bytes. Data-loading workers bind sockets 33 bytes deeper, and a socket's path holds about 100: past it they hang."""


@contextmanager
def folder(job_folder: Path) -> Iterator[Path]:
    """Make a folder for temporary files, to be set as TMPDIR; it is removed afterwards with all that is in it.

    Raises:
        OSError: it cannot be made.
    """
    real = job_folder / "tmp"
    real.mkdir(exist_ok=True)
    try:
        if len(os.fsencode(real)) <= LONGEST_PATH:
            yield real
            return
        with tempfile.TemporaryDirectory(prefix="gpuplan-") as short:
            link = Path(short, "t")
            link.symlink_to(real, target_is_directory=True)
            yield link
    finally:
        shutil.rmtree(real, ignore_errors=True)
