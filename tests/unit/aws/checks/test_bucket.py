from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpuplan.aws.checks.base import Status, guarded
from gpuplan.aws.checks.bucket import bucket, public_access, versioning
from gpuplan.core.errors import ExitCode

if TYPE_CHECKING:
    from gpuplan.aws.session import Session
    from unit.aws.checks.conftest import StubbedSession

NAME = "gpuplan-123456789012"
BLOCKED = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)


@pytest.fixture
def made(on_moto: Session) -> Session:
    on_moto.client("s3").create_bucket(Bucket=NAME)
    return on_moto


def test_a_bucket_of_the_account_in_the_region_is_fine(made: Session) -> None:
    [found] = bucket(made, NAME)
    assert (found.status, found.message) == (Status.OK, f"s3://{NAME} in us-east-1, of account 123456789012")


def test_a_bucket_that_does_not_exist_is_an_error(on_moto: Session) -> None:
    [found] = bucket(on_moto, NAME)
    assert (found.status, found.exit_code, found.message) == (
        Status.ERROR,
        ExitCode.USAGE,
        f"there is no bucket {NAME}",
    )


def test_a_bucket_in_another_region_is_an_error_that_names_it(made: Session) -> None:
    made.client("s3").create_bucket(Bucket="far-away", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    [found] = bucket(made, "far-away")
    assert (found.status, found.exit_code) == (Status.ERROR, ExitCode.USAGE)
    assert found.fix.startswith("add --region eu-west-1")


def test_a_bucket_of_someone_else_is_a_matter_of_credentials(stubbed: StubbedSession) -> None:
    stubbed.stub("s3").add_client_error(
        "head_bucket", "403", "Forbidden", 403, expected_params={"Bucket": NAME, "ExpectedBucketOwner": "123456789012"}
    )
    [found] = guarded("bucket", lambda: bucket(stubbed, NAME), denied=Status.ERROR)
    assert (found.status, found.exit_code) == (Status.ERROR, ExitCode.CREDENTIALS)
    assert "of account 123456789012" in found.message
    assert found.fix.startswith("another --bucket")


def test_old_versions_that_are_not_kept_are_warned_of_until_they_are(made: Session) -> None:
    [off] = versioning(made, NAME)
    assert off.status is Status.WARNING
    assert off.message.startswith("off")
    for status, expected in (("Enabled", Status.OK), ("Suspended", Status.WARNING)):
        made.client("s3").put_bucket_versioning(Bucket=NAME, VersioningConfiguration={"Status": status})
        [found] = versioning(made, NAME)
        assert found.status is expected


def test_a_bucket_that_could_be_made_public_is_warned_of_until_it_cannot(made: Session) -> None:
    [bare] = public_access(made, NAME)
    assert bare.status is Status.WARNING
    made.client("s3").put_public_access_block(Bucket=NAME, PublicAccessBlockConfiguration=BLOCKED)
    [closed] = public_access(made, NAME)
    assert (closed.status, closed.message) == (Status.OK, "blocked")
    made.client("s3").put_public_access_block(
        Bucket=NAME, PublicAccessBlockConfiguration=BLOCKED | {"BlockPublicPolicy": False}
    )
    [half] = public_access(made, NAME)
    assert half.status is Status.WARNING
    assert half.message.endswith("BlockPublicPolicy off")


def test_looks_that_are_denied_say_so_and_stop_nothing(stubbed: StubbedSession) -> None:
    stubbed.stub("s3").add_client_error("get_bucket_versioning", "AccessDenied", "Access Denied", 403)
    [found] = guarded("bucket-versioning", lambda: versioning(stubbed, NAME))
    assert (found.status, found.exit_code) == (Status.UNKNOWN, ExitCode.OK)
    assert "s3:GetBucketVersioning" in found.fix
