"""Who drives a run, across machines: a numbered lease that stands in the run's head, where each write meets it.

Used by `store.mirror`. On one machine the operating-system lock of `store.lock` decides, not a time.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from datetime import datetime
from typing import TYPE_CHECKING

from gpuplan.core import names
from gpuplan.core.errors import LockedError, StoreError
from gpuplan.core.frozen import Frozen
from gpuplan_job.atomic import write_atomic, write_once

if TYPE_CHECKING:
    from pathlib import Path

RENEW_SECONDS = 120.0
"""A driver that has nothing else to write renews its lease this often."""
LIMIT_SECONDS = 600.0
"""After this long without a word of its driver a run may be taken over from another machine."""

_HOME_ID = "client-id"
_ID_BYTES = 8
_ID = re.compile(rf"[0-9a-f]{{{2 * _ID_BYTES}}}")


class FencedError(LockedError):
    """This client drove the run until another took it over."""

    def __init__(self, what: str, *, why: str = "", fix: str = "", ended: bool = False) -> None:
        super().__init__(what, why=why, fix=fix)
        self.ended = ended
        """The run is cancelled by now: a job that was submitted all the same must be stopped by who submitted it."""


class Holder(Frozen):
    """A client process."""

    token: str
    """Its own: no two processes ever have the same."""
    home: str
    """Its state folder's: the operating-system lock in there speaks for all holders with the same one."""
    who: str
    """For people: user, host and process."""


class Lease(Frozen):
    """The right to drive a run."""

    number: int
    """One more with every holder."""
    holder: Holder
    since: datetime
    renewed: datetime
    """When the holder last wrote, by its own clock: for people, nothing is decided by it."""
    silent_seconds: float = 0.0
    """How long the holder had been silent when somebody else (a cancel) wrote last, by the object store's clock."""
    released: bool = False
    """Its holder let go of it."""

    def taken_by(self, holder: Holder, now: datetime) -> Lease:
        """Return the lease of the next holder."""
        return Lease(number=self.number + 1, holder=holder, since=now, renewed=now)

    def renewed_at(self, now: datetime) -> Lease:
        """Return the lease after a write of its holder."""
        return self.model_copy(update={"renewed": now, "silent_seconds": 0.0})

    def let_go_at(self, now: datetime) -> Lease:
        """Return the lease that anybody may take."""
        return self.renewed_at(now).model_copy(update={"released": True})

    def past_by(self, seconds: float) -> Lease:
        """Return the lease after a write of somebody else, `seconds` after the write before."""
        return self.model_copy(update={"silent_seconds": self.silent_seconds + seconds})

    def same_grant(self, other: Lease) -> bool:
        """Tell whether another lease is this one, at the same word of its holder."""
        return self.model_copy(update={"silent_seconds": other.silent_seconds}) == other


def nobodys(now: datetime) -> Lease:
    """Return the lease of a run that nobody is known to have driven."""
    return Lease(number=0, holder=Holder(token="", home="", who="nobody"), since=now, renewed=now, released=True)


def this_client(home: Path) -> Holder:
    """Return this process as a holder; its state folder is given an id the first time.

    Raises:
        StoreError: the folder cannot be written.
    """
    who = f"{names.owner()}@{socket.gethostname()}, process {os.getpid()}"
    return Holder(token=secrets.token_hex(_ID_BYTES), home=_home_id(home), who=who)


def _home_id(home: Path) -> str:
    path = home / _HOME_ID
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_once(path, secrets.token_hex(_ID_BYTES))
        found = path.read_text(encoding="utf-8", errors="replace").strip()
        if not _ID.fullmatch(found):
            found = secrets.token_hex(_ID_BYTES)
            write_atomic(path, found)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}",
            why="the disk is full or the folder is not writable; nothing was started",
            fix="free space, or: export GPUPLAN_HOME=<a writable folder>",
        ) from error
    return found
