"""Finds the line of the user's own code in an exception's trace, or in one that was printed.

Called by `failures`, `first_cause` and `stall`. Standard library only. Whatever is neither Python's, nor installed, nor
gpuplan's is the user's.
"""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PRINTED = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<line>\d+)(?:,)? in (?P<function>[^\s]+)')
"""A frame as Python prints it, in a traceback or after a crash (faulthandler)."""
_INSTALLED = {"site-packages", "dist-packages"}
_OUR_FOLDER = Path(__file__).parent
_PYTHONS = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))


class Frame(NamedTuple):
    """A line that was being run."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{_short(self.file)}:{self.line} in {self.function}"


def of_error(error: BaseException) -> Frame | None:
    """Return the innermost line of the user's own code that an exception passed, in this process or in a worker."""
    frames = [Frame(one.filename, one.lineno or 0, one.name) for one in traceback.extract_tb(error.__traceback__)]
    # What crossed from a data-loading worker carries its trace as text.
    return _last_of_user((*frames, *printed(str(error))))


def of_crash(lines: Iterable[str]) -> Frame | None:
    """Return the innermost line of the user's own code in what faulthandler printed: its first, not its last."""
    return _last_of_user(reversed(list(printed("\n".join(lines)))))


def _last_of_user(frames: Iterable[Frame]) -> Frame | None:
    found = None
    for frame in frames:
        found = frame if _is_users(frame.file) else found
    return found


def printed(text: str) -> Iterator[Frame]:
    """Yield the frames that Python printed, in its order."""
    for match in _PRINTED.finditer(text):
        yield Frame(match["file"], int(match["line"]), match["function"])


def is_standard(file: str) -> bool:
    """Tell whether a file is Python's own."""
    path = Path(file)
    own = any(path.is_relative_to(folder) for folder in _PYTHONS)
    return file.startswith("<frozen") or (own and not _INSTALLED.intersection(path.parts))


def _is_users(file: str) -> bool:
    path = Path(file)
    if file.startswith("<") or _INSTALLED.intersection(path.parts):
        return False
    return not (path.is_relative_to(_OUR_FOLDER) or is_standard(file))


def _short(file: str) -> str:
    """Return a path as its user writes it: relative to the working folder where it lies below."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file
