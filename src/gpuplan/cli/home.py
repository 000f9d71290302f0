"""Where gpuplan keeps its state, and the store that reads it. Called by every command that knows of runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from gpuplan.core.errors import UsageError

if TYPE_CHECKING:
    from gpuplan.store.sqlite import RunStore


def home() -> Path:
    """Return the state folder: GPUPLAN_HOME, else the platform's own.

    Raises:
        UsageError: GPUPLAN_HOME names a file.
    """
    named = os.environ.get("GPUPLAN_HOME")
    try:
        path = Path(named).expanduser() if named else platformdirs.user_state_path("gpuplan")
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is not a folder", why="gpuplan keeps its runs there", fix="unset GPUPLAN_HOME")
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, nobody's home, a NUL
        raise UsageError(f"cannot use GPUPLAN_HOME={named!r}", why=str(error), fix="unset GPUPLAN_HOME") from error


def store() -> RunStore:
    """Return the store of this machine's runs."""
    # `plan` asks for `home` alone and should not pay for the store.
    from gpuplan.core.clock import SystemClock
    from gpuplan.store.sqlite import RunStore

    return RunStore(home(), SystemClock())
