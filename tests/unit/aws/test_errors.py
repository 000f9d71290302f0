from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from boto3.exceptions import S3UploadFailedError
from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError
from hypothesis import assume, given
from hypothesis import strategies as st

from gpuplan.aws._faults import CLASSES, CODES, DENIED_CODES
from gpuplan.aws.errors import AccessDeniedError, calling
from gpuplan.aws.session import Session
from gpuplan.core.errors import (
    CapacityError,
    CredentialsError,
    ExitCode,
    GpuplanError,
    JobFailedError,
    ThrottledError,
    UnreachableError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzExampleKey"  # noqa: S105 - the example of AWS's own documentation
ROLE = "arn:aws:iam::123456789012:role/gpuplan-execution"


def answer(code: str, message: str = "", *, operation: str = "CreateTrainingJob", status: int = 400) -> Exception:
    error: Exception = boto.ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}, operation
    )
    return error


def translated(error: BaseException, *, fix: str = "", profile: str | None = None) -> GpuplanError:
    with pytest.raises(GpuplanError) as caught, calling("start the job", fix=fix, profile=profile):
        raise error
    assert caught.value.what.startswith("cannot start the job: ")
    assert caught.value.why
    return caught.value


@contextmanager
def server(status: int, body: bytes, *, close: bool = False) -> Iterator[str]:
    """Serve one reply to everything, on loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if close:
                self.connection.close()
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No credentials or configuration but the test's, and one attempt a call."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


def identity_error() -> GpuplanError:
    with pytest.raises(GpuplanError) as caught:
        Session("us-east-1").identity()
    return caught.value


@pytest.mark.parametrize(
    ("code", "kind", "fix"),
    [(code, fault.error, fault.fix) for fault in CODES for code in sorted(fault.names)],
)
def test_every_code_of_the_table_becomes_its_error(code: str, kind: type[GpuplanError], fix: str) -> None:
    error = translated(answer(code, "AWS's words."), profile="work")
    assert type(error) is kind
    assert code in error.why
    assert error.fix == (fix.replace("{profile}", " --profile work") or "gpuplan doctor")


def test_no_code_and_no_class_stands_in_two_rows() -> None:
    codes = [code for fault in CODES for code in fault.names] + list(DENIED_CODES)
    classes = [name for fault in CLASSES for name in fault.names]
    assert len(codes) == len(set(codes))
    assert len(classes) == len(set(classes))


@pytest.mark.parametrize("code", sorted(DENIED_CODES))
def test_every_code_of_a_denial_is_a_credentials_error_of_exit_3(code: str) -> None:
    error = translated(answer(code, "Access Denied", status=403))
    assert isinstance(error, AccessDeniedError)
    assert error.exit_code == ExitCode.CREDENTIALS


def test_a_denial_names_the_action_the_resource_and_where_to_allow_it() -> None:
    said = (
        "User: arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_AdministratorAccess_0123456789abcdef/ann is not "
        f"authorized to perform: iam:PassRole on resource: {ROLE} because no identity-based policy allows the "
        "iam:PassRole action"
    )
    error = translated(answer("AccessDeniedException", said))
    assert isinstance(error, AccessDeniedError)
    assert error.action == "iam:PassRole"
    assert error.what == f"cannot start the job: iam:PassRole is not allowed on {ROLE}"
    assert error.why == "no identity-based policy allows it"
    assert error.fix == "allow iam:PassRole; the launcher policy has it: gpuplan infra show --template"


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        ("a service control policy", "a service control policy explicitly denies it"),
        ("an identity-based policy", "an identity-based policy explicitly denies it"),
        ("a permissions boundary", "a permissions boundary explicitly denies it"),
        ("a VPC endpoint policy", "a VPC endpoint policy explicitly denies it"),
    ],
)
def test_an_explicit_deny_is_named_and_no_allow_is_advised(policy: str, shown: str) -> None:
    said = f"User: x is not authorized to perform: sagemaker:CreateTrainingJob with an explicit deny in {policy}"
    error = translated(answer("AccessDeniedException", said), fix="allow it")
    assert error.why.startswith(shown)
    assert error.fix.startswith("ask the account's administrator to exempt sagemaker:CreateTrainingJob")


def test_s3_says_no_action_so_the_call_gives_it() -> None:
    error = translated(answer("403", "Forbidden", operation="HeadObject", status=403))
    assert isinstance(error, AccessDeniedError)
    assert error.action == "s3:GetObject"


@pytest.mark.parametrize(("call", "action"), [("iam:GetRole", "iam:GetRole"), ("s3:HeadBucket", "s3:ListBucket")])
def test_an_api_call_named_as_the_action_stands_for_what_aws_does_not_say(call: str, action: str) -> None:
    with pytest.raises(AccessDeniedError) as caught, calling(call):
        raise answer("AccessDenied", "Access Denied")
    assert caught.value.what == f"{call} failed: {action} is not allowed"
    assert caught.value.action == action


def test_a_throttled_call_is_known_not_to_have_taken_effect() -> None:
    assert isinstance(translated(answer("ThrottlingException", "Rate exceeded")), ThrottledError)
    assert not isinstance(translated(answer("InternalFailure", status=500)), ThrottledError)


def test_a_sagemaker_limit_leads_to_the_doctor_for_that_instance() -> None:
    said = (
        "The account-level service limit 'ml.g5.12xlarge for training job usage' is 0 Instances, with current "
        "utilization of 0 Instances and a request delta of 1 Instances."
    )
    error = translated(answer("ResourceLimitExceeded", said))
    assert isinstance(error, CapacityError)
    assert error.exit_code == ExitCode.CAPACITY
    assert "is 0 Instances" in error.what
    assert error.fix == "gpuplan doctor --instance g5.12xlarge"


@pytest.mark.parametrize(("code", "status"), [("InternalThing", 500), ("", 503), ("502", 502)])
def test_an_unknown_5xx_may_have_taken_effect(code: str, status: int) -> None:
    assert isinstance(translated(answer(code, "oops", status=status)), UnreachableError)


@pytest.mark.parametrize("code", ["ValidationException", "ResourceNotFound", "NoSuchBucket", "Unheard"])
def test_the_rest_is_usage_with_awss_own_words(code: str) -> None:
    error = translated(answer(code, "1 validation error detected"), fix="--role ARN")
    assert type(error) is UsageError
    assert (error.what, error.why) == ("cannot start the job: 1 validation error detected", f"AWS answered {code}")
    assert error.fix == "--role ARN"


def test_an_answer_without_a_message_still_says_something() -> None:
    assert "no reason given" in translated(answer("ValidationException")).what


def test_codes_that_the_caller_handles_pass_as_they_are() -> None:
    error = answer("ResourceInUse", "exists")
    with pytest.raises(boto.ClientError) as caught, calling("start the job", passes=("ResourceInUse",)):
        raise error
    assert caught.value is error


def test_errors_of_others_pass_unchanged() -> None:
    with pytest.raises(JobFailedError), calling("start the job"):
        raise JobFailedError("it failed")
    with pytest.raises(FileNotFoundError), calling("read a file"):
        raise FileNotFoundError


@pytest.mark.parametrize(
    ("error", "kind", "fix"),
    [
        (boto.NoCredentialsError(), CredentialsError, "aws configure --profile work"),
        (boto.PartialCredentialsError(provider="env", cred_var="x"), CredentialsError, "aws configure --profile work"),
        (boto.SSOTokenLoadError(error_msg="no token"), CredentialsError, "aws sso login --profile work"),
        (boto.UnauthorizedSSOTokenError(), CredentialsError, "aws sso login --profile work"),
        (boto.TokenRetrievalError(provider="sso", error_msg="expired"), CredentialsError, "aws sso login"),
        (boto.ProfileNotFound(profile="work"), CredentialsError, "aws configure list-profiles"),
        (boto.CredentialRetrievalError(provider="x", error_msg="y"), CredentialsError, "aws sts get-caller"),
        (boto.RefreshWithMFAUnsupportedError(), CredentialsError, "aws sts get-caller-identity"),
        (boto.ConfigParseError(path="~/.aws/config"), UsageError, "aws configure list"),
        (boto.InfiniteLoopConfigError(source_profile="a", visited_profiles=[]), UsageError, "aws configure list"),
        (boto.InvalidRegionError(region_name="us east"), UsageError, "add --region us-east-1"),
        (boto.NoRegionError(), UsageError, "add --region us-east-1"),
        (boto.EndpointConnectionError(endpoint_url="https://x"), UnreachableError, "aws sts get-caller-identity"),
        (boto.ConnectTimeoutError(endpoint_url="https://x"), UnreachableError, "the same command"),
        (boto.ReadTimeoutError(endpoint_url="https://x"), UnreachableError, "the same command"),
        (boto.ConnectionClosedError(endpoint_url="https://x"), UnreachableError, "the same command"),
        (boto.SSLError(endpoint_url="https://x", error="self-signed"), UnreachableError, "export AWS_CA_BUNDLE="),
        (boto.ProxyConnectionError(proxy_url="http://p"), UnreachableError, "check HTTPS_PROXY"),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), UnreachableError, "the same command"),
        (boto.ChecksumError(checksum_type="x", expected_checksum="a", actual_checksum="b"), UnreachableError, "the s"),
        (boto.ResponseStreamingError(error="cut"), UnreachableError, "the same command"),
        (ResponseParserError("Unable to parse response"), UnreachableError, "the same command"),
        (boto.ParamValidationError(report="RoleArn is too short"), UsageError, "--role ARN"),
        (boto.MissingDependencyException(msg="needs awscrt"), UsageError, "--role ARN"),
    ],
)
def test_every_exception_of_botocores_own_becomes_its_error(
    error: BaseException, kind: type[GpuplanError], fix: str
) -> None:
    found = translated(error, fix="--role ARN", profile="work")
    assert type(found) is kind
    assert found.fix.startswith(fix)


def test_without_a_profile_the_advice_names_none() -> None:
    assert translated(boto.UnauthorizedSSOTokenError()).fix == "aws sso login"


def test_a_failed_transfer_is_judged_by_what_happened_to_it() -> None:
    def failed(code: str) -> None:
        try:
            raise answer(code, "Access Denied", operation="PutObject")
        except boto.ClientError:
            raise S3UploadFailedError("Failed to upload") from None

    with pytest.raises(AccessDeniedError) as denied, calling("upload the code"):
        failed("AccessDenied")
    assert denied.value.action == "s3:PutObject"
    with pytest.raises(boto.ClientError), calling("upload the code", passes=("PreconditionFailed",)):
        failed("PreconditionFailed")
    with pytest.raises(UnreachableError), calling("upload the code"):
        raise S3UploadFailedError("the connection was lost")


@pytest.mark.parametrize(
    "said",
    [
        f"The process printed {SECRET_KEY} and failed",
        f'{{"SecretAccessKey": "{SECRET_KEY}"}}',
        "The token FwoGZXIvYXdzEBYaDKtZlQ2xvbmdUb2tlbkxvbmdUb2tlbkxvbmdUb2tlbg== is bad",
        "The security token of ASIAIOSFODNN7EXAMPLE included in the request is invalid",
        "Failed to connect to http://ann:hunter2pass@proxy.example.com:3128",
    ],
)
def test_a_secret_is_never_repeated(said: str) -> None:
    for error in (answer("ValidationException", said), boto.CredentialRetrievalError(provider="p", error_msg=said)):
        shown = translated(error)
        text = f"{shown.what} {shown.why} {shown.fix}"
        assert "***" in text
        for secret in (SECRET_KEY, "FwoGZXIvYXdz", "ASIAIOSFODNN7EXAMPLE", "hunter2pass"):
            assert secret not in text


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", min_size=40, max_size=200))
def test_no_text_that_could_be_a_secret_key_or_a_token_is_repeated(secret: str) -> None:
    assume(not set(secret) <= set("0123456789abcdef"))  # a digest
    for said in (f"bad key {secret}", f'{{"SecretAccessKey": "{secret}"}}', f"token={secret};"):
        assert secret not in translated(answer("ValidationException", said)).what


def test_the_signed_request_is_not_repeated() -> None:
    said = "The request signature we calculated does not match.\n\nThe Canonical String was\nx-amz-security-token:Fwo"
    for code in ("SignatureDoesNotMatch", "InvalidSignatureException"):
        error = translated(answer(code, said))
        assert "Fwo" not in error.what
        assert "clock" in error.why


def test_digests_arns_and_paths_stay_readable() -> None:
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    said = (
        f"s3://b/gpuplan/code/{digest}/payload.pyz for arn:aws:iam::123456789012:role/teams/machine_learning/gpuplan_x"
    )
    assert translated(answer("ValidationException", said)).what.endswith(said)


def test_a_long_message_is_cut_with_a_sign() -> None:
    assert translated(answer("ValidationException", "many words " * 100)).what.endswith("...")


def test_no_credentials_at_all_say_how_to_get_some() -> None:
    error = identity_error()
    assert isinstance(error, CredentialsError)
    assert "aws sso login" in error.fix


def test_half_a_pair_of_keys_is_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    error = identity_error()
    assert isinstance(error, CredentialsError)
    assert "AWS_SECRET_ACCESS_KEY" in error.what


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(CredentialsError, match="nobody"):
        Session("us-east-1", "nobody").identity()


def test_an_sso_profile_without_a_session_leads_to_its_login(environment: Path) -> None:
    (environment / "config").write_text(
        "[profile work]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = ml\n"
        "[sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://corp.awsapps.com/start\n"
    )
    with pytest.raises(CredentialsError) as caught:
        Session("us-east-1", "work").identity()
    assert caught.value.fix == "aws sso login --profile work"


def test_a_broken_configuration_file_is_usage(environment: Path) -> None:
    (environment / "config").write_text("[profile work\nregion\n")
    with pytest.raises(UsageError, match="config"):
        Session("us-east-1").identity()


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>a portal of some hotel</html", UnreachableError),
        (200, b"", UnreachableError),
        (500, b"\x00\xff garbage", UnreachableError),
        (503, b"", UnreachableError),
        (403, b"<ErrorResponse><Error><Code>ExpiredToken</Code><Message>m</Message></Error></ErrorResponse>", None),
    ],
)
def test_replies_over_http_are_translated(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, kind: type[GpuplanError] | None
) -> None:
    with server(status, body) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert type(identity_error()) is (kind or CredentialsError)


@pytest.mark.usefixtures("keys")
def test_a_connection_that_is_closed_gave_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(200, b"", close=True) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert isinstance(identity_error(), UnreachableError)


@pytest.mark.usefixtures("keys")
def test_an_endpoint_where_nobody_listens_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(200, b"") as url:
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    error = identity_error()
    assert isinstance(error, UnreachableError)
    assert error.exit_code == ExitCode.CAPACITY
    assert "AWS_ENDPOINT_URL" in error.why


@pytest.mark.usefixtures("keys")
def test_a_server_without_tls_where_tls_is_spoken_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(200, b"") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url.replace("http:", "https:"))
        assert "AWS_CA_BUNDLE" in identity_error().fix


@pytest.mark.usefixtures("keys")
def test_a_dead_proxy_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(200, b"") as url:
        pass
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://localhost:1")
    monkeypatch.setenv("HTTPS_PROXY", url.replace("http://", "http://ann:hunter2pass@"))
    error = identity_error()
    assert "HTTPS_PROXY" in error.fix
    assert "hunter2pass" not in error.what


@pytest.mark.usefixtures("keys")
def test_a_request_that_botocore_refuses_is_usage() -> None:
    client = Session("us-east-1").client("sagemaker")
    assert isinstance(client.meta.config, Config)
    with pytest.raises(UsageError, match="TrainingJobName"), calling("look at the job"):
        client.describe_training_job()
