"""How a launcher asks a training to save and end: one file in the job's folder, made by the training, filled by it.

Called by `launch` and `checkpoints`. Standard library only. It is a file and no signal, because a SIGTERM from torchrun
means that a sibling is gone: then nothing can be agreed on any more, and a rank must go at once.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_FILE = "stop-request"
_PERIOD_SECONDS = 0.05


class StopRequest:
    """A training's side: it listens from `listen` to `close`, on every machine of the job."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / _FILE
        self._clock = clock
        self._asked = False
        self._looked = -_PERIOD_SECONDS

    def listen(self) -> None:
        """Let the launcher know that it may ask.

        Raises:
            OSError: the folder cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(b"")  # what asked an earlier process is answered

    def close(self) -> None:
        """Let the launcher know that nobody will answer any more."""
        self._path.unlink(missing_ok=True)

    def asked(self) -> bool:
        """Return whether the launcher asked; it looks at the disk a few times a second at most."""
        if not self._asked and (now := self._clock()) - self._looked >= _PERIOD_SECONDS:
            self._looked = now
            with suppress(FileNotFoundError):
                self._asked = self._path.stat().st_size > 0
        return self._asked


def clear(folder: Path) -> None:
    """Forget a training that has ended: nobody listens until the next one does."""
    (folder / _FILE).unlink(missing_ok=True)


def ask(folder: Path) -> bool:
    """Ask the training of a job's folder to save and end; return whether there is one that listens."""
    try:
        with (folder / _FILE).open("r+b") as file:
            file.write(b"stop\n")
    except OSError:
        return False
    return True
