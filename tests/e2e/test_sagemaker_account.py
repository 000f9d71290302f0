"""What of the account, the region or the way there stands against a launch: told to its user, and nothing created."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from gpuplan.aws.checks.base import Check, Status
from gpuplan.aws.checks.run import preflight
from gpuplan.aws.errors import AccessDeniedError
from gpuplan.cli.doctor import needs
from gpuplan.core.errors import CredentialsError, ExitCode, MayBeBillingError

if TYPE_CHECKING:
    from pathlib import Path

    from e2e.bench import Account, Bench, Terminal

pytest_plugins = ("tests.e2e.bench",)

FOR_EVER = None
LAUNCH = ("launch", "--instance", "g5", "--pipeline", "lr", "--yes")
LIMITED = "User: arn:aws:sts::123456789012:assumed-role/ml/ada is not authorized to perform: {} on resource: *"


def jobs(account: Account) -> int:
    return len(account.aws.jobs())


def runs(home: Path) -> list[str]:
    """Return the runs that a machine's folder knows."""
    return [path.name for path in (home / "home" / "runs").glob("*") if path.is_dir()]


def checks(bench: Bench, region: str = "us-east-1", **values: object) -> list[Check]:
    """Return what the checks before a launch find wrong or worth a word."""
    session = bench.account.session
    there = session if region == session.region else session.in_region(region)
    return [check for check in preflight(there, needs(bench.plan(**values), None)) if check.status is not Status.OK]


