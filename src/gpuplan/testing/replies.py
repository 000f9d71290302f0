"""HTTP answers: JSON results, and errors in the form each kind of AWS service uses. Used by the HTTP front only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from gpuplan.testing.errors import ApiError

_QUERY_SERVICES = {"iam", "sts", "cloudformation", "autoscaling", "sns", "sqs", "elasticloadbalancing"}


@dataclass(frozen=True)
class Reply:
    """A whole HTTP answer."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes

    def with_body(self, body: bytes) -> Reply:
        """Return the same answer around another body."""
        kept = [(name, value) for name, value in self.headers if name.lower() != "content-length"]
        return Reply(self.status, [*kept, ("Content-Length", str(len(body)))], body)


def json_reply(document: dict[str, Any], status: int = 200) -> Reply:
    """Return a result of a JSON service."""
    return _reply(status, "application/x-amz-json-1.1", json.dumps(document).encode())


def xml_reply(document: str) -> Reply:
    """Return a result of a query service."""
    return _reply(HTTPStatus.OK, "text/xml", f'<?xml version="1.0" encoding="UTF-8"?>{document}'.encode())


def error_reply(service: str, error: ApiError) -> Reply:
    """Return an error in the protocol of the service."""
    code, message = escape(error.code), escape(error.message)
    request_id = str(uuid4())
    if service == "s3":
        text = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{request_id}</RequestId></Error>"
    elif service == "ec2":
        text = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            f"<RequestID>{request_id}</RequestID></Response>"
        )
    elif service in _QUERY_SERVICES:
        text = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    else:
        return json_reply({"__type": error.code, "message": error.message}, error.status)
    return _reply(error.status, "text/xml", f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode())


def _reply(status: int, content_type: str, body: bytes) -> Reply:
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("x-amzn-RequestId", str(uuid4())),
    ]
    return Reply(f"{status} {HTTPStatus(status).phrase}", headers, body)
