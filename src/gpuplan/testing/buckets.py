"""Who owns a bucket: moto lets every account use every bucket and ignores ExpectedBucketOwner; S3 does neither.

Asked by the HTTP front before moto. Bucket policies that let another account in are not emulated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpuplan.testing.errors import ApiError

if TYPE_CHECKING:
    from gpuplan.testing.clients import Clients
    from gpuplan.testing.wire import Incoming

_FREE = {"CreateBucket", "ListBuckets"}


@dataclass
class BucketOwners:
    """The owners of the buckets, as far as they were asked for."""

    platform: Clients
    _owners: dict[str, str] = field(default_factory=dict)

    def check(self, call: Incoming, expected: str | None) -> None:
        """Raise AccessDenied if the bucket is another account's, or not of the owner the caller expects."""
        bucket = call.path.lstrip("/").partition("?")[0].partition("/")[0]
        if call.service != "s3" or call.operation in _FREE or not self._exists(bucket, call):
            return
        owner = self._owner(bucket, call)
        if call.operation == "DeleteBucket":
            self._owners.pop(bucket, None)
        if owner != call.account or expected not in {None, owner}:
            raise ApiError("AccessDenied", "Access Denied", 403)

    def _owner(self, bucket: str, call: Incoming) -> str | None:
        """Return the caller if the bucket is theirs; the owner found earlier, or None, if it is not."""
        if bucket not in self._owners:
            s3 = self.platform.client("s3", call.account, call.region)
            if bucket in {each["Name"] for each in s3.list_buckets()["Buckets"]}:
                self._owners[bucket] = call.account
        return self._owners.get(bucket)

    def _exists(self, bucket: str, call: Incoming) -> bool:
        if bucket in self._owners:
            return True
        s3 = self.platform.client("s3", call.account, call.region)
        try:
            s3.head_bucket(Bucket=bucket)
        except s3.exceptions.ClientError:
            return False
        return True
