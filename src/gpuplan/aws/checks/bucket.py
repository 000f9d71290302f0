"""Whether the bucket exists in the region and the account, keeps old versions and is closed to the public."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.aws.checks.base import Check, Status
from gpuplan.aws.errors import part
from gpuplan.core.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.aws.session import Session

_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def bucket(session: Session, name: str) -> Iterator[Check]:
    """Yield whether the bucket is there, the caller's own, and where the jobs run."""
    account = session.identity().account
    client = session.client("s3")
    fix = "gpuplan infra deploy    or another --bucket"
    try:
        with session.calling(
            f"see the bucket {name} as one of account {account}",
            passes=("404", "NoSuchBucket"),
            fix="another --bucket, or allow s3:ListBucket: gpuplan infra show --template",
        ):
            reply = client.head_bucket(Bucket=name, ExpectedBucketOwner=account)
    except client.exceptions.ClientError:
        yield Check("bucket", Status.ERROR, f"there is no bucket {name}", fix, ExitCode.USAGE)
        return
    region = reply.get("BucketRegion") or session.region
    if region == session.region:
        yield Check("bucket", Status.OK, f"s3://{name} in {region}, of account {account}")
    else:
        said = f"s3://{name} is in {region}, but jobs in {session.region} need theirs there"
        yield Check("bucket", Status.ERROR, said, f"add --region {region}    or {fix}", ExitCode.USAGE)


def versioning(session: Session, name: str) -> Iterator[Check]:
    """Yield whether what is overwritten or deleted can be brought back."""
    with session.calling("s3:GetBucketVersioning"):
        state = session.client("s3").get_bucket_versioning(Bucket=name).get("Status")
    if state == "Enabled":
        yield Check("bucket-versioning", Status.OK, "on")
    else:
        yield Check(
            "bucket-versioning",
            Status.WARNING,
            f"{'suspended' if state else 'off'}: what is overwritten or deleted cannot be brought back",
            f"aws s3api put-bucket-versioning --bucket {name} --versioning-configuration Status=Enabled",
        )


def public_access(session: Session, name: str) -> Iterator[Check]:
    """Yield whether the bucket itself refuses to be made public."""
    client = session.client("s3")
    try:
        with session.calling("s3:GetPublicAccessBlock", passes=("NoSuchPublicAccessBlockConfiguration",)):
            blocks = part(client.get_public_access_block(Bucket=name), "PublicAccessBlockConfiguration")
    except client.exceptions.ClientError:
        blocks = {}
    open_to = [block for block in _BLOCKS if not blocks.get(block)]
    if not open_to:
        yield Check("bucket-public-access", Status.OK, "blocked")
    else:
        closed = ",".join(f"{block}=true" for block in _BLOCKS)
        yield Check(
            "bucket-public-access",
            Status.WARNING,
            f"not blocked by the bucket itself: {', '.join(open_to)} off",
            f"aws s3api put-public-access-block --bucket {name} --public-access-block-configuration {closed}",
        )
