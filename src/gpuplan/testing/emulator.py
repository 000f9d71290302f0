"""`Emulator`: the public face. A context manager that serves AWS's API on loopback and runs training jobs.

For tests. It composes the parts of this package and holds no rule of AWS itself.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import urllib.request
from contextlib import ExitStack, suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from gpuplan.testing import sandbox
from gpuplan.testing.buckets import BucketOwners
from gpuplan.testing.clients import SECRET, Clients
from gpuplan.testing.cloudformation import PUBLIC_ACCESS_BLOCKS
from gpuplan.testing.errors import EmulatorError
from gpuplan.testing.estate import MotoEstate
from gpuplan.testing.executor import Executor
from gpuplan.testing.faults import Faults
from gpuplan.testing.prices import Prices
from gpuplan.testing.quotas import Quotas
from gpuplan.testing.registries import Registries
from gpuplan.testing.script import Script
from gpuplan.testing.server import Front, Server
from gpuplan.testing.timing import Timing
from gpuplan.testing.training_jobs import TrainingJobs
from gpuplan.testing.wire import DEFAULT_ACCOUNT, DEFAULT_REGION, access_key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from gpuplan.testing.states import JobView
    from gpuplan.testing.wire import Call, Incoming

_ONE_AT_A_TIME = Lock()
"""moto keeps its state in the process: two emulators would see each other's buckets."""


