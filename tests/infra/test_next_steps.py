"""What a deployed stack is for: the doctor is content with it, and launch takes role and bucket from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpuplan.aws.stack import outputs
from gpuplan.cli.app import main

if TYPE_CHECKING:
    from gpuplan.aws.session import Session
    from gpuplan.testing import Emulator

Capture = pytest.CaptureFixture[str]


def gpuplan(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_after_a_deploy_the_doctor_is_content_and_launch_takes_role_and_bucket_from_the_stack(
    account: Session, emulator: Emulator, stack_name: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("HOME", "home"), ("STACK", stack_name), ("WHEELS", "false"), ("POLL_SECONDS", "0.1")):
        monkeypatch.setenv(f"GPUPLAN_{name}", value)
    assert gpuplan("infra", "deploy", "--yes") == 0
    assert " next             gpuplan doctor --instance g5\n" in capsys.readouterr().out
    made = outputs(account, stack_name)
    assert made is not None
    assert gpuplan("doctor", "--instance", "g5") == 0
    gpuplan("launch", "--instance", "g5", "--yes", "--detach")
    [job] = emulator.jobs()
    assert job.request["RoleArn"] == made.role_arn
    assert job.request["OutputDataConfig"]["S3OutputPath"].startswith(f"s3://{made.bucket}/gpuplan/runs/")
    assert gpuplan("infra", "destroy", "--yes") == 0
    assert f"the bucket {made.bucket} stays" in capsys.readouterr().out
    assert account.client("s3").list_objects_v2(Bucket=made.bucket, Prefix="gpuplan/runs/")["KeyCount"]


def test_the_next_command_names_what_flags_named(account: Session, stack_name: str, capsys: Capture) -> None:
    assert gpuplan("infra", "deploy", "--yes", "--stack", stack_name, "--region", account.region) == 0
    assert f"gpuplan doctor --instance g5 --region {account.region} --stack {stack_name}" in capsys.readouterr().out
