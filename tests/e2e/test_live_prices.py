"""`--live-prices` as a user meets it: the CLI in its own process against an emulated price list."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.core.errors import ExitCode

if TYPE_CHECKING:
    from e2e.conftest import Client
    from gpuplan.testing import Emulator

PLAN = ("plan", "--instance", "g5", "--live-prices")
DENIED = "User: arn:aws:iam::123456789012:user/ada is not authorized to perform: pricing:GetProducts"


@pytest.fixture
def priced(scripted: Client) -> Client:
    for kind, ec2, sagemaker in (("g5.xlarge", "1.1", "1.5"), ("g5.12xlarge", "5.9", "7.5")):
        scripted.aws.price("ec2", kind, ec2)
        scripted.aws.price("sagemaker", kind, sagemaker)
    scripted.aws.spot_price("g5.12xlarge", {"us-east-1a": "2.0", "us-east-1b": "2.5", "us-east-1c": "3.0"})
    return scripted


ASKED = (16, 8)
"""Of g5.12xlarge, g5.48xlarge and six single-GPU instances for lr-find: EC2's and SageMaker's price, and spot."""


def lookups(aws: Emulator) -> tuple[int, int]:
    return aws.calls_of("GetProducts"), aws.calls_of("DescribeSpotPriceHistory")


def test_a_plan_at_live_prices_is_launched_at_them_and_asks_once_a_day(priced: Client) -> None:
    done = priced.run(*PLAN, "--pipeline", "lr", "--out", "plan.json")
    assert done.returncode == 0, done.stderr
    assert "ml.g5.xlarge $1.50/h in us-east-1 (20" in done.stdout
    assert "0 days old, live)" in done.stdout
    assert "gpuplan launch --instance g5 --pipeline lr --live-prices" in done.stdout
    assert lookups(priced.aws) == ASKED

    document: dict[str, Any] = priced.json(*PLAN)
    assert lookups(priced.aws) == ASKED, "the answers are kept"
    train = next(step for step in document["steps"] if step["name"] == "train")
    assert train["rate_usd_per_hour"]["amount"] == "7.5"
    spot = train["alternatives"][-1]
    assert (spot["service"], spot["purchase"], spot["rate_usd_per_hour"]["amount"]) == ("ec2", "spot", "2.5")

    unset = dict.fromkeys((name for name in priced.environment if name.startswith("GPUPLAN_")), "")
    launched = priced.run(
        "launch", "--plan", "plan.json", "--yes", "--detach", **unset | {"GPUPLAN_HOME": str(priced.home)}
    )
    assert launched.returncode == ExitCode.INTERRUPTED, launched.stderr
    assert "ml.g5.xlarge $1.50/h" in launched.stderr
    assert len(priced.aws.jobs()) == 1
    assert lookups(priced.aws) == ASKED, "a saved plan brings its prices"


def test_launch_takes_live_prices_itself(priced: Client) -> None:
    launched = priced.run("launch", "--instance", "g5", "--pipeline", "lr", "--live-prices", "--yes", "--detach")
    assert launched.returncode == ExitCode.INTERRUPTED, launched.stderr
    assert "ml.g5.xlarge $1.50/h in us-east-1" in launched.stderr
    assert len(priced.aws.jobs()) == 1


def test_a_lookup_that_is_denied_is_an_error_and_no_plan(priced: Client) -> None:
    priced.aws.faults.refuse("GetProducts", "AccessDeniedException", message=DENIED)
    done = priced.run(*PLAN, "-o", "json")
    assert done.returncode == ExitCode.CREDENTIALS
    error = json.loads(done.stdout)["error"]
    assert "pricing:GetProducts" in error["what"]
    assert "drop --live-prices" in error["fix"]
    assert "allow pricing:GetProducts" in error["fix"]


def test_without_credentials_there_is_no_live_plan_and_no_calls(priced: Client) -> None:
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    done = priced.run(*PLAN, **nobody)
    assert done.returncode == ExitCode.CREDENTIALS
    assert "drop --live-prices" in done.stderr
    assert lookups(priced.aws) == (0, 0)
