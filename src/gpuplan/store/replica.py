"""This machine's copy of runs whose truth lies elsewhere: events come with their place and time, in order, only once.

Used by `store.mirror`. It never invents an event and never deletes a log.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gpuplan.core.errors import StoreError
from gpuplan.store.events import EVENT, Stored
from gpuplan.store.sqlite import _LOG, RunStore, _explained

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PRIMARY = 0xFF
"""The part of SQLite's extended error codes that names the kind."""
_BEING_MADE_SECONDS = 0.2


class Replica(RunStore):
    """Runs on disk, written by copying."""

    def has(self, run_id: str) -> bool:
        """Tell whether there is a log of the run, readable or not."""
        return self._log(run_id).exists()

    def copied(self, run_id: str) -> tuple[Stored, ...] | None:
        """Return the events that were copied so far, none without a log; None if the log is damaged.

        Raises:
            StoreError: the log cannot be read just now, or this machine's disk refuses.
        """
        if not self.has(run_id) or self._log(run_id).stat().st_size == 0:
            return ()
        found = self._read(run_id)
        if found is None:
            self._clock.sleep(_BEING_MADE_SECONDS)  # another process may be making it: that takes an instant
            found = self._read(run_id)
        return found

    def extend(self, run_id: str, events: Sequence[Stored]) -> None:
        """Copy those of a run's events, given from the first on, that are not here yet.

        Raises:
            StoreError: the disk is full or the log cannot be written.
        """
        with _explained(self.folder(run_id)):
            self.folder(run_id).mkdir(parents=True, exist_ok=True)
            with self._connect(self._log(run_id)) as connection:
                # Another process of this machine may have copied some since.
                (here,) = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM events").fetchone()
                rows = [(item.seq, item.at.isoformat(), _body(item)) for item in events[here:]]
                connection.executemany("INSERT INTO events (seq, at, body) VALUES (?, ?, ?)", rows)

    def set_aside(self, run_id: str) -> Path:
        """Move a damaged log out of the way, and return where it lies now.

        Raises:
            StoreError: the folder cannot be written.
        """
        path = self._log(run_id)
        with _explained(self.folder(run_id)):
            number = 1 + len(list(path.parent.glob(f"{_LOG}.damaged-*")))
            aside = path.with_name(f"{_LOG}.damaged-{number}")
            # SQLite's own companions go along: they would be applied to the next log of this name.
            for suffix in ("-wal", "-shm"):
                companion = path.with_name(f"{_LOG}{suffix}")
                if companion.exists():
                    companion.rename(aside.with_name(f"{aside.name}{suffix}"))
            path.rename(aside)
        return aside

    def _log(self, run_id: str) -> Path:
        return self.folder(run_id) / _LOG

    def _read(self, run_id: str) -> tuple[Stored, ...] | None:
        try:
            return tuple(self.events(run_id))
        except StoreError as error:
            if _is_damage(error.__cause__):
                return None
            raise


def _body(item: Stored) -> str:
    return EVENT.dump_json(item.event, by_alias=True, exclude_none=True).decode()


def _is_damage(cause: BaseException | None) -> bool:
    """Tell a log that is no log from one that is only busy, full or out of reach."""
    if isinstance(cause, sqlite3.DatabaseError):
        code = getattr(cause, "sqlite_errorcode", None)
        kinds = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
        return code is not None and code & _PRIMARY in kinds
    return isinstance(cause, ValidationError)
