"""One S3 bucket: reads that name a version, and writes that take effect once or on one version only.

Used by the backend for code and results and, through `core.objects.ObjectStore`, by the run store. It retries nothing
that botocore retries, but it resolves what a retry leaves open: a conditional write whose first reply was lost.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from gpuplan.aws.errors import part
from gpuplan.core.clock import SystemClock
from gpuplan.core.errors import UsageError
from gpuplan.core.objects import ConflictError, Fetched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpuplan.aws.session import Session
    from gpuplan.core.clock import Clock

_ABSENT = frozenset({"NoSuchKey", "404"})
_UNCHANGED = frozenset({"304", "NotModified"})
_UNMET = frozenset({"PreconditionFailed", "412", "NoSuchKey", "404"})
_RACING = frozenset({"ConditionalRequestConflict", "409"})
"""Another write to the key was under way: whether the condition holds was not even looked at."""
_NO_BUCKET = frozenset({"NoSuchBucket"})
_ELSEWHERE = frozenset(
    {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_PAUSES_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6)


class _RefusedError(Exception):
    """S3 answered with a code that the caller handles."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Bucket:
    """Objects in one bucket; every call names the account that must own it, where that is known."""

    def __init__(
        self, session: Session, name: str, owner_account: str | None = None, clock: Clock | None = None
    ) -> None:
        self.name = name
        self._session = session
        self._clock = clock or SystemClock()
        self._bucket = {"Bucket": name} | ({"ExpectedBucketOwner": owner_account} if owner_account else {})

    def locate(self, key: str) -> str:
        """Return the URL of an object."""
        return f"s3://{self.name}/{key}"

    def check(self) -> None:
        """Make sure that the bucket is there, ours, and in the session's region, as SageMaker needs it.

        Raises:
            UsageError: it does not exist, or is in another region.
            CredentialsError: it is not ours to use, or belongs to another account.
        """
        try:
            with self._calling(f"look at s3://{self.name}", _ABSENT):
                reply = self._client().head_bucket(**self._bucket)
        except _RefusedError as refused:
            raise self._missing() from refused
        region = reply.get("BucketRegion") or _header(reply, "x-amz-bucket-region")
        # botocore follows S3 to the right region by itself; SageMaker does not.
        if region and region != self._session.region:
            raise self._elsewhere(region)

    def get(self, key: str) -> bytes:
        """Return an object.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._fetch(key).data

    def get_with_etag(self, key: str, unless: str = "") -> Fetched | None:
        """Return an object with its version and age, or None if it still is the version `unless`.

        Raises:
            FileNotFoundError: there is none.
        """
        try:
            return self._fetch(key, **({"IfNoneMatch": unless} if unless else {}))
        except _RefusedError:
            return None

    def head(self, key: str) -> bool:
        """Tell whether there is an object."""
        try:
            with self._calling(f"look at {self.locate(key)}", _ABSENT):
                self._client().head_object(**self._bucket, Key=key)
        except _RefusedError:
            return False
        return True

    def list(self, prefix: str) -> Iterator[str]:
        """Return the keys that start with `prefix`, in order."""
        for page in self._pages(prefix):
            yield from (entry["Key"] for entry in page.get("Contents", ()))

    def folders(self, prefix: str) -> Iterator[str]:
        """Return the names between `prefix` and the next slash, in order: `a` and `b` of `p/a/1`, `p/a/2`, `p/b/1`."""
        for page in self._pages(prefix, Delimiter="/"):
            yield from (entry["Prefix"].removeprefix(prefix).rstrip("/") for entry in page.get("CommonPrefixes", ()))

    def put_once(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; False if there is one with other bytes.

        The same bytes count as written: another client's cannot be told from our own write whose reply was lost.
        """
        try:
            self.swap(key, data, None)
        except ConflictError:
            return False
        return True

    def upload_once(self, key: str, path: Path) -> bool:
        """Upload a file unless the object exists; return whether it had to. For keys that name their content.

        Raises:
            OSError: the file cannot be read.
        """
        if self.head(key):
            return False
        with path.open("rb") as stream:
            return self._put(key, stream, IfNoneMatch="*") is not None

    def swap(self, key: str, data: bytes, etag: str | None) -> str:
        """Replace the version `etag` of an object (None: create it) and return its new version.

        Raises:
            ConflictError: it is another version by now, written by somebody else.
            UnreachableError: no usable answer; the write may have taken effect.
        """
        written = self._put(key, data, **({"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}))
        if written:
            return written
        # Refused. If a first reply was lost, it was our own write that a retry met.
        try:
            found = self._fetch(key)
        except FileNotFoundError as error:
            raise ConflictError(f"{self.locate(key)} is gone") from error
        if found.data != data:
            raise ConflictError(f"{self.locate(key)} was written by another client")
        return found.etag

    def _put(self, key: str, body: Any, **condition: str) -> str | None:  # noqa: ANN401 - bytes or an open file
        """Write under a condition; None if it is not met, or if the reply does not say."""
        for pause in _PAUSES_SECONDS:
            try:
                with self._calling(f"write {self.locate(key)}", _UNMET | _RACING):
                    reply = self._client().put_object(**self._bucket, Key=key, Body=body, **condition)
            except _RefusedError as refused:
                if refused.code not in _RACING:
                    return None
                self._clock.sleep(pause)
            else:
                etag: str | None = reply.get("ETag")
                return etag
        return None

    def _fetch(self, key: str, **condition: str) -> Fetched:
        try:
            with self._calling(f"read {self.locate(key)}", _ABSENT | _UNCHANGED):
                reply = self._client().get_object(**self._bucket, Key=key, **condition)
                data: bytes = reply["Body"].read()
        except _RefusedError as refused:
            if refused.code in _UNCHANGED:
                raise
            raise FileNotFoundError(self.locate(key)) from refused
        now = _header(reply, "date")
        read_at = parsedate_to_datetime(now) if now else datetime.now(UTC)
        written_at = part(reply, "LastModified")
        return Fetched(data, part(reply, "ETag"), max(0.0, (read_at - written_at).total_seconds()))

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            with self._calling(f"list {self.locate(prefix)}"):
                page = self._client().list_objects_v2(**self._bucket, Prefix=prefix, **options, **token)
            truncated = part(page, "IsTruncated")
            yield page
            if not truncated:
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _client(self) -> Any:  # noqa: ANN401 - botocore makes its clients' classes at run time
        return self._session.client("s3")

    @contextmanager
    def _calling(self, action: str, handled: frozenset[str] = frozenset()) -> Iterator[None]:
        """Translate errors; codes in `handled` become `_RefusedError`, those that speak of the bucket say so."""
        from botocore.exceptions import ClientError

        try:
            with self._session.calling(action, passes=(*handled, *_NO_BUCKET, *_ELSEWHERE)):
                yield
        except ClientError as error:
            answer = error.response["Error"]
            if answer["Code"] in handled:
                raise _RefusedError(answer["Code"]) from error
            if answer["Code"] in _NO_BUCKET:
                raise self._missing() from error
            raise self._elsewhere(
                answer.get("Region") or _header(error.response, "x-amz-bucket-region") or "another region"
            ) from error

    def _missing(self) -> UsageError:
        return UsageError(
            f"there is no bucket {self.name!r}",
            why="its name is misspelt, or it was deleted",
            fix="--bucket NAME    or    gpuplan infra deploy",
        )

    def _elsewhere(self, region: str) -> UsageError:
        return UsageError(
            f"bucket {self.name} is in {region}, not in {self._session.region}",
            why="SageMaker reads and writes only buckets of its own region",
            fix=f"--region {region}    or a --bucket in {self._session.region}"
            if region != "another region"
            else f"a --bucket in {self._session.region}",
        )


def _header(reply: dict[str, Any], name: str) -> str:
    return str(reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(name, ""))
