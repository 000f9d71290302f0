"""Describe, List, Stop and tags, quotas, and the states that a test puts jobs into."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from gpuplan.testing import EmulatorError

if TYPE_CHECKING:
    from gpuplan.testing import Emulator
    from testing.conftest import MakeRequest


def create(aws: Emulator, body: dict[str, Any]) -> str:
    return str(aws.client("sagemaker").create_training_job(**body)["TrainingJobArn"])


def describe(aws: Emulator, name: str) -> dict[str, Any]:
    return dict(aws.client("sagemaker").describe_training_job(TrainingJobName=name))


def test_describe_shows_the_request_with_the_defaults_that_aws_adds(held: Emulator, make_request: MakeRequest) -> None:
    body = make_request("shown", {"Environment": {"A": "1"}, "HyperParameters": {"b": "2"}})
    metric = [{"Name": "loss", "Regex": "loss=(.*)"}]
    body["AlgorithmSpecification"]["MetricDefinitions"] = metric
    arn = create(held, body)
    shown = describe(held, "shown")
    for key in ("Environment", "HyperParameters", "ResourceConfig", "StoppingCondition", "CheckpointConfig", "RoleArn"):
        assert shown[key] == body[key]
    assert shown["TrainingJobArn"] == arn
    assert shown["AlgorithmSpecification"]["MetricDefinitions"] == metric
    assert shown["EnableNetworkIsolation"] is True
    assert shown["EnableManagedSpotTraining"] is False
    assert shown["OutputDataConfig"]["CompressionType"] == "GZIP"
    assert shown["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3DataDistributionType"] == "FullyReplicated"
    assert (shown["TrainingJobStatus"], shown["SecondaryStatus"]) == ("InProgress", "Starting")
    assert held.job("shown").request == body
    assert "BillableTimeInSeconds" not in shown


def test_billing_starts_with_the_download(held: Emulator, make_request: MakeRequest) -> None:
    create(held, make_request("billing"))
    assert "TrainingStartTime" not in describe(held, "billing")
    held.advance("billing", "Downloading")
    began = describe(held, "billing")["TrainingStartTime"]
    held.complete("billing", {"results/1/lr_result.json": b"{}"}, billed_seconds=600)
    shown = describe(held, "billing")
    assert shown["TrainingStartTime"] == began
    assert shown["BillableTimeInSeconds"] == shown["TrainingTimeInSeconds"] == 600
    states = [each["Status"] for each in shown["SecondaryStatusTransitions"]]
    assert states == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    key = "billing/checkpoints/results/1/lr_result.json"
    assert held.client("s3").get_object(Bucket="gpuplan-test", Key=key)["Body"].read() == b"{}"


def test_a_spot_job_is_billed_a_fraction(held: Emulator, make_request: MakeRequest) -> None:
    spot = {"EnableManagedSpotTraining": True, "StoppingCondition.MaxWaitTimeInSeconds": 600}
    create(held, make_request("fraction", spot))
    held.complete("fraction", billed_seconds=1000)
    assert held.job("fraction").training_seconds == 1000
    assert held.job("fraction").billable_seconds == 350


def test_a_failed_job_says_why(held: Emulator, make_request: MakeRequest) -> None:
    create(held, make_request("failed"))
    held.fail("failed", "AlgorithmError: out of memory, exit code: 1")
    shown = describe(held, "failed")
    assert (shown["TrainingJobStatus"], shown["FailureReason"]) == (
        "Failed",
        "AlgorithmError: out of memory, exit code: 1",
    )


def test_stop_takes_a_job_to_stopped_and_refuses_one_that_ended(held: Emulator, make_request: MakeRequest) -> None:
    create(held, make_request("stopped"))
    held.faults.stuck_stopping("stopped", 0.3)
    client = held.client("sagemaker")
    client.stop_training_job(TrainingJobName="stopped")
    client.stop_training_job(TrainingJobName="stopped")
    assert held.job("stopped").status == "Stopping"
    held.faults.clear()
    assert held.job("stopped").path == ("Starting", "Stopping", "Stopped")
    with pytest.raises(ClientError, match="rejected because the training job is in status Stopped"):
        client.stop_training_job(TrainingJobName="stopped")
    with pytest.raises(ClientError, match=r"Requested resource not found\."):
        client.stop_training_job(TrainingJobName="never")


def test_limits_that_were_exceeded_end_in_stopped(held: Emulator, make_request: MakeRequest) -> None:
    for name, state in (("too-long", "MaxRuntimeExceeded"), ("waited", "MaxWaitTimeExceeded")):
        create(held, make_request(name))
        held.advance(name, state)
        assert (held.job(name).status, held.job(name).secondary_status) == ("Stopped", state)


def test_list_filters_sorts_and_pages(held: Emulator, make_request: MakeRequest) -> None:
    names = [f"page-{number:02}" for number in range(12)]
    for name in names:
        create(held, make_request(name))
    held.complete("page-03")
    client = held.client("sagemaker")
    assert len(client.list_training_jobs(NameContains="PAGE")["TrainingJobSummaries"]) == 10
    pages = client.get_paginator("list_training_jobs").paginate(
        NameContains="page-", SortBy="Name", SortOrder="Descending", PaginationConfig={"PageSize": 5}
    )
    listed = [job["TrainingJobName"] for page in pages for job in page["TrainingJobSummaries"]]
    assert listed == names[::-1]
    newest_first = {"NameContains": "page-", "SortOrder": "Descending", "StatusEquals": "Completed"}
    first = client.list_training_jobs(**newest_first, MaxResults=5)
    assert not first["TrainingJobSummaries"], "a page is cut before it is filtered by status"
    second = client.list_training_jobs(**newest_first, MaxResults=5, NextToken=first["NextToken"])
    assert [job["TrainingJobName"] for job in second["TrainingJobSummaries"]] == ["page-03"]
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert not client.list_training_jobs(CreationTimeAfter=later)["TrainingJobSummaries"]
    with pytest.raises(ClientError, match="NextToken"):
        client.list_training_jobs(NextToken="x")


def test_jobs_of_other_regions_and_accounts_are_not_seen(held: Emulator, make_request: MakeRequest) -> None:
    create(held, make_request("here"))
    for client in (held.client("sagemaker", region="us-west-2"), held.client("sagemaker", account="999999999999")):
        assert not client.list_training_jobs()["TrainingJobSummaries"]
        with pytest.raises(ClientError, match=r"Requested resource not found\."):
            client.describe_training_job(TrainingJobName="here")


def test_tags_come_with_the_request_and_change_later(held: Emulator, make_request: MakeRequest) -> None:
    tags = [{"Key": "gpuplan:run", "Value": "a b/c"}, {"Key": "gpuplan:step", "Value": "train"}]
    arn = create(held, make_request("tagged", {"Tags": tags}))
    client = held.client("sagemaker")
    assert client.list_tags(ResourceArn=arn)["Tags"] == tags
    client.add_tags(ResourceArn=arn, Tags=[{"Key": "gpuplan:step", "Value": "lr-find"}])
    client.delete_tags(ResourceArn=arn, TagKeys=["gpuplan:run"])
    assert held.job("tagged").tags == {"gpuplan:step": "lr-find"}
    assert held.job("tagged").request["Tags"] == tags
    with pytest.raises(ClientError, match="at most 50"):
        client.add_tags(ResourceArn=arn, Tags=[{"Key": f"k{n}", "Value": ""} for n in range(50)])


def test_quotas_are_listed_by_name_and_enforced(held: Emulator, make_request: MakeRequest) -> None:
    held.quota("ml.p5.48xlarge", 1)
    held.quota("ml.p5.48xlarge", 0, spot=True)
    quotas = held.client("service-quotas")
    pages = quotas.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    found = {each["QuotaName"]: each for page in pages for each in page["Quotas"]}
    quota = found["ml.p5.48xlarge for training job usage"]
    assert quota["Value"] == 1.0
    assert found["ml.p5.48xlarge for spot training job usage"]["Value"] == 0.0
    assert quotas.get_service_quota(ServiceCode="sagemaker", QuotaCode=quota["QuotaCode"])["Quota"] == quota
    default = quotas.get_aws_default_service_quota(ServiceCode="sagemaker", QuotaCode=quota["QuotaCode"])
    assert default["Quota"]["Value"] == 0.0
    p5 = {"ResourceConfig.InstanceType": "ml.p5.48xlarge"}
    create(held, make_request("first-p5", p5))
    with pytest.raises(ClientError, match=r"'ml\.p5\.48xlarge for training job usage' is 1 Instances, with .* of 1 "):
        create(held, make_request("second-p5", p5))
    held.complete("first-p5")
    create(held, make_request("second-p5", p5))


def test_no_capacity_fails_the_job_after_it_was_accepted(held: Emulator, make_request: MakeRequest) -> None:
    held.faults.capacity("ml.g5.*", times=1)
    create(held, make_request("no-capacity"))
    job = held.job("no-capacity")
    assert job.path == ("Starting", "Failed")
    assert job.failure_reason.startswith("CapacityError: Unable to provision requested ML compute capacity.")
    assert job.billable_seconds == 0
    create(held, make_request("capacity"))
    assert held.job("capacity").status == "InProgress"


def test_a_fresh_job_may_hide_and_a_job_may_show_any_state(held: Emulator, make_request: MakeRequest) -> None:
    held.faults.hide("hidden-*", seconds=60)
    create(held, make_request("hidden-1"))
    with pytest.raises(ClientError, match=r"Requested resource not found\."):
        describe(held, "hidden-1")
    listed = held.client("sagemaker").list_training_jobs(NameContains="hidden-1")
    assert not listed["TrainingJobSummaries"]
    held.faults.clear()
    held.faults.status("hidden-1", "Hibernating", "Sleeping")
    shown = describe(held, "hidden-1")
    assert (shown["TrainingJobStatus"], shown["SecondaryStatus"]) == ("Sleeping", "Hibernating")
    assert held.job("hidden-1").status == "InProgress"


def test_logs_are_written_by_hand_or_dropped(held: Emulator, make_request: MakeRequest) -> None:
    logs, group = held.client("logs"), "/aws/sagemaker/TrainingJobs"
    held.faults.drop_logs("silent")
    for name in ("silent", "spoken"):
        create(held, make_request(name))
        held.log(name, "one", "two")
    assert not logs.describe_log_streams(logGroupName=group, logStreamNamePrefix="silent/")["logStreams"]
    (stream,) = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix="spoken/algo-1-")["logStreams"]
    events = logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True)
    assert [event["message"] for event in events["events"]] == ["one", "two"]


def test_only_what_exists_can_be_moved_by_hand(held: Emulator, make_request: MakeRequest) -> None:
    with pytest.raises(EmulatorError, match="no training job is named 'nobody'"):
        held.complete("nobody")
    create(held, make_request("nowhere", {"CheckpointConfig": None}))
    with pytest.raises(EmulatorError, match="no CheckpointConfig"):
        held.complete("nowhere", {"a": b""})
