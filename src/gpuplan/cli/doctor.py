"""`gpuplan doctor`: whether the account is ready for a run, every finding with its fix; it changes nothing."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from gpuplan.aws.checks.base import Check, InstanceNeed, Needs, failed
from gpuplan.aws.checks.run import doctor
from gpuplan.aws.location import Location, configuration_text, locate
from gpuplan.aws.session import Session
from gpuplan.cli.options import DebugOption, Given, Output, OutputOption, with_settings
from gpuplan.cli.planning import Planned, plan_from, resolve_profile
from gpuplan.core.errors import GpuplanError
from gpuplan.planning.refuse import refuse
from gpuplan.profiles.hardware import SAGEMAKER_PREFIX
from gpuplan.reports.doctor_text import doctor_document, doctor_text
from gpuplan.reports.layout import console, show
from gpuplan.workload.schema import NO_REGION

if TYPE_CHECKING:
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.profiles.schema import Lifecycle


@with_settings
def command(given: Given, output: OutputOption = Output.TEXT, debug: DebugOption = False) -> None:
    """Check what a launch with these options needs: identity, region, role, bucket, image, quotas, offerings, logs.

    Reads only. Exit 3 for credentials, 5 for a retired instance, 4 for a quota or capacity, 2 for a role or a bucket,
    else what a launch would refuse the plan with.
    """
    del debug  # read by the entry point
    planned = plan_from(given)
    location = _location(planned)
    profile = resolve_profile(planned.plan.provenance.settings.launch.instance)
    session = Session(location.region, location.profile)
    wanted = needs(planned.plan, profile.lifecycle)
    diagnosis = doctor(session, location, wanted, datetime.now(UTC))
    diagnosis = replace(diagnosis, checks=(*diagnosis.checks, *_refusal(planned.plan)))
    if output is Output.JSON:
        typer.echo(json.dumps(doctor_document(diagnosis), indent=2, ensure_ascii=False))
    else:
        command = "launch" if wanted.instance_types else "doctor --instance g5"
        following = f"gpuplan {command} {shlex.join(given.arguments())}".strip()
        show(doctor_text(diagnosis, profile.name, following), console())
    raise typer.Exit(diagnosis.exit_code)


def needs(plan: LaunchPlan, lifecycle: Lifecycle | None) -> Needs:
    """Return what a plan needs of the account; `lifecycle` None: whether the instance is retired is settled already."""
    aws = plan.provenance.settings.aws
    return Needs(
        instance_types=tuple(
            InstanceNeed(step.instance_type, step.instances, step.spot, step.compute_capability)
            for step in plan.steps
            if step.instance_type.startswith(SAGEMAKER_PREFIX)
        ),
        role_arn=aws.role_arn,
        bucket=aws.bucket,
        stack=aws.stack,
        image=aws.image,
        lifecycle=lifecycle,
    )


def _refusal(plan: LaunchPlan) -> list[Check]:
    """Return why a launch would refuse the plan itself, if it would; its instance's lifecycle is another check's."""
    try:
        refuse(plan, plan.provenance.settings.launch.max_cost, allow_retired=True)
    except GpuplanError as error:
        return [failed("plan", error)]
    return []


def _location(planned: Planned) -> Location:
    """Return where the settings lead, with the flag, variable or file that said so."""
    aws, origins = planned.plan.provenance.settings.aws, planned.layers.origins
    region_from = origins["aws.region"]
    if region_from.startswith("profile "):
        region_from = f"instance {region_from}"  # beside an AWS profile, "profile" alone would mislead
    return locate(
        None if aws.region == NO_REGION else aws.region,
        region_from,
        aws.profile,
        origins.get("aws.profile", ""),
        os.environ,
        configuration_text(os.environ),
    )
