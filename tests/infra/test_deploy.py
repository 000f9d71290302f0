"""`gpuplan infra` against a CloudFormation that makes real buckets, roles and policies: deploy, change, show, destroy.

What the emulator leaves out of the template (bucket policy, lifecycle, budget) is asserted on the template itself.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from moto.cloudformation.models import cloudformation_backends

from gpuplan.aws.stack import outputs
from gpuplan.aws.stack_parameters import instance_types
from gpuplan.cli.app import main

if TYPE_CHECKING:
    from gpuplan.aws.session import Session

Capture = pytest.CaptureFixture[str]
ACCOUNT = "123456789012"
REGION = "eu-west-1"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["infra", *arguments])
    return int(ended.value.code or 0)


def deploy(stack_name: str, *arguments: str) -> int:
    return run("deploy", "--stack", stack_name, "--yes", *arguments)


def status_of(account: Session, stack_name: str) -> list[str]:
    stacks = account.client("cloudformation").list_stacks()["StackSummaries"]
    return [stack["StackStatus"] for stack in stacks if stack["StackName"] == stack_name]


def launcher_policy(account: Session, arn: str) -> dict[str, Any]:
    iam = account.client("iam")
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    document: dict[str, Any] = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    return document


def set_status(stack_name: str, status: str) -> None:
    """Put a stack into a state that moto never reaches by itself."""
    for stack in cloudformation_backends[ACCOUNT][REGION].stacks.values():
        if stack.name == stack_name:
            stack.status = status


def test_deploy_makes_bucket_role_and_policy_and_prints_them(
    account: Session, stack_name: str, capsys: Capture
) -> None:
    assert deploy(stack_name, "--instance-types", "g5", "--max-runtime-hours", "12", "-o", "json") == 0
    document = json.loads(capsys.readouterr().out)
    made = outputs(account, stack_name)
    assert made is not None
    stack = document["stack"]
    assert (document["schema"], document["changed"]) == ("gpuplan.infra-deploy/1", True)
    assert (stack["bucket"], stack["role_arn"]) == (made.bucket, made.role_arn)
    assert stack["launcher_policy_arn"] == made.launcher_policy_arn
    s3 = account.client("s3")
    assert s3.get_bucket_location(Bucket=made.bucket)["LocationConstraint"] == REGION
    role = account.client("iam").get_role(RoleName=made.role_arn.rpartition("/")[2])["Role"]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    (start, *_) = launcher_policy(account, made.launcher_policy_arn)["Statement"]
    assert start["Condition"]["ForAllValues:StringEquals"] == {
        "sagemaker:InstanceTypes": instance_types("g5").split(",")
    }
    assert start["Condition"]["NumericLessThanEquals"] == {"sagemaker:MaxRuntimeInSeconds": "43200"}


def test_deploy_says_where_and_what_before_it_asks_and_changes_nothing_without_a_yes(
    account: Session, stack_name: str, capsys: Capture
) -> None:
    before = {bucket["Name"] for bucket in account.client("s3").list_buckets()["Buckets"]}
    assert run("deploy", "--stack", stack_name) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for said in (ACCOUNT, "eu-west-1   from AWS_REGION", "+ add    Bucket", "AWS::IAM::ManagedPolicy", "add --yes"):
        assert said in captured.err
    assert captured.err.index("+ add") < captured.err.index("nobody is here to say yes")
    assert status_of(account, stack_name) == ["DELETE_COMPLETE"]
    assert {bucket["Name"] for bucket in account.client("s3").list_buckets()["Buckets"]} == before


class Terminal(io.StringIO):
    """What somebody at a terminal types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "code", "status"), [("y\n", 0, "CREATE_COMPLETE"), ("\n", 2, "DELETE_COMPLETE")])
