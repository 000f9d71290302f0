"""Runs on disk: one SQLite event log a run, WAL and synchronous=FULL, so a recorded intent survives power loss.

The only module that opens a store. One file a run keeps a damaged one from hiding the others. Events are only appended.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gpuplan.core.errors import StoreError, UsageError
from gpuplan.core.names import did_you_mean
from gpuplan.store import lock
from gpuplan.store.events import EVENT, Event, Stored
from gpuplan.store.record import RunRecord, fold

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpuplan.core.clock import Clock

_LOG = "events.sqlite3"
_BUSY_SECONDS = 10.0
_TABLE = """
CREATE TABLE IF NOT EXISTS events (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    at   TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT
"""


class RunStore:
    """All runs under one home folder."""

    def __init__(self, home: Path, clock: Clock) -> None:
        self._root = home / "runs"
        self._clock = clock

    def folder(self, run_id: str) -> Path:
        """Return the folder of a run: its log, its lock, its pictures, its local jobs."""
        return self._root / run_id

    def run_ids(self) -> list[str]:
        """Return the ids of all runs, oldest first."""
        found = [path.parent.name for path in self._root.glob(f"*/{_LOG}")]
        return sorted(found, key=lambda run_id: run_id.rsplit("-", 1)[-1])

    def resolve(self, prefix: str | None) -> str:
        """Return the one run whose id, or whose last part, starts with `prefix`; None is the newest run.

        Raises:
            UsageError: no run matches, or more than one does.
        """
        runs = self.run_ids()
        if not runs:
            raise UsageError("there are no runs yet", why=f"looked in {self._root}", fix="gpuplan launch")
        if prefix is None:
            return runs[-1]
        if prefix in runs:
            return prefix
        matches = [r for r in runs if r.startswith(prefix) or r.rsplit("-", 1)[-1].startswith(prefix)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UsageError(f"{prefix!r} matches {len(matches)} runs", why=", ".join(matches[-5:]), fix="gpuplan list")
        raise UsageError(f"there is no run {prefix!r}", why=did_you_mean(prefix, runs[-8:]), fix="gpuplan list")

    def create(self, run_id: str, first: Event) -> None:
        """Begin a run's log with its first event.

        Raises:
            StoreError: the folder cannot be written.
        """
        folder = self.folder(run_id)
        with _explained(folder):
            folder.mkdir(parents=True)
            try:
                self._append(run_id, first)
            except sqlite3.DatabaseError:
                shutil.rmtree(folder, ignore_errors=True)  # a run without its plan is none, and would only look damaged
                raise

    def append(self, run_id: str, event: Event) -> None:
        """Append an event; when this returns it is on disk.

        Raises:
            StoreError: the disk is full or the log cannot be written.
        """
        with _explained(self.folder(run_id)):
            self._append(run_id, event)

    def events(self, run_id: str) -> list[Stored]:
        """Return a run's events in order.

        Raises:
            StoreError: the log is not readable or holds something else.
        """
        path = self.folder(run_id) / _LOG
        with (
            _explained(self.folder(run_id)),
            contextlib.closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection,
        ):
            # Read as it is: whatever this file turns out to be, reading must not change it.
            rows = connection.execute("SELECT seq, at, body FROM events ORDER BY seq").fetchall()
        try:
            return [
                Stored.model_validate_json(f'{{"seq": {seq}, "at": "{at}", "event": {body}}}') for seq, at, body in rows
            ]
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise _broken(path, f"event log of another version, or damaged: {where}: {first['msg']}") from error

    def record(self, run_id: str) -> RunRecord:
        """Return the record folded from a run's events.

        Raises:
            StoreError: the log is damaged.
        """
        try:
            record = fold(run_id, self.events(run_id))
            # Read here what others will: a result of another version is a damaged log, not their surprise.
            record.batch_found(), record.measured(), record.trained(), record.exit_code
        except ValueError as error:
            raise _broken(self.folder(run_id) / _LOG, str(error)) from error
        return record

    @contextlib.contextmanager
    def driving(self, run_id: str, *, take_over: bool = False) -> Iterator[None]:
        """Hold a run for as long as the block lasts; a holder on this machine is never overridden.

        Raises:
            LockedError: another client drives it; the message says which.
        """
        del take_over
        with lock.hold(self.folder(run_id), run_id, self._clock):
            yield

    def driver(self, run_id: str) -> str | None:
        """Return who drives a run now; None if nobody does."""
        return "a client on this machine" if lock.is_held(self.folder(run_id)) else None

    def renew(self, run_id: str) -> None:
        """Say that the driver lives, while it waits; here the lock says it."""

    def _append(self, run_id: str, event: Event) -> None:
        body = EVENT.dump_json(event, by_alias=True, exclude_none=True).decode()
        with self._connect(self.folder(run_id) / _LOG) as connection:
            connection.execute("INSERT INTO events (at, body) VALUES (?, ?)", (self._clock.now().isoformat(), body))

    @contextlib.contextmanager
    def _connect(self, path: Path) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(_TABLE)
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()


def _broken(path: Path, why: str) -> StoreError:
    return StoreError(
        f"cannot read {path}", why=why, fix=f"move it away, then: gpuplan list (its files stay in {path.parent})"
    )


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what SQLite and the file system say into words; nothing is deleted or repaired."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        message = str(error)
        if "locked" in message:
            raise StoreError(
                f"the run store in {folder} is busy: {message}",
                why=f"another process has been writing it for over {_BUSY_SECONDS:.0f} s",
                fix="the same command again",
            ) from error
        if "full" in message or "disk I/O" in message or "readonly" in message or "unable to open" in message:
            raise StoreError(
                f"cannot use the run store in {folder}: {message}",
                why="the disk is full or the folder is not writable (reading needs that, too); nothing was started",
                fix="free space, or: export GPUPLAN_HOME=<a writable folder>",
            ) from error
        raise _broken(folder / _LOG, message) from error
    except OSError as error:
        raise StoreError(
            f"cannot use the run store in {folder}: {error.strerror or error}",
            why="the disk is full or the folder is not writable",
            fix="free space, or: export GPUPLAN_HOME=<a writable folder>",
        ) from error
