"""The template: what it makes, with which names and protections, and that gpuplan reads it as CloudFormation does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.aws import images, stack_parameters, stack_template
from gpuplan.workload.schema import Aws

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.conftest import Render

ROOT = Path(__file__).resolve().parents[2]
LARGEST_BODY = 51_200
LARGEST_MANAGED_POLICY = 6_144
LARGEST_INLINE_POLICIES = 10_240


def test_the_small_reader_finds_what_a_yaml_reader_finds(template: dict[str, Any]) -> None:
    assert [(p.name, p.default, p.description) for p in stack_template.parameters()] == [
        (name, str(found["Default"]), found["Description"]) for name, found in template["Parameters"].items()
    ]
    assert [(r.logical_id, r.resource_type, r.purpose, r.condition) for r in stack_template.resources()] == [
        (name, found["Type"], found["Metadata"]["Purpose"], found.get("Condition", ""))
        for name, found in template["Resources"].items()
    ]


def test_it_is_sent_as_text_and_small_enough_for_that() -> None:
    assert len(stack_template.text().encode()) <= LARGEST_BODY


def test_the_wheel_carries_it_where_it_is_looked_for() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert built["wheel"]["force-include"]["infra/gpuplan.yaml"] == "gpuplan/infra/gpuplan.yaml"
    assert "infra" in built["sdist"]["include"]


def test_a_new_stack_allows_the_types_of_every_profile_that_can_be_had() -> None:
    default = next(p.default for p in stack_template.parameters() if p.name == "InstanceTypes")
    assert default == stack_parameters.instance_types(stack_parameters.ALL)
    assert "ml.g5.xlarge" in default
    assert "ml.p3.16xlarge" not in default


def test_the_prefix_is_the_settings_and_refuses_the_same(template: dict[str, Any]) -> None:
    field = Aws.model_fields["prefix"]
    (pattern,) = [item.pattern for item in field.metadata if hasattr(item, "pattern") and item.pattern]
    prefix = template["Parameters"]["Prefix"]
    assert prefix["Default"] == field.default
    assert pattern == f"^{prefix['AllowedPattern']}$"


def test_outputs_are_the_three_that_gpuplan_reads(render: Render) -> None:
    outputs = {name: found["Value"] for name, found in render()["Outputs"].items()}
    assert outputs == {
        "BucketName": "gpuplan-bucket-1",
        "ExecutionRoleArn": "arn:aws:iam::123456789012:role/gpuplan-ExecutionRole-1",
        "LauncherPolicyArn": "arn:aws:iam::123456789012:policy/gpuplan-LauncherPolicy-1",
    }


def test_it_names_nothing_so_it_fits_any_region_and_twice_into_one(render: Render, everything: dict[str, str]) -> None:
    for resource in render(everything)["Resources"].values():
        names = {"BucketName", "RoleName", "ManagedPolicyName"} & resource["Properties"].keys()
        assert not names
    assert "BudgetName" not in render(everything)["Resources"]["Budget"]["Properties"]["Budget"]


@pytest.mark.parametrize(
    ("partition", "region"), [("aws", "eu-central-1"), ("aws-cn", "cn-north-1"), ("aws-us-gov", "us-gov-west-1")]
)
def test_every_arn_is_of_the_partition(render: Render, partition: str, region: str) -> None:
    texts = list(_texts(render(region=region, partition=partition)))
    arns = [arn for text in texts for arn in re.findall(r"arn:[^:]*:[^:]*:[^:]*", text)]
    assert len(arns) > 15
    assert {arn.split(":")[1] for arn in arns} == {partition}
    assert {arn.split(":")[3] for arn in arns} == {region, ""}


def test_every_region_of_the_image_table_renders_with_its_account(render: Render, template: dict[str, Any]) -> None:
    table = template["Mappings"]["ImageAccount"]
    registries = images.table().registries
    assert {region: row["Id"] for region, row in table.items()} == {
        region: registry.partition(".")[0] for region, registry in registries.items()
    }
    for region, row in table.items():
        assert f":{row['Id']}:repository/pytorch-training" in str(render(region=region))


def test_the_bucket_is_private_encrypted_versioned_and_kept(render: Render) -> None:
    bucket = render()["Resources"]["Bucket"]
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("Retain", "Retain")
    properties = bucket["Properties"]
    assert properties["PublicAccessBlockConfiguration"] == dict.fromkeys(
        ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"),
        True,
    )
    assert properties["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    (rule,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule == {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}


def test_a_key_of_ones_own_encrypts_the_bucket(render: Render, everything: dict[str, str]) -> None:
    properties = render(everything)["Resources"]["Bucket"]["Properties"]
    (rule,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    key = everything["KmsKeyArn"]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
    assert rule["BucketKeyEnabled"] is True


def test_the_bucket_takes_no_request_without_tls_and_its_policy_stays_with_it(render: Render) -> None:
    policy = render()["Resources"]["BucketPolicy"]
    assert (policy["DeletionPolicy"], policy["UpdateReplacePolicy"]) == ("Retain", "Retain")
    (statement,) = policy["Properties"]["PolicyDocument"]["Statement"]
    assert statement == {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": ["arn:aws:s3:::gpuplan-bucket-1", "arn:aws:s3:::gpuplan-bucket-1/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def test_large_files_of_runs_expire_and_small_ones_and_code_stay(render: Render, everything: dict[str, str]) -> None:
    parameters = {**everything, "CheckpointDays": "90", "OldVersionDays": "7"}
    rules = {rule["Id"]: rule for rule in _lifecycle(render(parameters))}
    assert rules["large-files-of-runs"] == {
        "Id": "large-files-of-runs",
        "Status": "Enabled",
        "Prefix": "team-a/gpuplan/runs/",
        "ObjectSizeGreaterThan": str(1024**2),
        "ExpirationInDays": "90",
    }
    assert rules["old-versions"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": "7"}
    assert rules["broken-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    # Only one rule deletes what is current: nothing outside runs/, such as code and wheels, ever goes.
    assert [rule["Id"] for rule in rules.values() if "ExpirationInDays" in rule] == ["large-files-of-runs"]
    assert all(rule["Status"] == "Enabled" for rule in rules.values())


def test_everything_that_can_be_is_tagged_with_the_stack(render: Render, everything: dict[str, str]) -> None:
    resources = render(everything)["Resources"]
    tag = {"Key": "gpuplan:stack", "Value": "gpuplan"}
    assert tag in resources["Bucket"]["Properties"]["Tags"]
    assert tag in resources["ExecutionRole"]["Properties"]["Tags"]
    assert tag in resources["Budget"]["Properties"]["ResourceTags"]


def test_the_budget_is_there_only_if_it_is_asked_for_and_warns_somebody(
    render: Render, everything: dict[str, str], template: dict[str, Any]
) -> None:
    assert "Budget" not in render()["Resources"]
    properties = render(everything)["Resources"]["Budget"]["Properties"]
    assert properties["Budget"]["BudgetLimit"] == {"Amount": "500", "Unit": "USD"}
    assert {
        subscriber["Address"]
        for notification in properties["NotificationsWithSubscribers"]
        for subscriber in notification["Subscribers"]
    } == {everything["BudgetEmail"]}
    (rule,) = template["Rules"].values()
    assert rule["RuleCondition"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "BudgetUSD"}, "0"]}]}
    assert rule["Assertions"][0]["Assert"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "BudgetEmail"}, ""]}]}


def test_policies_fit_iams_limits_with_everything_on(render: Render, everything: dict[str, str]) -> None:
    resources = render(everything)["Resources"]
    launcher = str(resources["LauncherPolicy"]["Properties"]["PolicyDocument"]).replace(" ", "")
    role = str([p["PolicyDocument"] for p in resources["ExecutionRole"]["Properties"]["Policies"]]).replace(" ", "")
    # Room for ten more types and for long names.
    assert len(launcher) + 1_000 <= LARGEST_MANAGED_POLICY
    assert len(role) + 1_000 <= LARGEST_INLINE_POLICIES


def _lifecycle(rendered: dict[str, Any]) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = rendered["Resources"]["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    return rules


def _texts(node: Any) -> Iterator[str]:  # noqa: ANN401 - whatever a template holds
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for part in node.values():
            yield from _texts(part)
    elif isinstance(node, list):
        for part in node:
            yield from _texts(part)