def test_at_a_terminal_it_asks_and_takes_no_answer_for_a_no(
    account: Session, stack_name: str, monkeypatch: pytest.MonkeyPatch, typed: str, code: int, status: str
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    monkeypatch.setattr("sys.stderr", Terminal())
    assert run("deploy", "--stack", stack_name) == code
    assert status_of(account, stack_name) == [status]


def test_deploying_the_same_again_changes_nothing_and_keeps_what_was_set(
    account: Session, stack_name: str, capsys: Capture
) -> None:
    assert deploy(stack_name, "--instance-types", "g5", "--parameter", "CheckpointDays=90") == 0
    first = outputs(account, stack_name)
    capsys.readouterr()
    assert deploy(stack_name, "-o", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["changed"] is False
    assert document["stack"]["parameters"]["InstanceTypes"] == instance_types("g5")
    assert document["stack"]["parameters"]["CheckpointDays"] == "90"
    assert outputs(account, stack_name) == first


def test_a_change_shows_each_parameter_before_and_after_and_keeps_the_bucket(
    account: Session, stack_name: str, capsys: Capture
) -> None:
    assert deploy(stack_name, "--max-runtime-hours", "12") == 0
    first = outputs(account, stack_name)
    capsys.readouterr()
    assert deploy(stack_name, "--max-runtime-hours", "24") == 0
    said = capsys.readouterr()
    assert "changes the stack" in said.err
    assert " MaxRuntimeSeconds   43200    86400" in said.err
    assert "UPDATE_COMPLETE" in said.out
    second = outputs(account, stack_name)
    assert first is not None
    assert second is not None
    assert second.bucket == first.bucket


def test_settings_of_the_configuration_file_count_and_flags_come_before_them(
    account: Session,
    stack_name: str,
    capsys: Capture,
    tmp_path: Any,  # noqa: ANN401 - a path
) -> None:
    config = tmp_path / "gpuplan.toml"
    config.write_text(f'[aws]\nstack = "{stack_name}"\nregion = "us-west-2"\nprefix = "team-a"\n')
    assert run("deploy", "--yes", "--region", "eu-west-1", "-o", "json") == 0
    captured = capsys.readouterr()
    assert "eu-west-1   from --region" in captured.err
    stack = json.loads(captured.out)["stack"]
    assert (stack["name"], stack["parameters"]["Prefix"]) == (stack_name, "team-a")
    assert stack["id"].split(":")[3] == "eu-west-1"
    assert account.region == "eu-west-1"


def test_show_tells_the_outputs_state_and_whether_the_template_is_current(
    account: Session, stack_name: str, capsys: Capture
) -> None:
    assert run("show", "--stack", stack_name) == 0
    assert "not deployed in eu-west-1" in capsys.readouterr().out
    assert run("destroy", "--stack", stack_name, "--yes") == 2
    said = capsys.readouterr().err
    assert f"there is no stack {stack_name} in eu-west-1" in said
    assert f"looked in account {ACCOUNT}, region from AWS_REGION" in said
    deploy(stack_name)
    made = outputs(account, stack_name)
    assert made is not None
    capsys.readouterr()
    assert run("show", "--stack", stack_name) == 0
    text = capsys.readouterr().out
    for said in (made.bucket, made.role_arn, made.launcher_policy_arn, "CREATE_COMPLETE", "as this gpuplan ships it"):
        assert said in text
    assert run("show", "--stack", stack_name, "-o", "json") == 0
    stack = json.loads(capsys.readouterr().out)["stack"]
    assert stack["deployed"] is True
    assert stack["bucket"] == made.bucket
    assert stack["template_is_current"] is True
    assert stack["drift"] == {"unknown": "never checked"}


def test_destroy_deletes_the_stack_and_its_empty_bucket(account: Session, stack_name: str, capsys: Capture) -> None:
    deploy(stack_name)
    made = outputs(account, stack_name)
    assert made is not None
    capsys.readouterr()
    assert run("destroy", "--stack", stack_name, "--yes", "-o", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "schema": "gpuplan.infra-destroy/1",
        "stack": stack_name,
        "bucket": {"name": made.bucket, "kept": False},
    }
    assert made.bucket not in {bucket["Name"] for bucket in account.client("s3").list_buckets()["Buckets"]}
    assert outputs(account, stack_name) is None
    assert made.role_arn not in {role["Arn"] for role in account.client("iam").list_roles()["Roles"]}


@pytest.mark.parametrize("only_old_versions", [False, True])
def test_destroy_keeps_a_bucket_that_holds_anything_and_says_how_to_empty_it(
    account: Session, stack_name: str, capsys: Capture, *, only_old_versions: bool
) -> None:
    deploy(stack_name)
    made = outputs(account, stack_name)
    assert made is not None
    s3 = account.client("s3")
    s3.put_bucket_versioning(Bucket=made.bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket=made.bucket, Key="gpuplan/runs/r/state.json", Body=b"{}")
    if only_old_versions:
        s3.delete_object(Bucket=made.bucket, Key="gpuplan/runs/r/state.json")
        assert s3.list_objects_v2(Bucket=made.bucket)["KeyCount"] == 0
    capsys.readouterr()
    assert run("destroy", "--stack", stack_name, "--yes") == 0
    text = capsys.readouterr().out
    assert f"the bucket {made.bucket} stays: it is not empty" in text
    assert f"delete-bucket --bucket {made.bucket}" in text
    assert s3.list_object_versions(Bucket=made.bucket)["Versions"]
    assert outputs(account, stack_name) is None


def test_destroy_asks_and_before_that_names_who_still_has_the_launcher_policy(
    account: Session, stack_name: str, capsys: Capture
) -> None:
    deploy(stack_name)
    made = outputs(account, stack_name)
    assert made is not None
    iam = account.client("iam")
    iam.create_user(UserName=stack_name)
    capsys.readouterr()
    assert run("destroy", "--stack", stack_name) == 2
    captured = capsys.readouterr()
    assert "deleted only if it is empty" in captured.err
    assert "add --yes" in captured.err
    iam.attach_user_policy(UserName=stack_name, PolicyArn=made.launcher_policy_arn)
    assert run("destroy", "--stack", stack_name, "--yes") == 2
    said = capsys.readouterr().err
    assert f"still attached to user {stack_name}" in said
    assert f"aws iam detach-user-policy --user-name {stack_name} --policy-arn {made.launcher_policy_arn}" in said
    assert outputs(account, stack_name) == made


def test_a_creation_that_failed_must_be_removed_first_and_can_be(
    account: Session, stack_name: str, capsys: Capture
) -> None:
    deploy(stack_name)
    set_status(stack_name, "ROLLBACK_COMPLETE")
    capsys.readouterr()
    assert deploy(stack_name) == 2
    said = capsys.readouterr().err
    assert "is ROLLBACK_COMPLETE" in said
    assert f"gpuplan infra destroy --stack {stack_name} --region eu-west-1" in said
    assert run("destroy", "--stack", stack_name, "--yes") == 0
    assert outputs(account, stack_name) is None
    assert deploy(stack_name) == 0


@pytest.mark.parametrize(("verb", "status"), [("deploy", "DELETE_IN_PROGRESS"), ("destroy", "UPDATE_IN_PROGRESS")])
def test_nothing_is_begun_while_an_operation_is_under_way(
    account: Session, stack_name: str, capsys: Capture, status: str, verb: str
) -> None:
    deploy(stack_name)
    set_status(stack_name, status)
    capsys.readouterr()
    assert run(verb, "--stack", stack_name, "--yes") == 2
    said = capsys.readouterr().err
    assert f"is {status}" in said
    assert "one at a time" in said
    set_status(stack_name, "CREATE_COMPLETE")
    assert outputs(account, stack_name) is not None


@pytest.mark.parametrize("verb", ["deploy", "destroy"])
def test_a_stack_of_somebody_else_is_left_alone(account: Session, stack_name: str, capsys: Capture, verb: str) -> None:
    body = json.dumps({"Resources": {"Theirs": {"Type": "AWS::SQS::Queue"}}})
    account.client("cloudformation").create_stack(StackName=stack_name, TemplateBody=body)
    assert run(verb, "--stack", stack_name, "--yes") == 2
    assert f"the stack {stack_name} in eu-west-1 is not gpuplan's" in capsys.readouterr().err
    assert status_of(account, stack_name) == ["CREATE_COMPLETE"]
    assert run("show", "--stack", stack_name) == 0
    assert "is not gpuplan's" in capsys.readouterr().out
