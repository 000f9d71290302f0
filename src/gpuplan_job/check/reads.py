"""Notices which files a user's code opens that did not come with it: what they say may change, and a job may lack them.

Used by `steps`. It listens to Python's audit events, so it sees what Python opens and not what a C library does.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_EVENTS = {"open", "os.listdir", "os.scandir"}
_SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib32", "/lib64", "/opt/ml")
_MOST = 5000
"""Files that are remembered; a data set of more is known by its first ones and by its folders."""
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


class Reads:
    """The files and folders opened while it listens; made once a process, because an audit hook cannot be removed."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._blocks: list[dict[str, None]] = []
        # Whoever shows a trace or a warning reads their lines; what the user's code imports comes later.
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        self._loaded = {Path(name).resolve() for name in files if isinstance(name, str)}
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._blocks and event in _EVENTS and arguments and len(self._names) < _MOST:
            name = arguments[0]
            if isinstance(name, str | bytes | os.PathLike):
                path = os.path.abspath(os.fsdecode(name))  # noqa: PTH100 - a hook must be quick
                for opened in (self._names, *self._blocks):
                    opened[path] = None

    @contextmanager
    def listening(self) -> Iterator[dict[str, None]]:
        """Remember what is opened in the block, each once and in order; blocks may lie in each other."""
        opened: dict[str, None] = {}
        self._blocks.append(opened)
        try:
            yield opened
        finally:
            self._blocks = [block for block in self._blocks if block is not opened]

    def outside(self, code: Path, system: Iterable[str] = _SYSTEM) -> dict[str, list[int]]:
        """Return what still exists of it outside code, Python, `system` and the caches: size, time of change."""
        own = [Path(path).resolve() for path in (sys.prefix, sys.base_prefix, *site.getsitepackages())]
        own += [Path(path).resolve() for path in sysconfig.get_paths().values()]
        own += [Path(name).expanduser().resolve() for name in ("~/.cache", "~/.config")]
        own += [code.resolve(), Path(__file__).resolve().parents[1], *map(Path, system)]
        searched = {Path(entry).resolve() for entry in sys.path}  # Python itself lists them to find a module
        found: dict[str, list[int]] = {}
        for name in self._names:
            path = Path(name).resolve()
            if path in searched or path in self._loaded or not path.exists():
                continue
            if any(path.is_relative_to(root) for root in own):
                continue
            seen = path.stat()
            found[str(path)] = [seen.st_size, seen.st_mtime_ns]
        return found


def stored(names: Iterable[str], looked_at: int, samples: int) -> tuple[float, bool]:
    """Return bytes that are stored for a sample, and whether it is a picture that has to be decoded.

    `names` are what `looked_at` of all `samples` opened: a file each, or fewer files that then hold all of them.
    """
    files = [path for name in names if (path := Path(name)).is_file() and path.suffix not in {".py", ".pyc"}]
    total = sum(path.stat().st_size for path in files)
    pictures = any(path.suffix.lower() in _PICTURES for path in files)
    return total / (looked_at if len(files) >= looked_at else samples), pictures
