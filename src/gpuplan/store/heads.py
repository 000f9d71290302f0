"""The heads of runs and this machine's copies of them, kept in step: every change goes to the head first.

Called by `store.mirror`, which knows who may write what. It decides nothing of a run and holds no lease.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpuplan.core.errors import StoreError, UnreachableError, UsageError
from gpuplan.core.failpoint import failpoint
from gpuplan.core.objects import ConflictError
from gpuplan.store.head import RunHead, read_head
from gpuplan.store.lease import nobodys

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuplan.core.clock import Clock
    from gpuplan.core.objects import ObjectStore
    from gpuplan.store.events import Stored
    from gpuplan.store.replica import Replica

_RUN_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""A name from the bucket becomes a folder's name here: no other may."""
_MOST_TRIES = 20


@dataclass(frozen=True)
class View:
    """A head as this client last saw it."""

    head: RunHead
    etag: str | None
    """None: there is no such object, and the head is what this machine's copy adds up to."""
    seen_at: float
    """Monotonic seconds."""
    age_seconds: float
    """How old the object was then."""

    def age(self, now: float) -> float:
        """Return for how long nobody has written, at the monotonic time `now`."""
        return self.age_seconds + now - self.seen_at


class Heads:
    """All heads under one prefix of an object store."""

    def __init__(
        self, objects: ObjectStore, prefix: str, local: Replica, clock: Clock, guard: Callable[[str, RunHead], None]
    ) -> None:
        """Begin without having seen anything; `guard` may refuse, by raising, to go on with a head that was seen."""
        self._objects = objects
        self._runs = f"{prefix}/runs/"
        self._local = local
        self._clock = clock
        self._guard = guard
        self._views: dict[str, View] = {}

    def run_ids(self) -> list[str]:
        """Return the ids of all runs that have a head, oldest first."""
        names = (name for name in self._objects.folders(self._runs) if _RUN_ID.fullmatch(name))
        return sorted(names, key=lambda run_id: run_id.rsplit("-", 1)[-1])

    def locate(self, run_id: str | None = None) -> str:
        """Return where a person finds a head, or all of them."""
        return self._objects.locate(self._key(run_id) if run_id else self._runs)

    def begin(self, run_id: str, head: RunHead) -> None:
        """Write the head of a new run, then this machine's copy.

        Raises:
            ConflictError: there is such a run.
            UnreachableError: the object store does not answer.
            StoreError: the copy cannot be written.
        """
        etag = self._objects.swap(self._key(run_id), head.to_bytes(), None)
        failpoint("aws/after-head-write")
        self._views[run_id] = View(head, etag, self._clock.monotonic(), 0.0)
        self._local.extend(run_id, head.events)

    def look(self, run_id: str, fresh_seconds: float = 0.0) -> View:
        """Return the head and bring this machine's copy up to it; a look younger than `fresh_seconds` is not repeated.

        Raises:
            UsageError: there is no such run.
            UnreachableError: the object store does not answer.
            StoreError: head or copy cannot be read, or they contradict each other.
        """
        known = self._views.get(run_id)
        if known and self._clock.monotonic() - known.seen_at < fresh_seconds:
            return known
        # The copy first: it is never ahead of the head, so what is read of the head afterwards continues it.
        copied = self._local.copied(run_id)
        view = self._fetch(run_id, known)
        if view is None:
            view = self._from_copy(run_id, copied, known)
        elif copied is None:
            self._local.set_aside(run_id)
            self._local.extend(run_id, view.head.events)
        elif view.head.events[: len(copied)] != copied:
            raise StoreError(
                f"this machine's log of {run_id} is not the beginning of the one in {self.locate(run_id)}",
                why="one of the two was changed or put back by hand; neither was touched",
                fix=f"if the bucket is right: mv {self._local.folder(run_id)} {self._local.folder(run_id)}.old",
            )
        elif len(view.head.events) > len(copied):
            self._local.extend(run_id, view.head.events)
        self._views[run_id] = view
        self._guard(run_id, view.head)
        return view

    def forget(self, run_id: str) -> None:
        """Ask for the whole head at the next look, its age included."""
        self._views.pop(run_id, None)

    def change(self, run_id: str, change: Callable[[View], RunHead]) -> None:
        """Replace a head by `change` of it: of whatever it has become, until nobody comes between.

        Raises:
            UnreachableError: the object store does not answer; the change may have been made.
            StoreError: head or copy cannot be read or written.
        """
        view = self._views.get(run_id) or self.look(run_id)
        for _ in range(_MOST_TRIES):
            self._guard(run_id, view.head)
            wanted = change(view)
            try:
                etag = self._objects.swap(self._key(run_id), wanted.to_bytes(), view.etag)
            except (ConflictError, UnreachableError) as error:
                base, view = view, self.look(run_id)
                # The reply may be what was lost, not the write; others may have written on top of it since.
                if view.head.contains(wanted, base.head):
                    return
                if isinstance(error, UnreachableError):
                    raise
            else:
                failpoint("aws/after-head-write")
                self._views[run_id] = View(wanted, etag, self._clock.monotonic(), 0.0)
                self._local.extend(run_id, wanted.events)
                return
        raise UnreachableError(
            f"cannot write {self.locate(run_id)}", why="others write it all the time", fix="the same command again"
        )

    def _fetch(self, run_id: str, known: View | None) -> View | None:
        """Return the head as it is now, None if there is none."""
        try:
            fetched = self._objects.get_with_etag(self._key(run_id), (known.etag or "") if known else "")
        except FileNotFoundError:
            return None
        now = self._clock.monotonic()
        if fetched is not None:
            head = read_head(fetched.data, run_id, self.locate(run_id))
            return View(head, fetched.etag, now, fetched.age_seconds)
        return known and View(known.head, known.etag, now, known.age(now))

    def _from_copy(self, run_id: str, copied: tuple[Stored, ...] | None, known: View | None) -> View:
        """Return the view of a run whose head is gone: what this machine knows, there again with the next write."""
        if not copied:
            raise UsageError(
                f"there is no run {run_id!r}",
                why=f"neither {self._local.folder(run_id)} nor {self.locate(run_id)} holds it",
                fix="gpuplan list",
            )
        last = known.head.lease if known else nobodys(self._clock.now())
        return View(RunHead(run_id=run_id, lease=last, events=copied), None, self._clock.monotonic(), 0.0)

    def _key(self, run_id: str) -> str:
        return f"{self._runs}{run_id}/state.json"
