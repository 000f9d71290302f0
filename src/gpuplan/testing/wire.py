"""What an HTTP request to AWS asks for: service, operation, region, account. Used by the HTTP front.

The name of an operation stands in a header (JSON services), in the form (query services), or in method, path and query
(S3).
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote_plus

DEFAULT_ACCOUNT = "123456789012"
DEFAULT_REGION = "us-east-1"
_PLATFORM = "PLAT"

_CREDENTIAL = re.compile(r"Credential=(?P<key>[^/]+)/\d+/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request")
_ACCOUNT_IN_KEY = re.compile(r"AKIA(\d{12})(TEST|PLAT)")
_S3_SUBRESOURCES = {
    "location": "BucketLocation",
    "versioning": "BucketVersioning",
    "policy": "BucketPolicy",
    "tagging": "BucketTagging",
    "encryption": "BucketEncryption",
    "lifecycle": "BucketLifecycleConfiguration",
    "publicAccessBlock": "PublicAccessBlock",
    "ownershipControls": "BucketOwnershipControls",
    "acl": "BucketAcl",
}
_VERBS = {"GET": "Get", "PUT": "Put", "DELETE": "Delete", "HEAD": "Head", "POST": "Post"}


class Call(NamedTuple):
    """One API call as the server counted it, whatever became of it."""

    service: str
    operation: str
    time: datetime


@dataclass(frozen=True)
class Incoming:
    """A request, understood as far as routing and faults need it."""

    service: str
    operation: str
    region: str
    account: str
    access_key: str
    path: str
    body: bytes

    def call(self) -> Call:
        """Return the entry for the journal."""
        return Call(self.service, self.operation, datetime.now(UTC))

    @property
    def from_platform(self) -> bool:
        """Whether this is the emulated platform's own traffic, which is neither counted nor disturbed."""
        return self.access_key.endswith(_PLATFORM) or self.path.startswith("/moto-api/")

    def text(self) -> str:
        """Return what a fault's `where` is looked for in: the path, the query and the body."""
        return f"{self.path}\n{self.body.decode(errors='replace')}"


def access_key(account: str, *, platform: bool = False) -> str:
    """Return the access key id that stands for an account of twelve digits, or for the platform acting in it."""
    return f"AKIA{account}{_PLATFORM if platform else 'TEST'}"


def read(environ: dict[str, Any]) -> Incoming:
    """Understand a WSGI request; its body stays readable for whoever answers it."""
    body = b""
    if environ.get("CONTENT_LENGTH"):
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        environ["wsgi.input"] = io.BytesIO(body)
    signed = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
    key = signed["key"] if signed else ""
    account = _ACCOUNT_IN_KEY.fullmatch(key)
    service = signed["service"] if signed else "s3"
    query = environ.get("QUERY_STRING", "")
    path = environ.get("PATH_INFO", "/")
    return Incoming(
        service=service,
        operation=_operation(service, environ, path, query, body),
        region=signed["region"] if signed else DEFAULT_REGION,
        account=account[1] if account else DEFAULT_ACCOUNT,
        access_key=key,
        path=f"{path}?{query}" if query else path,
        body=body,
    )


def _operation(service: str, environ: dict[str, Any], path: str, query: str, body: bytes) -> str:
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return str(target).rpartition(".")[2]
    if service == "s3":
        return _s3_operation(environ["REQUEST_METHOD"], path, query, copied="HTTP_X_AMZ_COPY_SOURCE" in environ)
    action = re.search(rb"(?:^|&)Action=([^&]+)", body)
    return unquote_plus(action[1].decode()) if action else f"{environ['REQUEST_METHOD']} {path}"


def _s3_operation(method: str, path: str, query: str, *, copied: bool) -> str:
    fields = parse_qs(query, keep_blank_values=True)
    bucket, _, key = path.lstrip("/").partition("/")
    if not bucket:
        return "ListBuckets"
    if not key:
        return _bucket_operation(method, fields)
    if "uploads" in fields:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    if "uploadId" in fields:
        names = {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}
        return names.get(method, "ListParts")
    suffix = "ObjectTagging" if "tagging" in fields else "Object"
    return "CopyObject" if copied else _VERBS.get(method, method) + suffix


def _bucket_operation(method: str, fields: dict[str, list[str]]) -> str:
    for name, suffix in _S3_SUBRESOURCES.items():
        if name in fields:
            return _VERBS.get(method, method) + suffix
    if "delete" in fields:
        return "DeleteObjects"
    if "versions" in fields:
        return "ListObjectVersions"
    if method == "GET":
        return "ListObjectsV2" if fields.get("list-type") == ["2"] else "ListObjects"
    return {"PUT": "CreateBucket", "DELETE": "DeleteBucket", "HEAD": "HeadBucket"}.get(method, f"{method}Bucket")
