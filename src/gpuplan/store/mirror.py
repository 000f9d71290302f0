"""Runs whose every event is in an object store first: another machine can take a run up, and its old driver is fenced.

A `RunStore` whose truth is one object a run, the head, changed by compare-and-swap alone; the log on this machine is a
copy and never ahead of it. Used by the commands for runs in AWS. It never takes a run from a driver that may live.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING

from gpuplan.core.errors import GpuplanError, LockedError, StoreError, UnreachableError, UsageError
from gpuplan.core.names import did_you_mean
from gpuplan.core.objects import ConflictError
from gpuplan.store import lease, lock
from gpuplan.store.events import CancelRequested, Event, Stored
from gpuplan.store.head import RunHead
from gpuplan.store.heads import Heads
from gpuplan.store.replica import Replica
from gpuplan.store.sqlite import RunStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpuplan.core.clock import Clock
    from gpuplan.core.objects import ObjectStore
    from gpuplan.store.heads import View

_FRESH_SECONDS = 1.0
"""A driver asks for the record many times in a row: a look at the head that is younger is not repeated."""


class MirroredStore(RunStore):
    """All runs under one home folder, mirrored under `prefix` of an object store.

    A driver's events are written only inside `driving`; a cancel request may come from anybody at any time.
    """

    def __init__(self, home: Path, clock: Clock, objects: ObjectStore, prefix: str) -> None:
        super().__init__(home, clock)
        self.local = Replica(home, clock)
        """This machine's copy, for who cannot or need not look at the head."""
        self._home = home
        self._heads = Heads(objects, prefix, self.local, clock, self._fence)
        self._held: dict[str, float] = {}
        """Runs this client drives, and when (monotonic seconds) it last wrote."""

    def create(self, run_id: str, first: Event) -> None:
        """Begin a run, driven by this client.

        Raises:
            StoreError: there is such a run, or this machine's folder cannot be written.
            UnreachableError: the object store does not answer.
        """
        folder = self.folder(run_id)
        if folder.exists():
            raise _taken(run_id, str(folder))
        now = self._clock.now()
        granted = lease.nobodys(now).taken_by(self._holder, now)
        head = RunHead(run_id=run_id, lease=granted, events=()).with_event(first, now)
        self._held[run_id] = self._clock.monotonic()
        try:
            self._heads.begin(run_id, head)
        except ConflictError as error:
            self._held.pop(run_id)
            raise _taken(run_id, self._heads.locate(run_id)) from error
        except GpuplanError:
            self.release(run_id)
            shutil.rmtree(folder, ignore_errors=True)  # as in `RunStore.create`
            raise

    def append(self, run_id: str, event: Event) -> None:
        """Append an event; when this returns it is in the head and on disk.

        Raises:
            LockedError: this client does not drive the run, or no longer.
            UnreachableError: the object store does not answer; the event may be in the head all the same.
            StoreError: head or log cannot be read or written.
        """
        drives = run_id in self._held
        if not drives and not isinstance(event, CancelRequested):
            raise LockedError(f"this client does not drive {run_id}", fix=f"gpuplan resume {run_id}")

        def with_event(view: View) -> RunHead:
            now = self._clock.now()
            last = view.head.lease
            written = last.renewed_at(now) if drives else last.past_by(view.age(self._clock.monotonic()))
            return view.head.with_event(event, now).with_lease(written)

        self._heads.change(run_id, with_event)
        if drives:
            self._held[run_id] = self._clock.monotonic()

    def events(self, run_id: str) -> list[Stored]:
        """Return a run's events as the head has them, from this machine's copy, which is brought up to date.

        Raises:
            LockedError: this client drove the run until another took it over.
            UnreachableError: the object store does not answer; `local` has the copy as it is.
            StoreError: head or log cannot be read.
        """
        self._heads.look(run_id, _FRESH_SECONDS)
        return self.local.events(run_id)

    def resolve(self, prefix: str | None) -> str:
        """Return the one run that `prefix` names; one that is not on this machine is brought here.

        Raises:
            UsageError: no run matches, or more than one does.
        """
        if prefix is None or _matching(prefix, self.run_ids()):
            return super().resolve(prefix)
        heads = self.heads()
        found = _matching(prefix, heads)
        if len(found) > 1:
            raise UsageError(f"{prefix!r} matches {len(found)} runs", why=", ".join(found[-5:]), fix="the whole name")
        if not found:
            near = did_you_mean(prefix, heads[-8:]) if heads else "there are none"
            raise UsageError(f"there is no run {prefix!r}, here or in {self._heads.locate()}", why=near)
        self.adopt(found[0])
        return found[0]

    def heads(self) -> list[str]:
        """Return the ids of all runs in the object store, oldest first."""
        return self._heads.run_ids()

    def adopt(self, run_id: str) -> None:
        """Bring a run to this machine, or up to date here.

        Raises:
            UsageError: there is no such run.
            StoreError: its head cannot be read.
        """
        self._heads.look(run_id)

    @contextmanager
    def driving(self, run_id: str, *, take_over: bool = False) -> Iterator[None]:
        """Hold a run, on this machine and across machines, for as long as the block lasts.

        Args:
            run_id: the run.
            take_over: also from a driver on another machine that may still be alive; it is fenced.

        Raises:
            LockedError: another client drives it; the message says which.
        """
        if not self.local.has(run_id):
            self.adopt(run_id)
        with lock.hold(self.folder(run_id), run_id, self._clock):
            self.take(run_id, take_over=take_over)
            try:
                yield
            finally:
                self.release(run_id)

    def take(self, run_id: str, *, take_over: bool = False) -> None:
        """Take the lease unless this client has it; the caller holds the run's lock on this machine.

        Raises:
            LockedError: a client on another machine has it and wrote within the last ten minutes.
        """
        if run_id in self._held:
            return

        def taken(view: View) -> RunHead:
            driver = self._elsewhere(view)
            if driver and not take_over:
                raise LockedError(
                    f"{run_id} is being driven by {driver}",
                    why=f"one client drives a run at a time; {lease.LIMIT_SECONDS / 60:.0f} min after its last word "
                    "another machine may",
                    fix=f"gpuplan watch {run_id}    or    gpuplan resume {run_id} --take-over",
                )
            return view.head.with_lease(view.head.lease.taken_by(self._holder, self._clock.now()))

        self._heads.forget(run_id)
        self._heads.change(run_id, taken)
        self._held[run_id] = self._clock.monotonic()

    def renew(self, run_id: str) -> None:
        """Say that the driver lives if it has said nothing for two minutes; to be called while it waits.

        That the object store does not answer is no error here: the next write decides.

        Raises:
            LockedError: another client took the run over.
        """
        now = self._clock.monotonic()
        if now - self._held.get(run_id, now) < lease.RENEW_SECONDS:
            return
        with suppress(UnreachableError):
            self._heads.change(run_id, lambda view: view.head.with_lease(view.head.lease.renewed_at(self._clock.now())))
            self._held[run_id] = self._clock.monotonic()

    def release(self, run_id: str) -> None:
        """Let go of the lease so that any machine may take it at once; no error: what is not released runs out."""
        if run_id not in self._held:
            return

        def released(view: View) -> RunHead:
            return view.head.with_lease(view.head.lease.let_go_at(self._clock.now()))

        with suppress(GpuplanError):
            # A run that is over is anybody's as it is.
            if not self._heads.look(run_id, lease.RENEW_SECONDS).head.over:
                self._heads.change(run_id, released)
        self._held.pop(run_id, None)

    def driver(self, run_id: str) -> str | None:
        """Return who drives a run now, on any machine; None if nobody does."""
        view = self._heads.look(run_id, _FRESH_SECONDS)
        last = view.head.lease.holder
        if last.home == self._holder.home:
            return last.who if run_id in self._held or lock.is_held(self.folder(run_id)) else None
        return self._elsewhere(view)

    @cached_property
    def _holder(self) -> lease.Holder:
        return lease.this_client(self._home)

    def _elsewhere(self, view: View) -> str | None:
        """Return the client of another state folder that may be driving; for this one's the lock in it answers."""
        last = view.head.lease
        silent = last.silent_seconds + view.age(self._clock.monotonic())
        if last.released or last.holder.home == self._holder.home or silent > lease.LIMIT_SECONDS or view.head.over:
            return None
        return f"{last.holder.who}, since {_time(last)}, last heard of {silent:.0f} s ago"

    def _fence(self, run_id: str, head: RunHead) -> None:
        """Refuse to go on for a client that drove the run and no longer does."""
        if run_id in self._held and head.lease.holder.token != self._holder.token:
            raise lease.FencedError(
                f"fenced: {head.lease.holder.who} took {run_id} over, since {_time(head.lease)}",
                why="one client drives a run at a time; nothing more of this one is recorded",
                fix=f"gpuplan watch {run_id}    or    gpuplan status {run_id}",
                ended=head.state in {"cancelling", "cancelled"},
            )


def _time(held: lease.Lease) -> str:
    return f"{held.since:%Y-%m-%d %H:%M:%S} UTC"


def _matching(prefix: str, run_ids: list[str]) -> list[str]:
    exact = [run_id for run_id in run_ids if run_id == prefix]
    return exact or [r for r in run_ids if r.startswith(prefix) or r.rsplit("-", 1)[-1].startswith(prefix)]


def _taken(run_id: str, where: str) -> StoreError:
    return StoreError(f"there is already a run {run_id}", why=f"see {where}", fix="the same command again")
