"""Where a run's record is: on this machine, or for a run in AWS in its bucket with a copy here.

Used by the commands that speak of a run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gpuplan.aws.location import ambient_region
from gpuplan.cli.account import completed_aws, owner_account, runs_in_aws, session
from gpuplan.cli.home import home, store
from gpuplan.core.clock import SystemClock
from gpuplan.core.errors import CredentialsError, GpuplanError, UnreachableError
from gpuplan.workload.load import CONFIG_FILE, Layers, read_config, validate_section
from gpuplan.workload.schema import Aws

if TYPE_CHECKING:
    from gpuplan.cli.options import Given
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.store.record import RunRecord
    from gpuplan.store.sqlite import RunStore

_REGION = "us-east-1"


def store_of(plan: LaunchPlan, profile: str | None = None) -> RunStore:
    """Return the store that keeps runs of such a plan; `profile` is the AWS profile to use, where not the plan's."""
    aws = plan.provenance.settings.aws
    if not runs_in_aws(plan):
        return store()
    return _mirrored(aws.model_copy(update={"profile": profile}) if profile else aws)


def find(run: str | None, given: Given) -> tuple[RunStore, str]:
    """Return the store and the id of the run that a user names; one that only the bucket knows is brought here.

    Raises:
        UsageError: there is none, or several match.
    """
    runs = store()
    try:
        run_id = runs.resolve(run)
        return store_of(runs.record(run_id).plan, given.profile), run_id
    except GpuplanError:
        aws = _elsewhere(given)
        if run is None or aws is None:
            raise
    # The run's own plan names its role; all that is wanted here is a bucket.
    mirrored = _mirrored(aws if aws.bucket else completed_aws(aws))
    return mirrored, mirrored.resolve(run)


def read(runs: RunStore, run_id: str) -> RunRecord:
    """Return a run's record; where the bucket cannot be asked, as this machine last saw it, with a word on stderr."""
    try:
        return runs.record(run_id)
    except (CredentialsError, UnreachableError) as error:
        typer.echo(f"note: {error.what}; shown is what this machine last saw", err=True)
        return store().record(run_id)


def _mirrored(aws: Aws) -> RunStore:
    from gpuplan.aws.s3 import Bucket
    from gpuplan.store.mirror import MirroredStore

    if aws.bucket is None:
        return store()
    return MirroredStore(home(), SystemClock(), Bucket(session(aws), aws.bucket, owner_account(aws)), aws.prefix)


def _elsewhere(given: Given) -> Aws | None:
    """Return where in AWS to look for a run, None where nothing but a default region says anything of it."""
    layers = Layers()
    config = given.config or (Path(CONFIG_FILE) if Path(CONFIG_FILE).exists() else None)
    if config is not None:
        layers.add({key: value for key, value in read_config(config).items() if key.startswith("aws.")}, str(config))
    layers.add(given.values, given.origins)
    if not {"aws.bucket", "aws.stack"} & layers.values.keys():
        return None
    if "aws.region" not in layers.values:
        named = layers.values.get("aws.profile")
        found = ambient_region(os.environ, named if isinstance(named, str) else None)
        layers.add({"aws.region": found[0] if found else _REGION}, found[1] if found else "gpuplan's default")
    return validate_section(layers, Aws)
