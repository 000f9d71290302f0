"""What an account owns, asked of moto over HTTP as the platform: buckets, their regions, roles. See `Estate`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuplan.testing.clients import Clients

_PRINCIPAL = "sagemaker.amazonaws.com"


@dataclass(frozen=True)
class MotoEstate:
    """One account's buckets and roles."""

    clients: Clients
    account: str
    region: str

    def bucket_region(self, bucket: str) -> str | None:
        """Return where a bucket is, or None if there is none of that name."""
        s3 = self.clients.client("s3", self.account, self.region)
        try:
            return s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] or "us-east-1"
        except s3.exceptions.ClientError:
            return None

    def has_objects(self, bucket: str, prefix: str) -> bool:
        """Tell whether a key starts with the prefix."""
        s3 = self.clients.client("s3", self.account, self.region)
        return bool(s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)["KeyCount"])

    def may_be_assumed(self, role_arn: str) -> bool:
        """Tell whether the role exists in this account and trusts SageMaker."""
        iam = self.clients.client("iam", self.account, "us-east-1")
        try:
            role = iam.get_role(RoleName=role_arn.rpartition("/")[2])["Role"]
        except iam.exceptions.NoSuchEntityException:
            return False
        return role["Arn"] == role_arn and _PRINCIPAL in json.dumps(role["AssumeRolePolicyDocument"])
