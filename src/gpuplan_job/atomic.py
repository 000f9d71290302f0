"""Files that are there whole or not at all: a temporary in the same folder, fsync, then a rename.

Every process of a job writes its results with it. It must stay standard library only, the launcher imports it.
"""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_atomic(path: Path, text: str | bytes) -> None:
    """Write a text (UTF-8) or bytes to `path`, replacing what is there; a reader never sees a part of it.

    Raises:
        OSError: the folder cannot be written; nothing is left behind.
    """
    temporary = _write_beside(path, text)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_once(path: Path, text: str) -> bool:
    """Write a text (UTF-8) to `path` unless it exists; return whether this call wrote it. The first writer wins.

    Raises:
        OSError: the folder cannot be written; nothing is left behind.
    """
    temporary = _write_beside(path, text)
    try:
        # A hard link fails where the name exists, and the name never shows half a file.
        link_or_copy(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def link_or_copy(source: Path, path: Path) -> None:
    """Give a whole file a second name; where the filesystem knows no hard links (exFAT, many FUSE mounts), copy it.

    Raises:
        FileExistsError: `path` exists.
        OSError: neither can be done.
    """
    try:
        os.link(source, path)
    except FileExistsError:
        raise
    except OSError:
        with source.open("rb") as original, path.open("xb") as copy:
            shutil.copyfileobj(original, copy)
            copy.flush()
            os.fsync(copy.fileno())


def sync_file(path: Path) -> None:
    """Return once the bytes of a file are on its disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Return once the names in a folder are on its disk: without it a rename may be lost with the power."""
    sync_file(folder)


def _write_beside(path: Path, text: str | bytes) -> Path:
    content = text.encode() if isinstance(text, str) else text
    # The ids keep ranks and threads apart that write the same name at the same time.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
