"""Runs one process of a job and sees it to its end: `python -m gpuplan_job.rank RANKS_FOLDER MODULE ARGUMENT...`.

Started by the launcher, or by its torchrun once a rank. It passes the process's output on, line by line and with the
rank before it where there are several, passes signals on, and writes how the process ended and what it printed last:
a process that is killed cannot say so itself. Standard library only; it must cost a training nothing, so it sleeps
until there is something to pass on.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar

from gpuplan_job import process_tree
from gpuplan_job.atomic import write_atomic
from gpuplan_job.contract import PROGRESS_PREFIX
from gpuplan_job.document import ContractError, Document
from gpuplan_job.process import Process

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

KEPT_LINES = 20
_LINE_CHARACTERS = 400
"""Of a kept line; a longer one is cut, with a sign."""
_LONGEST_LINE = 1 << 16
"""Bytes that are held back for want of a line's end: a progress bar may never end its line."""
_CHUNK = 1 << 16
_SUFFIX = ".end.json"
_WHAT = b"what():"
"""How C++ begins to tell an exception that nobody caught, before it aborts."""
_PROGRESS = PROGRESS_PREFIX.encode()


@dataclass(frozen=True)
class RankEnd(Document):
    """How a rank's process ended."""

    SCHEMA: ClassVar[str] = "gpuplan.rank-end/1"

    rank: int
    code: int
    """Its exit code; negative: the signal that ended it."""
    at: float
    """Seconds since the epoch."""
    stopped: bool
    """It had been asked to stop before it ended."""
    last_lines: list[str]
    """What it printed last to stdout and stderr, oldest first, without progress."""
    thrown: str = ""
    """What a C++ exception said that nobody caught; the trace that follows it pushes it out of the last lines."""


def main(arguments: Sequence[str]) -> int:
    """Run the module `arguments[1]` with the arguments after it, report its end in the folder `arguments[0]`."""
    folder, module, *rest = arguments
    process = Process.from_environment(os.environ)
    prefix = f"[rank {process.rank}] ".encode() if process.world_size > 1 else b""
    child = subprocess.Popen(  # noqa: S603 - our own modules
        [sys.executable, "-m", module, *rest],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A group of its own: who signals this process's group must not reach the child twice.
        process_group=0,
        preexec_fn=process_tree.die_with_parent,  # noqa: PLW1509 - this process has one thread yet
    )
    asked = _pass_signals_on(child)
    output = _Output(prefix)
    code = output.follow(child)
    end = RankEnd(process.rank, code, time.time(), asked.is_set(), output.last_lines(), output.thrown())
    with suppress(OSError):  # a full disk: the launcher looks at it
        Path(folder).mkdir(exist_ok=True)
        write_atomic(Path(folder, f"{process.rank}{_SUFFIX}"), end.to_json())
    return code if code >= 0 else 128 - code


def read(folder: Path) -> list[RankEnd]:
    """Return the ends that were reported in a folder, in the order of the ranks."""
    found = []
    for path in folder.glob(f"*{_SUFFIX}"):
        with suppress(OSError, ContractError):
            found.append(RankEnd.from_json(path.read_bytes()))
    return sorted(found, key=lambda end: end.rank)


def all_over(folder: Path, processes: int) -> bool:
    """Tell whether so many ranks have ended, one of them badly: nothing is left to wait for."""
    if sum(1 for _ in folder.glob(f"*{_SUFFIX}")) < processes:
        return False
    return any(end.code for end in read(folder))


def _pass_signals_on(child: subprocess.Popen[bytes]) -> threading.Event:
    """Hand a request to stop on to the child; return what tells whether there was one."""
    asked = threading.Event()

    def hand_on(number: int, frame: FrameType | None) -> None:
        del frame
        asked.set()
        with suppress(ProcessLookupError):
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_on)
    return asked


class _Output:
    """Passes what a process prints on, and keeps the last of it."""

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._last: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._held: dict[int, bytes] = {}
        self._thrown = b""

    def follow(self, child: subprocess.Popen[bytes]) -> int:
        """Pass everything on until the process ends, and return its code.

        Its own children may hold the pipes open for longer: what they print then is left.
        """
        ended, end_writer = os.pipe()

        def wait() -> None:
            child.wait()
            os.write(end_writer, b".")

        threading.Thread(target=wait, daemon=True).start()
        with selectors.DefaultSelector() as selector:
            for stream, target in ((child.stdout, 1), (child.stderr, 2)):
                _open(selector, stream, target)
            selector.register(ended, selectors.EVENT_READ)
            while any(key.data is not None for key in selector.get_map().values()):
                ready = selector.select()
                for key, _ in ready:
                    if key.data is not None and not self._pass_on(key.fd, key.data):
                        selector.unregister(key.fileobj)
                # Only once nothing is left in the pipes: what a process says last matters most.
                if ready and all(key.data is None for key, _ in ready):
                    break
        for target, rest in self._held.items():
            if rest:
                self._write(self._marked(rest), target)
        return child.wait()

    def last_lines(self) -> list[str]:
        """Return the newest lines as text."""
        return [_cut(line.decode(errors="replace")) for line in self._last]

    def thrown(self) -> str:
        """Return what an uncaught C++ exception said, empty where there was none."""
        return _cut(self._thrown.partition(_WHAT)[2].decode(errors="replace").strip())

    def _pass_on(self, source: int, target: int) -> bool:
        """Pass on what a pipe holds; False at its end."""
        try:
            chunk = os.read(source, _CHUNK)
        except BlockingIOError:
            return True
        if not chunk:
            return False
        text = self._held.get(target, b"") + chunk
        *lines, rest = text.split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._held[target] = rest
        for line in lines:
            # One write a line: those of several ranks then do not mix in the middle of one.
            self._write(self._marked(line), target)
        return True

    def _marked(self, line: bytes) -> bytes:
        """Keep a line, and return it as it is passed on: one of progress as it is, for who reads it."""
        if line.startswith(_PROGRESS):
            return line + b"\n"
        if line.strip():
            self._last.append(line)
        if _WHAT in line:
            self._thrown = line
        return self._prefix + line + b"\n"

    @staticmethod
    def _write(text: bytes, target: int) -> None:
        with suppress(OSError):  # nobody reads it any more: no reason to stop a training
            while text:
                text = text[os.write(target, text) :]


def _open(selector: selectors.BaseSelector, stream: IO[bytes] | None, target: int) -> None:
    if stream is not None:
        os.set_blocking(stream.fileno(), False)
        selector.register(stream, selectors.EVENT_READ, target)


def _cut(line: str) -> str:
    return line if len(line) <= _LINE_CHARACTERS else f"{line[:_LINE_CHARACTERS]} ..."


if __name__ == "__main__":
    process_tree.die_with_parent()
    sys.exit(main(sys.argv[1:]))
