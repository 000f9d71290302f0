"""What the role and the launchers may do, judged request by request; and that no wildcard stands where none must."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore import xform_name
from botocore.loaders import Loader
from botocore.model import ServiceModel
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.profiles.load import load_all
from gpuplan.profiles.schema import InstanceProfile
from gpuplan.reports.plan_document import to_document

if TYPE_CHECKING:
    from conftest import MakePlan
    from infra.conftest import Allows, Render

JOB = "arn:aws:sagemaker:us-east-1:123456789012:training-job/digits-01hxyz-train-1"
ROLE = "arn:aws:iam::123456789012:role/gpuplan-ExecutionRole-1"
BUCKET = "arn:aws:s3:::gpuplan-bucket-1"
LOGS = "arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/TrainingJobs"
OURS = f"{BUCKET}/gpuplan/runs/digits-01hxyz/state.json"
REQUEST = {
    "sagemaker:InstanceTypes": ["ml.g5.12xlarge"],
    "sagemaker:MaxRuntimeInSeconds": "86400",
    "sagemaker:NetworkIsolation": "true",
    "aws:RequestTag/gpuplan:run": "digits-01hxyz",
    "aws:TagKeys": ["gpuplan:run", "gpuplan:step"],
}
"""The condition keys of a job as gpuplan asks for it."""
NO_RESOURCES = {
    # Actions that know no resources, by the service authorization reference; each is read-only or limited otherwise.
    "cloudwatch:PutMetricData",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeRegions",
    "ec2:DescribeSpotPriceHistory",
    "ecr:GetAuthorizationToken",
    "pricing:GetProducts",
    "sagemaker:ListTrainingJobs",
    "servicequotas:ListAWSDefaultServiceQuotas",
    "servicequotas:ListServiceQuotas",
}
NOT_FOR_LAUNCHERS = {"cloudformation:GetTemplate"}
"""What is only tried: `infra show` says that the template is unknown to those who may not read it."""
IMPLIED = {"iam:PassRole", "sagemaker:AddTags", "kms:Decrypt", "kms:GenerateDataKey"}
"""What IAM asks for behind a call: CreateTrainingJob with a role and tags, objects under a key of one's own."""
IAM_NAMES = {
    "s3:GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
}
"""Actions that are not called like the operation they allow."""
PACKAGE = Path(__file__).resolve().parents[2] / "src" / "gpuplan"
SOURCES = [
    path
    for folder in ("aws", "backends", "store", "cli")
    for path in sorted((PACKAGE / folder).rglob("*.py"))
    # Who changes the stack is an administrator.
    if path.name not in {"stack_changes.py", "stack_removal.py", "stack_wait.py"}
]
CAN_BE_HAD = [
    profile for profile in load_all() if isinstance(profile, InstanceProfile) and profile.lifecycle.state != "retired"
]
Policy = dict[str, Any]


@pytest.fixture(scope="session")
def launcher(render: Render) -> Policy:
    return _launcher(render())


@pytest.fixture(scope="session")
def role(render: Render) -> Policy:
    return _role(render())


def test_no_wildcard_action_and_no_wildcard_resource_but_where_there_is_no_other(
    render: Render, everything: dict[str, str]
) -> None:
    for rendered in (render(), render(everything)):
        for statement in _launcher(rendered)["Statement"] + _role(rendered)["Statement"]:
            actions, resources = _listed(statement["Action"]), _listed(statement["Resource"])
            assert statement["Effect"] == "Allow"
            assert not any("*" in action for action in actions)
            if "*" in resources:
                assert resources == ["*"]
                assert set(actions) <= NO_RESOURCES


def test_a_launcher_may_start_what_gpuplan_asks_for(launcher: Policy, allows: Allows) -> None:
    assert allows(launcher, "sagemaker:CreateTrainingJob", JOB, REQUEST)
    assert allows(launcher, "sagemaker:AddTags", JOB, {"sagemaker:TaggingAction": "CreateTrainingJob"})
    assert allows(launcher, "iam:PassRole", ROLE, {"iam:PassedToService": "sagemaker.amazonaws.com"})


