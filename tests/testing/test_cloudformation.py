"""Stacks as AWS makes them, where moto by itself stops half-way."""

from __future__ import annotations

import json
import secrets
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from moto.cloudformation.models import ChangeSet

from gpuplan.testing import Emulator
from gpuplan.testing.cloudformation import CloudFormation

if TYPE_CHECKING:
    from collections.abc import Iterator

READ, READ_AND_WRITE = "s3:GetObject", "s3:GetObject,s3:PutObject"
TEMPLATE: dict[str, Any] = {
    "Description": "a store",
    "Parameters": {"Actions": {"Type": "CommaDelimitedList", "Default": READ}},
    "Resources": {
        "Bucket": {
            "Type": "AWS::S3::Bucket",
            "Properties": {
                "VersioningConfiguration": {"Status": "Enabled"},
                "PublicAccessBlockConfiguration": {
                    "BlockPublicAcls": True,
                    "BlockPublicPolicy": True,
                    "IgnorePublicAcls": True,
                    "RestrictPublicBuckets": True,
                },
                "Tags": [{"Key": "actions", "Value": {"Fn::Join": [" ", {"Ref": "Actions"}]}}],
            },
        },
        "BucketPolicy": {
            "Type": "AWS::S3::BucketPolicy",
            "Properties": {"Bucket": {"Ref": "Bucket"}, "PolicyDocument": {"Statement": []}},
        },
        "Policy": {
            "Type": "AWS::IAM::ManagedPolicy",
            "Properties": {
                "PolicyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [{"Effect": "Allow", "Action": {"Ref": "Actions"}, "Resource": "*"}],
                }
            },
        },
    },
    "Outputs": {"BucketName": {"Value": {"Ref": "Bucket"}}, "PolicyArn": {"Value": {"Ref": "Policy"}}},
}


@pytest.fixture(scope="module")
def aws() -> Iterator[Emulator]:
    with Emulator(execute=False) as running:
        yield running


def deploy(aws: Emulator, name: str, kind: str, actions: str = READ_AND_WRITE) -> dict[str, Any]:
    """Make or change a stack by a change set; return how it stands then."""
    client = aws.client("cloudformation")
    change_set = client.create_change_set(
        StackName=name,
        ChangeSetName=f"change-{secrets.token_hex(4)}",
        ChangeSetType=kind,
        TemplateBody=json.dumps(TEMPLATE),
        Parameters=[{"ParameterKey": "Actions", "ParameterValue": actions}],
        Capabilities=["CAPABILITY_IAM"],
    )
    found = client.describe_change_set(ChangeSetName=change_set["Id"])
    if found["Status"] == "CREATE_COMPLETE":
        client.execute_change_set(ChangeSetName=change_set["Id"])
    (stack,) = client.describe_stacks(StackName=name)["Stacks"]
    return {**stack, "ChangeSetStatus": found["Status"]}


def outputs(stack: dict[str, Any]) -> dict[str, str]:
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def test_an_applied_change_set_gives_the_stack_all_that_its_template_says(aws: Emulator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack = deploy(aws, "whole", "CREATE")
    assert (stack["StackStatus"], stack["Description"]) == ("CREATE_COMPLETE", "a store")
    assert stack["Parameters"] == [{"ParameterKey": "Actions", "ParameterValue": READ_AND_WRITE}]
    assert outputs(stack)["PolicyArn"].startswith("arn:aws:iam::123456789012:policy/")
    bucket, s3 = outputs(stack)["BucketName"], aws.client("s3")
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    kinds = aws.client("cloudformation").describe_stack_resources(StackName="whole")["StackResources"]
    assert {each["ResourceType"] for each in kinds} == {each["Type"] for each in TEMPLATE["Resources"].values()}


def test_an_update_keeps_every_resource_and_output(aws: Emulator) -> None:
    first = deploy(aws, "updated", "CREATE")
    second = deploy(aws, "updated", "UPDATE", READ)
    assert second["StackStatus"] == "UPDATE_COMPLETE"
    assert second["Parameters"] == [{"ParameterKey": "Actions", "ParameterValue": READ}]
    assert outputs(second) == outputs(first)


def test_a_change_set_without_a_change_is_refused_after_an_update_too(aws: Emulator) -> None:
    assert deploy(aws, "same", "CREATE")["ChangeSetStatus"] == "CREATE_COMPLETE"
    assert deploy(aws, "same", "UPDATE", READ)["ChangeSetStatus"] == "CREATE_COMPLETE"
    assert deploy(aws, "same", "UPDATE", READ)["ChangeSetStatus"] == "FAILED"


def test_moto_is_left_as_it_was_found() -> None:
    found, mends = vars(ChangeSet)["apply"], CloudFormation()
    mends.mend()
    mends.mend()
    assert vars(ChangeSet)["apply"] is not found
    mends.close()
    assert vars(ChangeSet)["apply"] is found
