"""What must not leave this machine, and what must not go through it unfiltered: credentials, and a user's odd names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuplan.aws import request_check
from gpuplan.aws.session import Session
from gpuplan.backends.base import JobSpec
from gpuplan.backends.sagemaker import SageMakerBackend
from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.core import names
from gpuplan.core.errors import ExitCode, PlanRefusedError, UsageError
from gpuplan.planning.job_input import job_input
from gpuplan.planning.plan import Limits
from gpuplan.reports.plan_document import workload_slug

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.conftest import Client
    from gpuplan.backends.base import Request

CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "canarySecret+KeyOfTheEnvironment/0123456",
    "AWS_SESSION_TOKEN": "canarySessionToken" + "Q0FOQVJZ" * 20,
    "HF_TOKEN": "hf_canaryOfAnotherService",
    "WANDB_API_KEY": "0123456789canary0123456789canary01234567",
}
PROFILE_SECRET = "canarySecret+KeyOfTheProfile/01234567890"  # noqa: S105 - made to be looked for
SIGNED = "The request signature does not match. The Canonical String for this request should have been\n'POST\n/\n\n"


@pytest.fixture
def canaries(scripted: Client) -> list[bytes]:
    """Plant credentials in the environment and in a profile; return what must be found nowhere."""
    folder = scripted.home.with_name("aws")
    folder.mkdir()
    key = scripted.aws.environment()["AWS_ACCESS_KEY_ID"]
    text = f"[work]\naws_access_key_id = {key}\naws_secret_access_key = {PROFILE_SECRET}\nregion = us-east-1\n"
    (folder / "credentials").write_text(text, encoding="utf-8")
    (folder / "config").write_text("[profile work]\nregion = us-east-1\n", encoding="utf-8")
    scripted.variables.update(CANARIES)
    scripted.variables["AWS_CONFIG_FILE"] = str(folder / "config")
    scripted.variables["AWS_SHARED_CREDENTIALS_FILE"] = str(folder / "credentials")
    return [text.encode() for text in (*CANARIES.values(), PROFILE_SECRET, key)]


def everything_written(client: Client) -> Iterator[tuple[str, bytes]]:
    """Yield all that a run left anywhere: on this machine, in the bucket, in the jobs, in their logs."""
    for path in client.home.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
    s3, logs = client.aws.client("s3"), client.aws.client("logs")
    for version in s3.list_object_versions(Bucket=client.bucket).get("Versions", []):
        found = s3.get_object(Bucket=client.bucket, Key=version["Key"], VersionId=version["VersionId"])
        yield version["Key"], found["Body"].read() + json.dumps(found["Metadata"]).encode()
    for job in client.aws.jobs():
        yield job.name, json.dumps([job.request, job.tags, job.failure_reason]).encode()
    for group in logs.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        for stream in logs.describe_log_streams(logGroupName=name)["logStreams"]:
            events = logs.get_log_events(logGroupName=name, logStreamName=stream["logStreamName"])["events"]
            yield stream["logStreamName"], json.dumps(events).encode()


def test_no_credential_is_written_or_printed_whatever_goes_wrong(scripted: Client, canaries: list[bytes]) -> None:
    launch = ("launch", "--instance", "g5", "--pipeline", "lr", "--yes", "--debug")
    said: list[str] = []

    def run(*arguments: str, **variables: str) -> int:
        done = scripted.run(*arguments, **variables)
        said.extend((done.stdout, done.stderr))
        return done.returncode

    assert run(*launch, "--detach") == ExitCode.INTERRUPTED
    signed = SIGNED + f"x-amz-security-token:{CANARIES['AWS_SESSION_TOKEN']}\n'"
    scripted.aws.faults.refuse("DescribeTrainingJob", "SignatureDoesNotMatch", 403, signed, times=None)
    assert run("resume", "--debug", "-o", "json") == ExitCode.CREDENTIALS
    assert "Traceback" in said[-1], "that is what --debug is for"
    scripted.aws.faults.clear()
    [job] = scripted.aws.jobs()
    scripted.aws.log(job.name, "loss 2.3")
    scripted.aws.fail(job.name, "AlgorithmError: out of memory")
    without = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), "")
    code = run("resume", "--profile", "work", "--debug", **without)
    assert code == ExitCode.JOB_FAILED, said[-1]
    assert run("doctor", "--instance", "g5", "--debug", "-o", "json") in {ExitCode.OK, ExitCode.CAPACITY}

    looked_at = dict(everything_written(scripted))
    assert {"state.json", "payload.pyz"} <= {name.rpartition("/")[2] for name in looked_at}
    assert any(name.endswith(".sqlite") or ".sqlite" in name for name in looked_at)
    assert any("algo-1" in name for name in looked_at)
    places = [*looked_at.items(), *(("printed", text.encode()) for text in said)]
    hits = [(name, secret[:12]) for name, content in places for secret in canaries if secret in content]
    assert hits == []


HOSTILE = (
    "../../x",
    "..",
    "-rf",
    "--help",
    "$(id)",
    "`id`",
    "a;b|c&d",
    "a\nb",
    "a\0b",
    "\u202egnp.exe",
    "\u0430dmin",
    "x" * 300,
    "%s{0}${HOME}",
    "<script>",
    "'\"",
    " ",
    "aws:x",
    "",
)
TEMPLATES: dict[str, tuple[str, ...]] = {
    "workload.data": (
        "{}",
        "imagefolder:{}",
        "fake:{}",
        "imagefolder:s3://{}?train=999&val=99&classes=2&bytes=9",
        "imagefolder:s3://bucket/{}?train=999&val=99&classes=2&bytes=9",
    ),
    "workload.model": ("{}", "resnet18{}"),
    "aws.bucket": ("{}", "bucket{}"),
    "aws.prefix": ("{}", "a/{}"),
    "aws.image": ("{}", "registry/{}:1"),
    "aws.stack": ("{}",),
    "aws.region": ("{}", "us-east-1{}"),
    "aws.role_arn": ("{}", "arn:aws:iam::123456789012:role/{}"),
}
FIELDS = st.sampled_from([(key, template) for key, templates in TEMPLATES.items() for template in templates])
NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
S3_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[A-Za-z0-9!_.*'()/=+@,:-]*")
TAG = re.compile(r"[A-Za-z0-9_.:/=+@-]{1,256}")
HANDLE = re.compile(r"sagemaker://[a-z0-9-]+/[a-zA-Z0-9-]+")


def rendered(values: dict[str, object], owner: str) -> Iterator[Request]:
    """Yield the requests of a run with these settings, as a launch would make them."""
    settled = {"launch.instance": "g5", "aws.bucket": "gpuplan-1", "workload.epochs": 2} | values
    settled.setdefault("aws.role_arn", "arn:aws:iam::123456789012:role/gpuplan")
    plan = plan_from(Given(settled, dict.fromkeys(settled, "the test"), None)).plan
    run_id = f"{names.slug(workload_slug(plan))}-0000000000001"
    backend = SageMakerBackend(plan.provenance.settings.aws, Session("us-east-1"), Path("wheels"))
    for step in plan.steps:
        job = job_input(plan, step, run_id=run_id, attempt=1, learning_rate=0.1)
        limits = step.limits or Limits(max_runtime_seconds=60, volume_gb=1)
        yield backend.render(JobSpec.of(step, job, owner=owner, limits=limits))


def check(request: Request) -> None:
    """Assert that a request can be sent as it is, and that nothing in it leads elsewhere."""
    body = request.body
    assert request_check.faults(body) == []
    assert NAME.fullmatch(body["TrainingJobName"])
    assert HANDLE.fullmatch(request.handle)
    tags: dict[str, Any] = {tag["Key"]: tag["Value"] for tag in body["Tags"]}
    assert all(TAG.fullmatch(value) for value in tags.values() if isinstance(value, str))
    urls = [channel["DataSource"]["S3DataSource"]["S3Uri"] for channel in body["InputDataConfig"]]
    for url in (*urls, body["OutputDataConfig"]["S3OutputPath"], body["CheckpointConfig"]["S3Uri"]):
        assert S3_URL.fullmatch(url)
        assert not {".", ".."} & set(url.removeprefix("s3://").split("/"))
    assert all(len(value.splitlines()) == 1 for value in body["HyperParameters"].values())
    assert set(body["Environment"]) == {"GPUPLAN_GPUS", "GPUPLAN_ATTEMPT"}
    assert body["AlgorithmSpecification"]["ContainerEntrypoint"] == ["python3", "/opt/ml/input/data/code/payload.pyz"]


@settings(max_examples=120, deadline=None)
@given(field=FIELDS, text=st.sampled_from(HOSTILE) | st.text(max_size=40))
def test_a_setting_is_refused_with_words_or_comes_out_harmless(field: tuple[str, str], text: str) -> None:
    key, template = field
    try:
        requests = list(rendered({key: template.format(text)}, owner="ada"))
    except (UsageError, PlanRefusedError):
        return
    for request in requests:
        check(request)


@given(text=st.sampled_from(HOSTILE) | st.text(max_size=300))
def test_an_owner_of_any_name_is_a_harmless_tag(text: str) -> None:
    owner = names.slug(text)
    assert NAME.fullmatch(owner)
    assert TAG.fullmatch(owner)


@pytest.mark.parametrize("name", [name for name in HOSTILE if "\0" not in name])
def test_whoever_the_environment_says_we_are_is_a_slug(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, name)
    [request, _] = rendered({}, owner=names.owner())
    check(request)
    tags = {tag["Key"]: tag["Value"] for tag in request.body["Tags"]}
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", tags["gpuplan:owner"])
