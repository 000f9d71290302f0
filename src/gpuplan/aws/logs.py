"""What a training job printed: the CloudWatch streams of its hosts, line by line, each line once.

Called by the SageMaker backend. Logs are for people: a group, a stream or an answer that is missing is no line, never
an error, because the state of the job does not hang on it.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gpuplan.aws.errors import part
from gpuplan.core.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.aws.session import Session

GROUP = "/aws/sagemaker/TrainingJobs"
_ABSENT = ("ResourceNotFoundException",)
_STALE = ("InvalidParameterException",)
_HOST = re.compile(r"/algo-(\d+)")
_MOST_EMPTY_PAGES = 20
"""CloudWatch may give empty pages before full ones; a stream that gives only empty ones must not hold us for ever."""


class Logs:
    """Reads log streams; holds nothing between calls, the cursor does."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def page(self, job: str, cursor: str = "", group: str = GROUP) -> tuple[list[str], str]:
        """Return all lines of a job after `cursor`, and the cursor after them; never waits for new ones.

        Lines of one host keep their order. Those of hosts after the first begin with `[algo-2] `.

        Raises:
            CredentialsError: reading logs is not allowed.
        """
        places: dict[str, _Place] = {name: _Place(*place) for name, place in json.loads(cursor or "{}").items()}
        lines: list[str] = []
        with suppress(UnreachableError):  # throttled or offline: the cursor stands where the lines end
            for name in self._streams(group, job):
                places.setdefault(name, _Place())
            for name in sorted(places, key=_order):
                for messages in self._new(group, name, places[name]):
                    lines += (f"{_prefix(name)}{line}" for message in messages for line in _split(message))
        return lines, json.dumps({name: place.as_list() for name, place in places.items()}, separators=(",", ":"))

    def _streams(self, group: str, job: str) -> list[str]:
        """Return the job's streams: one a host, and more after a restart."""
        names: list[str] = []
        token: dict[str, str] = {}
        while True:
            request = {"logGroupName": group, "logStreamNamePrefix": f"{job}/", **token}
            reply = self._ask("describe_log_streams", _ABSENT, request)
            if reply is None:
                return names
            names += (stream["logStreamName"] for stream in part(reply, "logStreams"))
            if not reply.get("nextToken"):
                return names
            token = {"nextToken": reply["nextToken"]}

    def _new(self, group: str, stream: str, place: _Place) -> Iterator[list[str]]:
        """Yield the messages after a place, a page at a time; the place has moved past a page when it is yielded."""
        request = {"logGroupName": group, "logStreamName": stream, "startFromHead": True}
        empty = 0
        while empty < _MOST_EMPTY_PAGES:
            reply = self._ask("get_log_events", (*_ABSENT, *_STALE), request | place.start())
            if reply is None:
                # A token lives for 24 hours, the time of the newest line for ever; without either there is nothing yet.
                if not place.token:
                    return
                place.token = ""
                continue
            events, following = part(reply, "events"), part(reply, "nextForwardToken")
            at_end = following == place.token
            messages = place.take(events, following)
            if messages:
                yield messages
            if at_end:
                return
            empty = 0 if events else empty + 1

    def _ask(self, operation: str, handled: tuple[str, ...], request: dict[str, Any]) -> dict[str, Any] | None:
        """Call CloudWatch Logs; None for the codes in `handled`."""
        from botocore.exceptions import ClientError

        client = self._session.client("logs")
        try:
            with self._session.calling("read the job's log", passes=handled):
                reply: dict[str, Any] = getattr(client, operation)(**request)
        except ClientError:
            return None
        return reply


class _Place:
    """Where reading a stream stands: CloudWatch's own token, and the newest time for when the token has expired."""

    def __init__(self, token: str = "", newest_ms: int = 0, taken_then: int = 0, skip: int = 0) -> None:
        self.token = token
        self._newest_ms = newest_ms
        self._taken_then = taken_then
        """How many events of exactly that millisecond were taken."""
        self._skip = skip
        """How many of them are still to come a second time."""

    def start(self) -> dict[str, Any]:
        """Return the part of a request that says where to go on."""
        if self.token:
            return {"nextToken": self.token}
        self._skip = self._taken_then
        return {"startTime": self._newest_ms} if self._newest_ms else {}

    def take(self, events: list[dict[str, Any]], token: str) -> list[str]:
        """Move past a page, and return the messages in it that were not taken before."""
        self.token = token
        fresh = []
        for event in events:
            time_ms = event["timestamp"]
            if self._skip and time_ms == self._newest_ms:
                self._skip -= 1
                continue
            if time_ms > self._newest_ms:
                self._newest_ms, self._taken_then, self._skip = time_ms, 0, 0
            if time_ms == self._newest_ms:
                self._taken_then += 1
            fresh.append(event["message"])
        return fresh

    def as_list(self) -> list[str | int]:
        """Return what the constructor takes."""
        return [self.token, self._newest_ms, self._taken_then, self._skip]


def _split(message: str) -> list[str]:
    """Return the lines of a message: mostly one, more where the container wrote them in one go."""
    return [line.rstrip("\r") for line in message.rstrip("\r\n").split("\n")]


def _host(stream: str) -> int:
    found = _HOST.search(stream)
    return int(found[1]) if found else 0


def _order(stream: str) -> tuple[int, str]:
    """Hosts by number, and the streams of one host, whose names end in a time, in the order of its restarts."""
    return _host(stream), stream


def _prefix(stream: str) -> str:
    return f"[algo-{_host(stream)}] " if _host(stream) > 1 else ""