class TestBeforeTheFirstPaidCall:
    """Found by the checks: nothing is recorded, nothing created."""

    def test_a_quota_of_0_says_its_code_and_the_command_that_raises_it(
        self, terminal: Terminal, account: Account, tmp_path: Path
    ) -> None:
        account.aws.quota("ml.g5.xlarge", 0)
        before = jobs(account)
        code, _, err = terminal(*LAUNCH)
        assert code == ExitCode.CAPACITY
        quota = re.search(r"ml\.g5\.xlarge for training job usage: 0, this run needs 1 \(quota (L-[0-9A-F]{8})\)", err)
        assert quota
        assert "aws service-quotas request-service-quota-increase" in err
        assert f"--quota-code {quota[1]} --desired-value 1 --region us-east-1" in err
        assert (jobs(account), runs(tmp_path)) == (before, [])

    def test_a_quota_smaller_than_the_nodes_is_found(self, bench: Bench) -> None:
        bench.aws.quota("ml.g5.12xlarge", 1)
        [found] = [check for check in checks(bench, launch__nodes=2) if check.name == "quota"]
        assert (found.status, found.exit_code) == (Status.ERROR, ExitCode.CAPACITY)
        assert "ml.g5.12xlarge for training job usage: 1, this run needs 2" in found.message

    @pytest.mark.parametrize("flag", ["GPUPLAN_ROLE_ARN", "GPUPLAN_BUCKET"])
    def test_no_role_or_bucket_and_no_stack_to_take_it_from_says_both_ways_out(
        self, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
    ) -> None:
        monkeypatch.delenv(flag)
        code, _, err = terminal(*LAUNCH)
        assert code == ExitCode.USAGE
        option = "--role" if "ROLE" in flag else "--bucket"
        assert f"{option} not given, and there is no stack 'gpuplan' in us-east-1" in err
        assert "gpuplan infra deploy --region us-east-1" in err
        assert runs(tmp_path) == []

    def test_credentials_of_another_account_than_the_roles_are_refused(
        self, terminal: Terminal, account: Account, tmp_path: Path
    ) -> None:
        before = jobs(account)
        code, _, err = terminal(*LAUNCH, "--role", "arn:aws:iam::999999999999:role/gpuplan")
        assert code == ExitCode.CREDENTIALS
        assert "of account 123456789012" in err
        assert "is of 999999999999" in err
        assert (jobs(account), runs(tmp_path)) == (before, [])

    def test_a_bucket_elsewhere_or_of_somebody_else_or_nowhere_is_refused(self, bench: Bench) -> None:
        client = bench.aws.client("s3", region="eu-west-1")
        client.create_bucket(Bucket="gpuplan-elsewhere", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        bench.aws.client("s3", account="999999999999").create_bucket(Bucket="gpuplan-theirs")
        found = {
            name: next(check for check in checks(bench, aws__bucket=name) if check.name == "bucket")
            for name in ("gpuplan-elsewhere", "gpuplan-theirs", "gpuplan-nowhere")
        }
        assert {name: check.exit_code for name, check in found.items()} == {
            "gpuplan-elsewhere": ExitCode.USAGE,
            "gpuplan-theirs": ExitCode.CREDENTIALS,
            "gpuplan-nowhere": ExitCode.USAGE,
        }
        assert "is in eu-west-1, but jobs in us-east-1" in found["gpuplan-elsewhere"].message
        assert "--region eu-west-1" in found["gpuplan-elsewhere"].fix
        assert "there is no bucket gpuplan-nowhere" in found["gpuplan-nowhere"].message

    def test_a_type_that_the_region_lacks_says_where_it_is(self, bench: Bench) -> None:
        bench.aws.faults.garbage("DescribeRegions", regions("eu-west-1", "us-east-1", "us-west-2"))
        found = [
            check
            for check in checks(bench, "eu-west-1", launch__instance="g6", aws__region="eu-west-1")
            if check.name == "offering"
        ]
        assert {check.exit_code for check in found} == {ExitCode.CAPACITY}
        assert "g6.12xlarge is not offered in eu-west-1; it is in us-east-1, us-west-2" in found[-1].message
        assert found[-1].fix == "add --region us-east-1"

    @pytest.mark.parametrize(
        ("operation", "action", "status"),
        [
            ("GetRole", "iam:GetRole", Status.WARNING),
            ("s3:HeadBucket", "s3:ListBucket", Status.ERROR),
            ("s3:GetBucketVersioning", "s3:GetBucketVersioning", Status.UNKNOWN),
            ("s3:GetPublicAccessBlock", "s3:GetBucketPublicAccessBlock", Status.UNKNOWN),
            ("DescribeImages", "ecr:DescribeImages", Status.UNKNOWN),
            ("ListServiceQuotas", "servicequotas:ListServiceQuotas", Status.UNKNOWN),
            ("DescribeInstanceTypeOfferings", "ec2:DescribeInstanceTypeOfferings", Status.UNKNOWN),
            ("DescribeLogStreams", "logs:DescribeLogStreams", Status.WARNING),
        ],
    )
    def test_a_look_that_is_denied_names_its_action_and_stops_only_what_cannot_do_without(
        self, bench: Bench, operation: str, action: str, status: Status
    ) -> None:
        code = "AccessDenied" if operation.startswith("s3:") or operation == "GetRole" else "AccessDeniedException"
        bench.aws.faults.refuse(operation, code, times=FOR_EVER)
        found = [check for check in checks(bench) if action in check.message]
        assert [check.status for check in found] == [status]
        assert found[0].exit_code is (ExitCode.CREDENTIALS if status is Status.ERROR else ExitCode.OK)


class TestARunThatIsDenied:
    """Permissions of the calls that a run makes itself."""

    @pytest.mark.parametrize(
        ("operation", "action"),
        [
            ("CreateTrainingJob", "sagemaker:CreateTrainingJob"),
            ("CreateTrainingJob", "iam:PassRole"),
            ("CreateTrainingJob", "sagemaker:AddTags"),
            ("s3:HeadObject", "s3:GetObject"),
        ],
    )
    def test_before_the_job_exists_it_is_exit_3_with_the_action_and_nothing_is_created(
        self, bench: Bench, operation: str, action: str
    ) -> None:
        code, said = ("AccessDenied", "Access Denied") if "s3:" in operation else ("AccessDeniedException", None)
        bench.aws.faults.refuse(operation, code, message=said or LIMITED.format(action), times=FOR_EVER)
        record = bench.launch(launch__pipeline="lr")
        assert record.exit_code is ExitCode.CREDENTIALS
        assert record.failure is not None
        assert f"{action} is not allowed" in record.failure.message
        assert "gpuplan infra show --template" in record.failure.fix
        assert bench.jobs(record.run_id) == []
        bench.aws.faults.clear()
        assert bench.drive(record.run_id).state == "succeeded"

    def test_an_explicit_deny_of_the_organization_is_named_as_such(self, bench: Bench) -> None:
        said = LIMITED.format("sagemaker:CreateTrainingJob") + " with an explicit deny in a service control policy"
        bench.aws.faults.refuse("CreateTrainingJob", "AccessDeniedException", message=said)
        record = bench.launch(launch__pipeline="lr")
        assert record.failure is not None
        assert "service control policy explicitly denies it" in record.failure.why
        assert "administrator" in record.failure.fix

    def test_a_run_that_cannot_be_recorded_in_the_bucket_is_not_begun(self, bench: Bench) -> None:
        bench.aws.faults.refuse("s3:PutObject", "AccessDenied", times=FOR_EVER)
        with pytest.raises(AccessDeniedError, match="s3:PutObject is not allowed") as caught:
            bench.start(bench.plan())
        assert caught.value.exit_code is ExitCode.CREDENTIALS
        assert list((bench.home / "runs").glob("*")) == []

    @pytest.mark.parametrize(
        ("operation", "where", "action"),
        [
            ("DescribeTrainingJob", "", "sagemaker:DescribeTrainingJob"),
            ("s3:GetObject", "results/", "s3:GetObject"),
            ("s3:PutObject", "results/", "s3:PutObject"),
        ],
    )
    def test_after_the_job_exists_it_ends_the_client_and_resume_takes_the_same_job(
        self, bench: Bench, operation: str, where: str, action: str
    ) -> None:
        run_id = bench.start(bench.plan(launch__pipeline="lr"))
        bench.drive(run_id, detach=True)
        code = "AccessDenied" if "s3:" in operation else "AccessDeniedException"
        bench.aws.faults.refuse(operation, code, times=FOR_EVER, where=where)
        with pytest.raises(AccessDeniedError, match=f"{action} is not allowed"):
            bench.drive(run_id)
        bench.aws.faults.clear()
        assert bench.drive(run_id).state == "succeeded"
        assert len(bench.jobs(run_id)) == 1

    def test_a_stop_that_is_denied_says_so_and_the_job_is_not_called_stopped(self, bench: Bench) -> None:
        run_id = bench.start(bench.plan(launch__pipeline="lr"))
        bench.drive(run_id, detach=True)
        bench.play = lambda _: None
        bench.aws.faults.refuse("StopTrainingJob", "AccessDeniedException", times=FOR_EVER)
        with pytest.raises(CredentialsError, match="sagemaker:StopTrainingJob is not allowed"):
            bench.cancel(run_id)
        assert bench.store().record(run_id).state == "cancelling"
        assert bench.jobs(run_id)[0].status == "InProgress"

    def test_tags_that_may_not_be_read_leave_an_adoption_open_and_do_not_prevent_a_stop(self, bench: Bench) -> None:
        run_id = bench.start(bench.plan(launch__pipeline="lr"))
        bench.play = lambda _: None
        bench.aws.faults.refuse("ListTags", "AccessDeniedException", times=FOR_EVER)
        bench.aws.faults.lose_reply("CreateTrainingJob")
        with pytest.raises(MayBeBillingError, match="sagemaker:ListTags"):
            bench.drive(run_id)
        assert bench.cancel(run_id).state == "cancelled"
        assert bench.jobs(run_id)[0].status == "Stopped"

    def test_who_may_not_list_jobs_still_sees_them_one_by_one(self, bench: Bench) -> None:
        run_id = bench.start(bench.plan(launch__pipeline="lr"))
        bench.drive(run_id, detach=True)
        bench.aws.faults.refuse("ListTrainingJobs", "AccessDeniedException", times=FOR_EVER)
        handles = [f"sagemaker://us-east-1/{run_id}-lr-find-{number}" for number in (1, 2)]
        found = bench.backend(bench.plan()).poll_all(handles)
        assert [found[handle].exists for handle in handles] == [True, False]


class TestTheWayThere:
    """Network, clock and names, as the user sees them."""

    @pytest.mark.parametrize(
        ("url", "proxy", "says"),
        [
            ("http://127.0.0.1:9", "", "AWS_ENDPOINT_URL leads nowhere"),
            ("https://{emulator}", "", "certificate is not trusted"),
            ("http://sts.gpuplan.invalid", "", "no network, a misspelt region"),
            ("http://aws.gpuplan.invalid", "http://127.0.0.1:9", "the proxy does not answer"),
        ],
        ids=["refused", "tls", "dns", "proxy"],
    )
    def test_an_aws_that_cannot_be_reached_says_what_is_likely_and_begins_nothing(
        self, terminal: Terminal, account: Account, monkeypatch: pytest.MonkeyPatch, url: str, proxy: str, says: str
    ) -> None:
        for name in ("NO_PROXY", "no_proxy", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("AWS_ENDPOINT_URL", url.format(emulator=account.aws.url.removeprefix("http://")))
        code, _, err = terminal(*LAUNCH)
        assert code == ExitCode.CAPACITY
        assert says in err
        assert "  next: " in err
        assert "\nrun " not in err, "no run is begun"

    def test_a_clock_that_is_off_is_a_plain_hint_without_what_was_signed(
        self, terminal: Terminal, account: Account
    ) -> None:
        said = "The Canonical String for this request should have been 'POST / x-amz-security-token:CANARY'"
        account.aws.faults.refuse("GetCallerIdentity", "SignatureDoesNotMatch", message=said, times=FOR_EVER)
        status, _, err = terminal(*LAUNCH)
        assert status == ExitCode.CREDENTIALS
        assert "this machine's clock is off" in err
        assert "timedatectl set-ntp true" in err
        assert "CANARY" not in err

    def test_throttling_for_ever_says_so_and_leads_back_to_the_same_run(
        self, terminal: Terminal, account: Account, tmp_path: Path
    ) -> None:
        account.aws.faults.refuse("CreateTrainingJob", "ThrottlingException", times=FOR_EVER)
        before = jobs(account)
        code, out, err = terminal(*LAUNCH, "-o", "json")
        assert code == ExitCode.CAPACITY
        [run] = runs(tmp_path)
        assert "too many calls at once" in err
        assert f"gpuplan resume {run}" in err
        document = json.loads(out)
        assert (document["schema"], document["exit_code"]) == ("gpuplan.error/1", 4)
        assert jobs(account) == before

    def test_credentials_that_expire_while_a_job_runs_lead_to_a_login_and_back(
        self, terminal: Terminal, account: Account, bench: Bench, tmp_path: Path
    ) -> None:
        account.aws.faults.refuse("DescribeTrainingJob", "ExpiredTokenException", times=FOR_EVER, skip=1)
        code, _, err = terminal(*LAUNCH)
        assert code == ExitCode.CREDENTIALS
        [run] = runs(tmp_path)
        assert "the credentials have expired" in err
        assert re.search(rf"next: aws sso login .*then: gpuplan resume {run}", err)
        job = account.aws.job(f"{run}-lr-find-1")
        assert job.status == "InProgress"
        account.aws.faults.clear()
        bench.finish(job)
        code, out, _ = terminal("resume", run, "-o", "json")
        assert code == ExitCode.OK
        assert json.loads(out)["steps"][0]["attempt"] == 1

    def test_region_and_profile_are_printed_with_where_they_came_from(
        self, terminal: Terminal, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, keys = tmp_path / "config", tmp_path / "credentials"
        config.write_text("[profile ml]\nregion = us-east-1\n", encoding="utf-8")
        variables = account.aws.environment()
        keys.write_text(
            f"[ml]\naws_access_key_id = {variables['AWS_ACCESS_KEY_ID']}\naws_secret_access_key = secret\n",
            encoding="utf-8",
        )
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
        account.aws.quota("ml.g5.xlarge", 0)  # what is printed comes before the checks
        code, _, err = terminal(*LAUNCH, "--profile", "ml")
        assert code == ExitCode.CAPACITY
        assert re.search(r"account +123456789012 as arn:aws:\S+ \(credentials: ml\)", err)
        assert re.search(r"region +us-east-1 \(from AWS profile ml\)", err)


class TestARetiredInstance:
    """p3: no longer to be had, and its V100s run on no image of today."""

    def test_it_can_be_planned_and_its_image_is_one_that_runs_on_a_v100(self, terminal: Terminal) -> None:
        code, out, _ = terminal("plan", "--instance", "p3", "-o", "json")
        assert code == ExitCode.OK
        finder, training = (
            step["request"]["AlgorithmSpecification"]["TrainingImage"] for step in json.loads(out)["steps"]
        )
        assert re.search(r"-cu12\d-", training)
        assert re.search(r"-cu13\d-", finder), "lr-find runs on a GPU that can be had, with an image of its own"

    def test_a_launch_is_refused_with_what_to_take_instead(self, terminal: Terminal, account: Account) -> None:
        before = len(account.aws.calls)
        code, _, err = terminal("launch", "--instance", "p3", "--yes")
        assert code == ExitCode.PLAN_REFUSED
        assert "p3.16xlarge is retired" in err
        assert "p4d.24xlarge, g5.48xlarge" in err
        assert "--allow-retired" in err
        assert len(account.aws.calls) == before, "AWS is not even asked"

    def test_allow_retired_goes_past_that_and_meets_what_aws_says(self, terminal: Terminal, account: Account) -> None:
        account.aws.faults.garbage("DescribeRegions", regions("us-east-1", "us-west-2"))
        before = jobs(account)
        code, _, err = terminal("launch", "--instance", "p3", "--yes", "--allow-retired")
        assert code == ExitCode.CAPACITY
        assert "p3.16xlarge is not offered in us-east-1" in err
        assert jobs(account) == before

    def test_where_aws_still_has_it_the_job_gets_an_image_of_cuda_12(
        self, terminal: Terminal, account: Account, tmp_path: Path
    ) -> None:
        account.aws.faults.garbage("DescribeInstanceTypeOfferings", offered("p3.16xlarge", "p3.2xlarge"))
        retired = set(account.aws.not_offered)
        account.aws.not_offered.clear()
        try:
            retired_too = ("--finder-instance", "p3.2xlarge")
            code, _, err = terminal("launch", "--instance", "p3", *retired_too, "--yes", "--allow-retired", "--detach")
        finally:
            account.aws.not_offered.update(retired)
        assert code == ExitCode.INTERRUPTED, err
        [run] = runs(tmp_path)
        request = account.aws.job(f"{run}-lr-find-1").request
        assert request["ResourceConfig"]["InstanceType"] == "ml.p3.2xlarge"
        assert "-cu12" in request["AlgorithmSpecification"]["TrainingImage"]


def regions(*names: str) -> bytes:
    """Return EC2's answer that the account has these regions: asking all that there are takes seconds."""
    items = "".join(f"<item><regionName>{name}</regionName></item>" for name in names)
    return (
        '<DescribeRegionsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        f"<regionInfo>{items}</regionInfo></DescribeRegionsResponse>"
    ).encode()


def offered(*instance_types: str) -> bytes:
    """Return EC2's answer that a zone offers these types."""
    items = "".join(
        f"<item><instanceType>{each}</instanceType><locationType>availability-zone</locationType>"
        "<location>us-east-1a</location></item>"
        for each in instance_types
    )
    return (
        '<DescribeInstanceTypeOfferingsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        f"<instanceTypeOfferingSet>{items}</instanceTypeOfferingSet></DescribeInstanceTypeOfferingsResponse>"
    ).encode()
