"""The head of a run: its whole event log and the lease of its driver in one JSON document, `gpuplan.run-head/1`.

Written and read by `store.mirror` only, as one object, so that log and lease can only change together. Pure.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from gpuplan.core.errors import StoreError
from gpuplan.core.frozen import Frozen
from gpuplan.store.events import Event, Stored
from gpuplan.store.lease import Lease
from gpuplan.store.record import RunState, fold

if TYPE_CHECKING:
    from datetime import datetime

_SCHEMA = "gpuplan.run-head/1"


class RunHead(Frozen):
    """What a run is, for every client anywhere."""

    schema_name: Literal["gpuplan.run-head/1"] = Field(default="gpuplan.run-head/1", alias="schema")
    run_id: str
    lease: Lease
    events: tuple[Stored, ...]

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if [item.seq for item in self.events] != list(range(1, len(self.events) + 1)):
            raise ValueError("the events are not numbered 1, 2, 3, ...")
        return self

    @property
    def state(self) -> RunState:
        """The run's state."""
        return fold(self.run_id, self.events).state

    @property
    def over(self) -> bool:
        """Whether the run needs no driver as it stands."""
        return self.state in {"succeeded", "failed", "cancelled"}

    def with_event(self, event: Event, now: datetime) -> RunHead:
        """Return the head with one event more; times never go back, whichever machine's clock is off."""
        at = max([now, *(item.at for item in self.events[-1:])])
        # As it will be read again: JSON holds no None, and no tuple.
        document = Stored(seq=len(self.events) + 1, at=at, event=event).canonical_json()
        return self.model_copy(update={"events": (*self.events, Stored.model_validate_json(document))})

    def with_lease(self, lease: Lease) -> RunHead:
        """Return the head under another lease."""
        return self.model_copy(update={"lease": lease})

    def contains(self, change: RunHead, base: RunHead) -> bool:
        """Tell whether this head came out of `change`, which was made of `base`: an event more, or another lease."""
        if len(change.events) > len(base.events):
            return self.events[: len(change.events)] == change.events
        return change.lease.same_grant(self.lease)

    def to_bytes(self) -> bytes:
        """Return the document."""
        return self.canonical_json().encode()


def read_head(data: bytes, run_id: str, where: str) -> RunHead:
    """Return the head in a document.

    Raises:
        StoreError: it is damaged, another version's, or another run's.
    """
    try:
        _check_version(json.loads(data), where)
        head = RunHead.model_validate_json(data)
        fold(head.run_id, head.events)
    except (ValueError, RecursionError) as error:
        reason = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
        raise _unreadable(where, f"damaged, or of another version of gpuplan: {reason}") from error
    if head.run_id != run_id:
        raise _unreadable(where, f"it is the head of {head.run_id}")
    return head


def _check_version(raw: Any, where: str) -> None:  # noqa: ANN401 - JSON may be anything
    found = raw.get("schema") if isinstance(raw, dict) else None
    if isinstance(found, str) and found != _SCHEMA and found.startswith(_SCHEMA.rstrip("1")):
        raise StoreError(
            f"cannot read {where}: it is a {found}, this gpuplan reads {_SCHEMA}",
            why="another version of gpuplan drives the run",
            fix="pip install --upgrade gpuplan",
        )


def _unreadable(where: str, why: str) -> StoreError:
    fix = "bring an earlier version of the object back, its bucket keeps them; nothing was changed here"
    return StoreError(f"cannot read {where}", why=why, fix=fix)
