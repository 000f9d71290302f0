"""The wheels that a training job installs beside its image: which ones, by digest, and how they get onto this machine.

Called by `aws.code`. pip downloads them in a process of its own; nothing of them is imported or run here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REQUIREMENTS = Path(__file__).with_name("job-requirements.txt")
_LINE = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})")
_DOWNLOAD_SECONDS = 600
_QUIETLY = ("--quiet", "--no-input", "--disable-pip-version-check", "--retries", "2")


@dataclass(frozen=True)
class Wheel:
    """A wheel for any platform; `sha256` is the hex digest of its file."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"

    def is_at(self, path: Path) -> bool:
        """Tell whether a file is this very wheel."""
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256


def locked(requirements: Path = REQUIREMENTS) -> list[Wheel]:
    """Return the wheels that a requirements file locks.

    Raises:
        ValueError: a line is not `name==version --hash=sha256:...`.
    """
    found = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            match = _LINE.fullmatch(line)
            if match is None:
                raise ValueError(f"{requirements.name}: not locked: {line}")
            found.append(Wheel(**match.groupdict()))
    return found


def fetch(folder: Path, requirements: Path = REQUIREMENTS, pip: Callable[[Sequence[str]], None] | None = None) -> None:
    """Put the locked wheels into a folder, downloading only if one is not there or is not the very wheel.

    Raises:
        UsageError: there is no pip, it cannot download, or what came is not what is locked.
    """
    wheels = locked(requirements)
    if all(wheel.is_at(folder / wheel.file) for wheel in wheels):
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Beside their place, so that a wheel appears there whole; another launch may be fetching the same ones.
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        options = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--requirement", str(requirements)]
        (pip or _pip(folder))(["download", *options, "--dest", fresh])
        for wheel in wheels:
            path = Path(fresh, wheel.file)
            if not wheel.is_at(path):
                raise UsageError(f"the index has no {wheel.file} with the digest gpuplan knows", fix=_by_hand(folder))
            path.replace(folder / wheel.file)


def _pip(folder: Path) -> Callable[[Sequence[str]], None]:
    def run(arguments: Sequence[str]) -> None:
        if importlib.util.find_spec("pip") is None:
            raise UsageError(
                "the wheels of the training job cannot be downloaded",
                why=f"{sys.executable} has no pip",
                fix=f"{sys.executable} -m ensurepip    or {_by_hand(folder)}",
            )
        command = [sys.executable, "-m", "pip", *_QUIETLY, *arguments]
        try:
            done = subprocess.run(  # noqa: S603 - this interpreter, no shell
                command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            failure = f"pip was not done after {_DOWNLOAD_SECONDS} s"
        else:
            if done.returncode == 0:
                return
            failure = _first_error(done.stderr)
        raise UsageError("the wheels of the training job cannot be downloaded", why=failure, fix=_by_hand(folder))

    return run


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["pip says nothing"]
    return next((line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")), lines[-1])


def _by_hand(folder: Path) -> str:
    return (
        f"where there is a network: pip download --no-deps --require-hashes -r {REQUIREMENTS} -d wheels    "
        f"then copy wheels/* to {folder}"
    )
