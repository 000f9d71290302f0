"""The HTTP side: how calls are named and counted, whose bucket is whose, what is left when the emulator closes."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan.testing import Emulator

BUCKET = "gpuplan-test"
OTHER = "999999999999"

S3_CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("list_buckets", {}, "ListBuckets"),
    ("create_bucket", {"Bucket": "gpuplan-named"}, "CreateBucket"),
    ("head_bucket", {"Bucket": BUCKET}, "HeadBucket"),
    ("get_bucket_location", {"Bucket": BUCKET}, "GetBucketLocation"),
    ("list_objects_v2", {"Bucket": BUCKET}, "ListObjectsV2"),
    ("list_object_versions", {"Bucket": BUCKET}, "ListObjectVersions"),
    ("put_object", {"Bucket": BUCKET, "Key": "a/b", "Body": b"1"}, "PutObject"),
    ("head_object", {"Bucket": BUCKET, "Key": "a/b"}, "HeadObject"),
    ("get_object", {"Bucket": BUCKET, "Key": "a/b"}, "GetObject"),
    ("copy_object", {"Bucket": BUCKET, "Key": "c", "CopySource": f"{BUCKET}/a/b"}, "CopyObject"),
    ("get_object_tagging", {"Bucket": BUCKET, "Key": "c"}, "GetObjectTagging"),
    ("create_multipart_upload", {"Bucket": BUCKET, "Key": "m"}, "CreateMultipartUpload"),
    ("delete_objects", {"Bucket": BUCKET, "Delete": {"Objects": [{"Key": "c"}]}}, "DeleteObjects"),
    ("delete_object", {"Bucket": BUCKET, "Key": "a/b"}, "DeleteObject"),
    ("delete_bucket", {"Bucket": "gpuplan-named"}, "DeleteBucket"),
]


def test_s3_calls_are_counted_by_the_names_of_the_api(held: Emulator) -> None:
    for method, arguments, operation in S3_CALLS:
        getattr(held.client("s3"), method)(**arguments)
        assert held.calls[-1][:2] == ("s3", operation)


def test_the_platforms_own_calls_are_not_counted(held: Emulator) -> None:
    before = len(held.calls)
    made = held.prepare("gpuplan-second", "second-role")
    assert held.prepare("gpuplan-second", "second-role") == made
    assert len(held.calls) == before


def test_a_region_that_does_not_exist_gives_no_answer(held: Emulator) -> None:
    before = len(held.calls)
    with pytest.raises(ConnectionClosedError):
        held.client("sqs", region="us-esat-1").list_queues()
    assert len(held.calls) == before


def test_a_conditional_write_has_one_winner(held: Emulator) -> None:
    s3 = held.client("s3")

    def wrote(number: int) -> str:
        try:
            s3.put_object(Bucket=BUCKET, Key="once", Body=str(number).encode(), IfNoneMatch="*")
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "written"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(wrote, range(16))) == [*["PreconditionFailed"] * 15, "written"]
    etag = s3.head_object(Bucket=BUCKET, Key="once")["ETag"]
    s3.put_object(Bucket=BUCKET, Key="once", Body=b"next", IfMatch=etag)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=BUCKET, Key="once", Body=b"late", IfMatch=etag)


def test_a_bucket_is_its_owners_alone(held: Emulator) -> None:
    ours, theirs = held.client("s3"), held.client("s3", account=OTHER)
    ours.put_object(Bucket=BUCKET, Key="k", Body=b"x", ExpectedBucketOwner=held.account())
    with pytest.raises(ClientError, match="AccessDenied"):
        ours.put_object(Bucket=BUCKET, Key="k", Body=b"y", ExpectedBucketOwner=OTHER)
    with pytest.raises(ClientError, match="AccessDenied"):
        theirs.get_object(Bucket=BUCKET, Key="k")
    with pytest.raises(ClientError, match="403"):
        theirs.head_bucket(Bucket=BUCKET)
    with pytest.raises(ClientError, match="NoSuchBucket"):
        theirs.get_object(Bucket="gpuplan-nowhere", Key="k")
    assert not theirs.list_buckets()["Buckets"]


def test_an_environment_is_of_one_account_and_region(held: Emulator) -> None:
    base = {"AWS_PROFILE": "work", "AWS_DEFAULT_REGION": "eu-west-1", "HOME": "/home/me"}
    environment = held.environment(base, account=OTHER, region="us-west-2")
    assert environment["HOME"] == "/home/me"
    assert environment["AWS_REGION"] == "us-west-2"
    assert not {"AWS_PROFILE", "AWS_DEFAULT_REGION"} & environment.keys()
    script = "import boto3; print(boto3.client('sts', region_name='us-west-2').get_caller_identity()['Account'])"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == OTHER


def test_clients_ignore_the_aws_configuration_of_this_machine(
    held: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.client(
        "kms"
    ).list_keys()  # the server, in this process, looks at the configuration when a service is first used
    (tmp_path / "config").write_text("[profile work]\nregion = ap-south-1\nendpoint_url = http://127.0.0.1:1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "absent")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    held.client("kms").list_keys()