@pytest.mark.parametrize("profile", CAN_BE_HAD, ids=lambda profile: profile.name)
def test_a_launcher_may_send_every_request_that_a_plan_prints(
    launcher: Policy, allows: Allows, make_plan: MakePlan, tmp_path: Path, profile: InstanceProfile
) -> None:
    workload = {"workload.model": "resnet50", "workload.data": "imagenet", "workload.epochs": 30}
    plan = make_plan({"launch.instance": profile.name, "launch.backend": "sagemaker", **workload})
    for step in to_document(plan, tmp_path)["steps"]:
        body = step["request"]
        tags = {tag["Key"]: tag["Value"] for tag in body["Tags"]}
        context = {
            "sagemaker:InstanceTypes": [body["ResourceConfig"]["InstanceType"]],
            "sagemaker:MaxRuntimeInSeconds": str(body["StoppingCondition"]["MaxRuntimeInSeconds"]),
            "sagemaker:NetworkIsolation": str(body["EnableNetworkIsolation"]).lower(),
            "aws:TagKeys": list(tags),
            **{f"aws:RequestTag/{key}": value for key, value in tags.items()},
        }
        assert not {"KeepAlivePeriodInSeconds", "InstanceGroups"} & body["ResourceConfig"].keys()
        assert "RemoteDebugConfig" not in body
        assert allows(launcher, "sagemaker:CreateTrainingJob", JOB, context)


def test_every_call_that_gpuplan_makes_for_a_launcher_is_in_the_policy(launcher: Policy) -> None:
    permitted = {action for statement in launcher["Statement"] for action in _listed(statement["Action"])}
    needed = {action for path in SOURCES for action in _actions_of(path)}
    assert {"sagemaker:CreateTrainingJob", "s3:PutObject", "logs:GetLogEvents", "iam:GetRole"} <= needed
    assert needed <= permitted | NOT_FOR_LAUNCHERS


def test_a_launcher_is_given_nothing_that_gpuplan_does_not_need(launcher: Policy) -> None:
    permitted = {action for statement in launcher["Statement"] for action in _listed(statement["Action"])}
    needed = {action for path in SOURCES for action in _actions_of(path)}
    assert permitted <= needed | IMPLIED


@pytest.mark.parametrize(
    "change",
    [
        {"sagemaker:InstanceTypes": ["ml.p5en.48xlarge"]},
        {"sagemaker:InstanceTypes": ["ml.g5.xlarge", "ml.p5en.48xlarge"]},
        {"sagemaker:InstanceTypes": None},
        {"sagemaker:MaxRuntimeInSeconds": "432001"},
        {"sagemaker:MaxRuntimeInSeconds": None},
        {"sagemaker:KeepAlivePeriod": "1"},
        {"sagemaker:EnableRemoteDebug": "true"},
        {"aws:RequestTag/gpuplan:run": None},
        {"aws:RequestTag/gpuplan:run": ""},
    ],
    ids=str,
)
def test_a_launcher_may_not_start_anything_else(launcher: Policy, allows: Allows, change: Policy) -> None:
    context = {key: value for key, value in (REQUEST | change).items() if value is not None}
    assert not allows(launcher, "sagemaker:CreateTrainingJob", JOB, context)


@settings(deadline=None)  # the first example also reads the template
@given(
    types=st.lists(st.sampled_from(["ml.g5.xlarge", "ml.g5.12xlarge", "ml.p4d.24xlarge"]), max_size=3),
    seconds=st.integers(min_value=1, max_value=3_000_000),
    limit=st.integers(min_value=60, max_value=2_419_200),
)
def test_types_and_time_are_the_stacks(
    render: Render, allows: Allows, types: list[str], seconds: int, limit: int
) -> None:
    policy = _launcher(render({"InstanceTypes": "ml.g5.xlarge,ml.g5.12xlarge", "MaxRuntimeSeconds": str(limit)}))
    context = REQUEST | {"sagemaker:InstanceTypes": types or None, "sagemaker:MaxRuntimeInSeconds": seconds}
    permitted = bool(types) and "ml.p4d.24xlarge" not in types and seconds <= limit
    assert allows(policy, "sagemaker:CreateTrainingJob", JOB, context) is permitted


def test_network_isolation_is_required_only_if_the_stack_says_so(render: Render, allows: Allows) -> None:
    strict = _launcher(render({"RequireNetworkIsolation": "true"}))
    for isolated in ("true", "false"):
        context = REQUEST | {"sagemaker:NetworkIsolation": isolated}
        assert allows(_launcher(render()), "sagemaker:CreateTrainingJob", JOB, context)
        assert allows(strict, "sagemaker:CreateTrainingJob", JOB, context) is (isolated == "true")


