from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.cli.app import main
from gpuplan.testing import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(execute=False) as running:
        yield running


@pytest.fixture(scope="module")
def account(emulator: Emulator) -> list[str]:
    """A bucket, a role and AWS's own image; the options that name the first two."""
    bucket, role = emulator.prepare()
    s3 = emulator.client("s3")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return ["--bucket", bucket, "--role", role]


@pytest.fixture(autouse=True)
def environment(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    return int(ended.value.code or 0)


def diagnosed(capsys: Capture, *arguments: str) -> tuple[int, dict[str, Any]]:
    status = run(*arguments, "-o", "json")
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["exit_code"] == status
    return status, document


def found(document: dict[str, Any], name: str) -> list[dict[str, str]]:
    return [check for check in document["checks"] if check["name"] == name]


def image(emulator: Emulator, uri: str) -> None:
    """Put an image where its name says."""
    registry, _, rest = uri.partition("/")
    repository, _, tag = rest.partition(":")
    owner = registry.partition(".")[0]
    ecr = emulator.client("ecr")
    ecr.create_repository(registryId=owner, repositoryName=repository)
    manifest = {"imageManifest": "{}", "imageManifestMediaType": "application/vnd.oci.image.manifest.v1+json"}
    ecr.put_image(registryId=owner, repositoryName=repository, imageTag=tag, **manifest)


def test_a_ready_account_exits_0_and_leads_to_the_launch(
    emulator: Emulator, account: list[str], capsys: Capture
) -> None:
    own = "123456789012.dkr.ecr.us-east-1.amazonaws.com/train:1"
    image(emulator, own)
    arguments = ["--instance", "g5", *account, "--image", own]
    assert run(*arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("gpuplan doctor · g5.12xlarge · account 123456789012 · us-east-1 · nothing was changed")
    assert "ml.g5.12xlarge for training job usage: 1000, this run needs 1 (quota L-" in out
    assert " next    gpuplan launch --instance g5 --role " in out
    assert "ERROR" not in out


def test_region_and_profile_are_shown_with_who_said_so(account: list[str], capsys: Capture) -> None:
    _, document = diagnosed(capsys, *account, "--instance", "g5")
    assert document["region"] == {"value": "us-east-1", "from": "AWS_REGION"}
    assert document["profile"] == {"from": "AWS_ACCESS_KEY_ID"}
    _, document = diagnosed(capsys, *account, "--instance", "g5", "--region", "eu-west-1")
    assert document["region"] == {"value": "eu-west-1", "from": "--region"}
    [bucket] = found(document, "bucket")
    assert (bucket["status"], bucket["fix"].startswith("add --region us-east-1")) == ("error", True)


def test_the_instances_default_region_is_not_mistaken_for_an_aws_profiles(
    account: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REGION")
    _, document = diagnosed(capsys, *account, "--instance", "g5")
    assert document["region"] == {"value": "us-east-1", "from": "instance profile g5.12xlarge"}


def test_without_any_region_that_is_said_first(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    assert run() == 2
    assert "no AWS region is known" in capsys.readouterr().err


def test_a_quota_of_0_exits_4_with_the_request_to_paste(
    emulator: Emulator, account: list[str], capsys: Capture
) -> None:
    emulator.quota("ml.g5.12xlarge", 0, spot=True)
    status, document = diagnosed(capsys, *account, "--instance", "g5", "--spot", "--image", "elsewhere.example/x")
    assert status == 4
    finder, trainer = found(document, "quota")
    assert (finder["status"], trainer["status"]) == ("ok", "error")
    assert trainer["message"].startswith("ml.g5.12xlarge for spot training job usage: 0, this run needs 1 (quota L-")
    assert trainer["fix"].startswith("aws service-quotas request-service-quota-increase --service-code sagemaker")


def test_every_node_counts_against_the_quota(emulator: Emulator, account: list[str], capsys: Capture) -> None:
    emulator.quota("ml.g5.12xlarge", 1)
    status, document = diagnosed(capsys, *account, "--instance", "g5", "--nodes", "2")
    emulator.quota("ml.g5.12xlarge", 1000)
    assert status == 4
    assert found(document, "quota")[1]["message"].startswith(
        "ml.g5.12xlarge for training job usage: 1, this run needs 2"
    )


def test_a_retired_instance_exits_5_whatever_else_is_wrong(
    emulator: Emulator, account: list[str], capsys: Capture
) -> None:
    emulator.faults.refuse("DescribeRegions", "UnauthorizedOperation", 403, "You are not authorized", 1)
    status, document = diagnosed(capsys, *account, "--instance", "p3")
    assert status == 5
    assert [check["status"] for check in found(document, "offering")] == ["ok", "error"], "lr-find runs elsewhere"
    [lifecycle] = found(document, "lifecycle")
    assert lifecycle["fix"] == "gpuplan plan --instance p4d.24xlarge"


def test_without_role_bucket_and_stack_it_exits_2_and_leads_to_the_stack(capsys: Capture) -> None:
    status, document = diagnosed(capsys, "--instance", "g5", "--image", "elsewhere.example/x")
    assert status == 2
    [stack] = found(document, "stack")
    assert stack["fix"] == "gpuplan infra deploy --region us-east-1"


def test_refused_credentials_exit_3_and_nothing_else_is_asked(emulator: Emulator, capsys: Capture) -> None:
    emulator.faults.refuse("GetCallerIdentity", "ExpiredToken", 403, "The security token is expired", 1)
    status, document = diagnosed(capsys, "--instance", "g5")
    assert status == 3
    assert document["account"] == {"unknown": document["checks"][0]["message"]}
    assert document["checks"][-1]["name"] == "everything else"
    assert not found(document, "quota")


def test_the_doctor_only_reads(emulator: Emulator, account: list[str]) -> None:
    before = len(emulator.calls)
    run(*account, "--instance", "g5")
    asked = {call.operation for call in emulator.calls[before:]}
    assert asked
    assert all(operation.startswith(("Get", "Describe", "List", "Head")) for operation in asked), asked


def test_without_an_instance_of_aws_it_looks_at_the_account_and_says_that_it_is_no_more(
    account: list[str], capsys: Capture
) -> None:
    assert run(*account) == 0
    out = capsys.readouterr().out
    assert "no instance of AWS was asked about" in out
    assert " next    gpuplan doctor --instance g5 --role " in out
    for absent in ("quota  ", "offering  ", "image  ", "lifecycle  "):
        assert absent not in out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--max-cost", "0.01"), 6, "passes --max-cost $0.01"),
        (("--data", "imagenet"), 2, "is a description for plans"),
    ],
)
def test_a_plan_that_launch_would_refuse_is_not_ready(
    account: list[str], capsys: Capture, arguments: tuple[str, ...], status: int, said: str
) -> None:
    found_status, document = diagnosed(
        capsys, *account, "--instance", "g5", "--image", "elsewhere.example/x", *arguments
    )
    assert found_status == status
    assert document["checks"][-1]["name"] == "plan"
    assert said in document["checks"][-1]["message"]