class Emulator:
    """A SageMaker on loopback: `with Emulator() as aws: ...`.

    Args:
        python: The interpreter that stands for the training image; its folder comes first on the container's PATH.
        execute: False leaves every job where `advance`, `complete` and `fail` put it (`hold` is set from the start).
        max_processes: Put into containers as GPUPLAN_EMULATED_PROCESSES, for payloads that scale big instances down.
        container_environment: More variables for every container, as if the image had set them.
        region: Where `client` and `environment` point unless they are told otherwise.
        account: The account they act in.
        timing: How long the platform's phases take.

    Attributes:
        faults: What shall go wrong.
        hold: While true, new jobs are not run but moved by hand.
    """

    def __init__(  # noqa: PLR0913 -- one keyword a property of the emulated platform, all optional
        self,
        *,
        python: str = sys.executable,
        execute: bool = True,
        max_processes: int | None = None,
        container_environment: Mapping[str, str] | None = None,
        region: str = DEFAULT_REGION,
        account: str = DEFAULT_ACCOUNT,
        timing: Timing | None = None,
    ) -> None:
        scaled = {} if max_processes is None else {"GPUPLAN_EMULATED_PROCESSES": str(max_processes)}
        self._python = python
        self._container_environment = {**(container_environment or {}), **scaled}
        self._timing = timing or Timing()
        self._region = region
        self._account = account
        self._quotas = Quotas()
        self._prices = Prices()
        self.faults = Faults()
        self.hold = not execute

    def __enter__(self) -> Self:
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            raise EmulatorError(
                "the emulator needs moto's server", why="moto is an extra", fix="pip install 'gpuplan[testing]'"
            )
        if not self.hold:
            sandbox.check()
        if not _ONE_AT_A_TIME.acquire(blocking=False):
            raise EmulatorError("another emulator runs in this process", why="moto's state belongs to the process")
        with ExitStack() as closing:
            closing.callback(_ONE_AT_A_TIME.release)
            self._start(closing)
            self._closing = closing.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    @property
    def url(self) -> str:
        """The endpoint of every service."""
        return self._server.url

    def account(self) -> str:
        """Return the account that `client` and `environment` act in."""
        return self._account

    def environment(
        self, base: Mapping[str, str] | None = None, *, account: str | None = None, region: str | None = None
    ) -> dict[str, str]:
        """Return variables that point a process at the emulator, added to `base` without its own AWS_* variables."""
        kept = {name: value for name, value in (base or {}).items() if not name.startswith("AWS_")}
        return kept | {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": access_key(account or self._account),
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": region or self._region,
        }

    def client(self, service: str, *, account: str | None = None, region: str | None = None) -> Any:  # noqa: ANN401
        """Return a boto3 client on the emulator."""
        return self._clients.client(service, account or self._account, region or self._region)

    def prepare(self, bucket: str = "gpuplan-test", role: str = "gpuplan-execution") -> tuple[str, str]:
        """See that there are a bucket in the emulator's region and a role for SageMaker; return name and ARN."""
        s3 = self._platform.client("s3", self._account, self._region)
        elsewhere = {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
        with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
            s3.create_bucket(Bucket=bucket, **({} if self._region == "us-east-1" else elsewhere))
            s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
            s3.put_public_access_block(
                Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(PUBLIC_ACCESS_BLOCKS, True)
            )
        principal = {"Service": "sagemaker.amazonaws.com"}
        statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
        trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam = self._platform.client("iam", self._account, "us-east-1")
        with suppress(iam.exceptions.EntityAlreadyExistsException):
            iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust)
        return bucket, iam.get_role(RoleName=role)["Role"]["Arn"]

    def jobs(self) -> list[JobView]:
        """Return every training job, oldest first."""
        return [job.view() for job in self._jobs.all()]

    def job(self, name: str) -> JobView:
        """Return one training job by name; EmulatorError if there is none."""
        return self._jobs.named(name).view()

    def quota(self, instance_type: str, instances: float, *, spot: bool = False) -> None:
        """Allow so many instances of a type at a time; 0 lets CreateTrainingJob answer ResourceLimitExceeded."""
        self._quotas.set(instance_type, instances, spot=spot)

    def price(self, service: str, instance_type: str, usd_per_hour: str, *, region: str | None = None) -> None:
        """List an on-demand price with the Pricing API: of `ec2` or `sagemaker`, under EC2's name of the type."""
        self._prices.set(service, instance_type, region or self._region, usd_per_hour)

    def spot_price(self, instance_type: str, zones: Mapping[str, str]) -> None:
        """Let spot capacity of a type cost so many US dollars an hour, by availability zone."""
        self._prices.set_spot(instance_type, zones)

    @property
    def not_offered(self) -> set[str]:
        """The instance types that CreateTrainingJob refuses as not available; change it at will."""
        return self._jobs.not_offered

    @property
    def calls(self) -> list[Call]:
        """Every API call that reached the server, refused and lost ones included, as (service, operation, time)."""
        return self._front.counted()

    def calls_of(self, operation: str) -> int:
        """Return how often an operation was called."""
        return sum(call.operation == operation for call in self.calls)

    def interrupt(self, name: str, *, notice: bool = True) -> None:
        """Take a spot job's machines away: SIGTERM and the grace first, or with `notice=False` SIGKILL at once."""
        job = self._jobs.named(name)
        if job.held:
            job.enter("Interrupted")
        else:
            self._executor.interrupt(name, notice=notice)

    def advance(self, name: str, secondary: str, reason: str = "") -> None:
        """Put a held job into a secondary state; `Completed`, `Failed`, `MaxRuntimeExceeded`, ... end it."""
        self._script.advance(name, secondary, reason)

    def complete(
        self, name: str, files: Mapping[str, bytes] | None = None, *, billed_seconds: int | None = None
    ) -> None:
        """End a held job well, after its files were written under its checkpoint URI."""
        self._script.complete(name, files or {}, billed_seconds)

    def fail(
        self,
        name: str,
        reason: str = "AlgorithmError: , exit code: 1",
        files: Mapping[str, bytes] | None = None,
        *,
        billed_seconds: int | None = None,
    ) -> None:
        """End a held job with a FailureReason, after its files were written as in `complete`."""
        self._script.fail(name, reason, files or {}, billed_seconds)

    def publish(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write files under a held job's checkpoint URI and leave its state alone."""
        self._script.publish(name, files)

    def log(self, name: str, *lines: str) -> None:
        """Write lines to a held job's CloudWatch stream."""
        self._script.log(name, lines)

    def _start(self, closing: ExitStack) -> None:
        """Start every part; `closing` ends them in the reverse order."""
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self._front = Front(DomainDispatcherApplication(create_backend_app), self.faults)
        self._server = Server(self._front)
        closing.callback(self._front.close)
        closing.callback(self._server.close)
        self._reset_moto()
        closing.callback(self._reset_moto)
        self._clients, self._platform = Clients(self.url), Clients(self.url, platform=True)
        closing.callback(self._platform.close)
        closing.callback(self._clients.close)
        image = self._container_environment
        self._executor = Executor(self._python, image, self._timing, self._platform, self.faults)
        closing.callback(self._executor.close)
        self._jobs = TrainingJobs(
            faults=self.faults,
            quotas=self._quotas,
            estate=self._estate,
            start=self._executor.start,
            hold=lambda: self.hold,
        )
        self._front.apis = (self._jobs, self._quotas, self._prices, Registries())
        self._front.buckets = BucketOwners(self._platform)
        self._script = Script(self._jobs, self._platform, self.faults)

    def _estate(self, call: Incoming) -> MotoEstate:
        return MotoEstate(self._platform, call.account, call.region)

    def _reset_moto(self) -> None:
        request = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")  # noqa: S310 -- our own http URL
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            answer.read()