def test_a_launcher_stops_only_jobs_of_gpuplan(launcher: Policy, allows: Allows) -> None:
    assert allows(launcher, "sagemaker:StopTrainingJob", JOB, {"aws:ResourceTag/gpuplan:run": "digits-01hxyz"})
    assert not allows(launcher, "sagemaker:StopTrainingJob", JOB)
    assert not allows(launcher, "sagemaker:StopTrainingJob", JOB, {"aws:ResourceTag/team": "ours"})


def test_a_launcher_cannot_make_somebody_elses_job_look_like_gpuplans(launcher: Policy, allows: Allows) -> None:
    tag = {"aws:RequestTag/gpuplan:run": "mine"}
    assert not allows(launcher, "sagemaker:AddTags", JOB, tag)
    assert not allows(launcher, "sagemaker:AddTags", JOB, tag | {"sagemaker:TaggingAction": "CreateModel"})


@pytest.mark.parametrize("action", ["sagemaker:DescribeTrainingJob", "sagemaker:ListTags"])
def test_reading_jobs_needs_no_tag_so_an_absent_job_is_absent_and_not_denied(
    launcher: Policy, allows: Allows, action: str
) -> None:
    assert allows(launcher, action, JOB)
    assert not allows(launcher, action, JOB.replace("training-job", "model"))
    assert not allows(launcher, action, JOB.replace("us-east-1", "eu-west-1"))


@pytest.mark.parametrize(
    ("resource", "service"),
    [
        ("arn:aws:iam::123456789012:role/Admin", "sagemaker.amazonaws.com"),
        (f"{ROLE}0", "sagemaker.amazonaws.com"),
        (ROLE, "ec2.amazonaws.com"),
        (ROLE, None),
    ],
)
def test_a_launcher_passes_one_role_to_one_service(
    launcher: Policy, allows: Allows, resource: str, service: str | None
) -> None:
    assert not allows(launcher, "iam:PassRole", resource, {"iam:PassedToService": service} if service else None)


@pytest.mark.parametrize("who", ["launcher", "role"])
@pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject"])
def test_objects_are_read_and_written_under_the_prefix_only(
    request: pytest.FixtureRequest, allows: Allows, who: str, action: str
) -> None:
    policy = request.getfixturevalue(who)
    assert allows(policy, action, OURS)
    for elsewhere in (
        f"{BUCKET}/other",
        f"{BUCKET}/gpuplan2/x",
        f"{BUCKET}-2/gpuplan/x",
        "arn:aws:s3:::data/gpuplan/x",
    ):
        assert not allows(policy, action, elsewhere)


@pytest.mark.parametrize("who", ["launcher", "role"])
def test_nobody_may_delete_objects_or_versions_or_change_the_bucket(
    request: pytest.FixtureRequest, allows: Allows, who: str
) -> None:
    policy = request.getfixturevalue(who)
    for action in ("s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectAcl"):
        assert not allows(policy, action, OURS)
    for action in ("s3:DeleteBucket", "s3:PutBucketPolicy", "s3:PutLifecycleConfiguration"):
        assert not allows(policy, action, BUCKET)


def test_a_launcher_may_list_the_bucket_so_that_a_missing_key_is_missing_and_not_denied(
    launcher: Policy, allows: Allows
) -> None:
    assert allows(launcher, "s3:ListBucket", BUCKET)


def test_the_role_lists_only_under_the_prefix(role: Policy, allows: Allows) -> None:
    assert allows(role, "s3:ListBucket", BUCKET, {"s3:prefix": "gpuplan/code/abc/"})
    assert not allows(role, "s3:ListBucket", BUCKET, {"s3:prefix": "other/"})
    assert not allows(role, "s3:ListBucket", BUCKET)


@pytest.mark.parametrize("which", ["launcher", "role"])
def test_a_data_bucket_can_be_read_in_its_folder_and_not_written(
    render: Render, allows: Allows, everything: dict[str, str], which: str
) -> None:
    policy = {"launcher": _launcher, "role": _role}[which](render(everything))
    data = "arn:aws:s3:::our-data"
    assert allows(policy, "s3:GetObject", f"{data}/imagenet/train/n01/1.jpg")
    assert allows(policy, "s3:ListBucket", data, {"s3:prefix": "imagenet/train/"})
    assert not allows(policy, "s3:GetObject", f"{data}/secret/1.jpg")
    assert not allows(policy, "s3:ListBucket", data, {"s3:prefix": "secret/"})
    assert not allows(policy, "s3:PutObject", f"{data}/imagenet/train/n01/1.jpg")


