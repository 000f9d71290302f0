"""Writes the tar shards that tests of WebDatasets read: members in order, images by colour."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def png(grey: int, side: int = 8) -> bytes:
    """Return an image file of one grey."""
    content = io.BytesIO()
    Image.new("RGB", (side, side), (grey, grey, grey)).save(content, "PNG")
    return content.getvalue()


def write(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write a shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def samples(numbers: Iterable[int], classes: int = 2) -> list[tuple[str, bytes]]:
    """Return the members of samples: sample n is of class n modulo `classes`, and of grey n."""
    return [
        member
        for number in numbers
        for member in (
            (f"{number:06}.png", png(number % 256)),
            (f"{number:06}.cls", str(number % classes).encode()),
        )
    ]
