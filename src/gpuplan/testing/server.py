"""The HTTP side: one WSGI application in front of moto that counts calls, applies faults and routes, on loopback.

Started and stopped by the emulator. Training jobs, SageMaker's quotas and prices are answered here, all else by moto.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Protocol

from gpuplan.testing import wire
from gpuplan.testing.clients import regions
from gpuplan.testing.cloudformation import CloudFormation
from gpuplan.testing.errors import ApiError
from gpuplan.testing.replies import Reply, error_reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpuplan.testing.buckets import BucketOwners
    from gpuplan.testing.wire_faults import Rule, WireFaults

    StartResponse = Callable[..., Any]


class Api(Protocol):
    """A part of AWS that the emulator answers itself."""

    def handles(self, call: wire.Incoming) -> bool:
        """Tell whether a call is this part's."""

    def answer(self, call: wire.Incoming) -> dict[str, Any] | Reply:
        """Return the result document, or the whole reply of a service that speaks no JSON, or raise ApiError."""


@dataclass
class Front:
    """The WSGI application."""

    moto: Callable[..., Any]
    faults: WireFaults
    apis: Sequence[Api] = ()
    buckets: BucketOwners | None = None
    calls: list[wire.Call] = field(default_factory=list)
    _cloudformation: CloudFormation = field(default_factory=CloudFormation)
    _lock: Lock = field(default_factory=Lock)
    _s3_writes: Lock = field(default_factory=Lock)
    """S3 decides conditional writes one after the other; moto looks and writes in two steps."""

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        """Answer one request."""
        call = wire.read(environ)
        if call.region not in regions():
            _cut(environ)  # on AWS no server has such a name
        environ["HTTP_X_MOTO_ACCOUNT_ID"] = call.account
        rule = None if call.from_platform else self._meet(call)
        refusal = rule.answer(call) if rule else None
        reply = error_reply(call.service, refusal) if refusal else self._answer(call, environ)
        if rule is not None and rule.kind == "lose":
            _cut(environ)
        if rule is not None and rule.kind == "garbage":
            reply = reply.with_body(reply.body[: len(reply.body) // 2] if rule.body is None else rule.body)
        start_response(reply.status, reply.headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [reply.body]

    def counted(self) -> list[wire.Call]:
        """Return the calls so far."""
        with self._lock:
            return list(self.calls)

    def close(self) -> None:
        """Leave moto as it was found."""
        self._cloudformation.close()

    def _meet(self, call: wire.Incoming) -> Rule | None:
        with self._lock:
            self.calls.append(call.call())
        seconds, rule = self.faults.due(call)
        time.sleep(seconds)
        return rule

    def _answer(self, call: wire.Incoming, environ: dict[str, Any]) -> Reply:
        try:
            for api in self.apis:
                if api.handles(call):
                    found = api.answer(call)
                    return found if isinstance(found, Reply) else json_reply(found)
            if self.buckets and not call.from_platform:
                self.buckets.check(call, environ.get("HTTP_X_AMZ_EXPECTED_BUCKET_OWNER"))
        except ApiError as error:
            return error_reply(call.service, error)
        if call.service == "cloudformation":
            self._cloudformation.mend()
        if call.service == "s3" and environ["REQUEST_METHOD"] != "GET":
            with self._s3_writes:
                return self._from_moto(environ)
        return self._from_moto(environ)

    def _from_moto(self, environ: dict[str, Any]) -> Reply:
        began: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _failure: object = None) -> None:
            began[:] = [status, headers]

        parts = self.moto(environ, start_response)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        return Reply(began[0], began[1], body)


def _cut(environ: dict[str, Any]) -> None:
    """Drop the connection; werkzeug takes the exception for a client that went away."""
    connection: socket.socket = environ["werkzeug.socket"]
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("the reply is lost")


class Server:
    """A threaded HTTP server on 127.0.0.1 and a free port; `close` leaves no thread and no socket."""

    def __init__(self, app: Front) -> None:
        from moto.moto_server.werkzeug_app import MotoRequestHandler
        from werkzeug.serving import ThreadedWSGIServer

        class Handler(MotoRequestHandler):
            def log(self, *_: object, **__: object) -> None:
                """Say nothing: the emulator keeps its own journal."""

        class Listener(ThreadedWSGIServer):
            def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 -- socketserver's
                thread = Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
                with open_lock:
                    connections[thread] = request
                thread.start()

            def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
                super().shutdown_request(request)
                with open_lock:
                    for thread in [thread for thread, each in connections.items() if each is request]:
                        del connections[thread]

        open_lock = Lock()
        connections: dict[Thread, socket.socket] = {}
        self._open_lock, self._connections = open_lock, connections
        self._listener = Listener("127.0.0.1", 0, app, Handler)
        self._thread = Thread(target=self._listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self._listener.server_port}"

    def close(self) -> None:
        """Stop listening, drop every connection and wait for the threads that served them."""
        self._listener.shutdown()
        self._listener.server_close()
        with self._open_lock:
            left = dict(self._connections)
        for connection in left.values():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in (*left, self._thread):
            thread.join(timeout=5)