@pytest.mark.parametrize("which", ["launcher", "role"])
def test_a_key_is_used_through_s3_alone_and_only_if_there_is_one(
    render: Render, allows: Allows, everything: dict[str, str], which: str
) -> None:
    of = {"launcher": _launcher, "role": _role}[which]
    key, via = everything["KmsKeyArn"], {"kms:ViaService": "s3.us-east-1.amazonaws.com"}
    for action in ("kms:Decrypt", "kms:GenerateDataKey"):
        assert allows(of(render(everything)), action, key, via)
        assert not allows(of(render(everything)), action, key)
        assert not allows(of(render()), action, key, via)


def test_the_role_writes_its_logs_and_metrics_and_no_others(role: Policy, allows: Allows) -> None:
    assert allows(role, "logs:CreateLogGroup", LOGS)
    for action in ("logs:CreateLogStream", "logs:PutLogEvents"):
        assert allows(role, action, f"{LOGS}:log-stream:digits-01hxyz-train-1/algo-1-1")
        assert not allows(role, action, f"{LOGS.replace('TrainingJobs', 'Endpoints')}:log-stream:x")
    assert allows(role, "cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": "/aws/sagemaker/TrainingJobs"})
    assert not allows(role, "cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": "AWS/EC2"})


def test_a_launcher_reads_logs_and_writes_none(launcher: Policy, allows: Allows) -> None:
    assert allows(launcher, "logs:DescribeLogStreams", f"{LOGS}:*")
    assert allows(launcher, "logs:GetLogEvents", f"{LOGS}:log-stream:digits-01hxyz-train-1/algo-1-1")
    assert not allows(launcher, "logs:PutLogEvents", f"{LOGS}:log-stream:x")


def test_the_role_pulls_awss_pytorch_images_of_its_region_and_ones_own(
    render: Render, allows: Allows, everything: dict[str, str]
) -> None:
    image = "arn:aws:ecr:us-east-1:763104351884:repository/{}"
    for repository in ("pytorch", "pytorch-training"):
        assert allows(_role(render()), "ecr:BatchGetImage", image.format(repository))
    assert not allows(_role(render()), "ecr:BatchGetImage", image.format("pytorch-inference"))
    own = everything["ImageRepositoryArn"]
    assert allows(_role(render(everything)), "ecr:BatchGetImage", own)
    assert not allows(_role(render()), "ecr:BatchGetImage", own)


def test_only_sagemaker_acting_for_this_account_becomes_the_role(render: Render, everything: dict[str, str]) -> None:
    properties = render()["Resources"]["ExecutionRole"]["Properties"]
    (trust,) = properties["AssumeRolePolicyDocument"]["Statement"]
    assert trust == {
        "Effect": "Allow",
        "Principal": {"Service": "sagemaker.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": "123456789012"}},
    }
    assert "PermissionsBoundary" not in properties
    assert "ManagedPolicyArns" not in properties
    bounded = render(everything)["Resources"]["ExecutionRole"]["Properties"]
    assert bounded["PermissionsBoundary"] == everything["PermissionsBoundaryArn"]


def test_a_launcher_sees_this_stack_by_name_and_no_other(launcher: Policy, allows: Allows) -> None:
    stack = "arn:aws:cloudformation:us-east-1:123456789012:stack/{}/*"
    assert allows(launcher, "cloudformation:DescribeStacks", stack.format("gpuplan"))
    assert not allows(launcher, "cloudformation:DescribeStacks", stack.format("other"))


def _actions_of(path: Path) -> set[str]:
    """Return the IAM actions of the AWS operations that a module names, of the services it makes clients of."""
    text = path.read_text(encoding="utf-8")
    words = set(re.findall(r"[a-z][a-z0-9_]+", text))
    found = set()
    for service in set(re.findall(r'client\("([a-z0-9-]+)"\)', text)) - {"sts"}:
        operations = {xform_name(name): name for name in _model(service).operation_names}
        for operation in words & operations.keys():
            action = f"{service.replace('-', '')}:{operations[operation]}"
            found.add(IAM_NAMES.get(action, action))
    return found


@cache
def _model(service: str) -> ServiceModel:
    return ServiceModel(Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH]).load_service_model(service, "service-2"))


def _launcher(rendered: dict[str, Any]) -> Policy:
    document: Policy = rendered["Resources"]["LauncherPolicy"]["Properties"]["PolicyDocument"]
    return document


def _role(rendered: dict[str, Any]) -> Policy:
    (policy,) = rendered["Resources"]["ExecutionRole"]["Properties"]["Policies"]
    document: Policy = policy["PolicyDocument"]
    return document


def _listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]
