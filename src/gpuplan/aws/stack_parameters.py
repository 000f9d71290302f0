"""What a user says of the stack in words of gpuplan, as parameters of the template: types, hours, dollars, data.

Called by `gpuplan infra deploy`. Pure but for the profile files; the template itself checks values once more.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from gpuplan.core.errors import UsageError
from gpuplan.core.units import SECONDS_PER_HOUR
from gpuplan.profiles import load as profiles
from gpuplan.profiles.schema import SAGEMAKER_PREFIX, InstanceProfile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

ALL = "all"
"""Stands for the types of every shipped profile that can still be had."""
_TYPE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9-]+")
_ASSIGNMENT = re.compile(r"([A-Za-z0-9]+)=(.*)", re.DOTALL)
_MOST_HOURS = 28 * 24
_LEAST_SECONDS = 60


def instance_types(listed: str) -> str:
    """Return the SageMaker types of profiles, separated by commas: where they train and where their LR may be found.

    A plan may put lr-find on a single-GPU instance of any profile, so with a profile come all those that can be had.

    Args:
        listed: names of profiles (`g5`, `p4d.24xlarge`) or SageMaker types (`ml.g5.2xlarge`), or `all`.

    Raises:
        UsageError: a name is neither, or the profile is of this machine.
    """
    types: set[str] = set()
    named: list[InstanceProfile] = []
    for name in filter(None, (part.strip().lower() for part in listed.split(","))):
        if name == ALL:
            named += _to_be_had()
        elif _TYPE.fullmatch(name) and name.removeprefix(SAGEMAKER_PREFIX) not in profiles.names():
            types.add(name)
        else:
            found = profiles.load(name)
            if not isinstance(found, InstanceProfile):
                raise UsageError(f"{name} is no instance of AWS", why="it is this machine", fix="gpuplan profiles list")
            named.append(found)
    shapes = [shape for profile in named for shape in (profile.train, *profile.finders)]
    if named:
        shapes += [shape for profile in _to_be_had() for shape in (profile.train, *profile.finders) if shape.gpus == 1]
    types |= {f"{SAGEMAKER_PREFIX}{shape.instance_type}" for shape in shapes}
    if not types:
        raise UsageError("--instance-types names no type", fix=f"--instance-types {ALL}    or    g5,p4d")
    return ",".join(sorted(types))


def max_runtime_seconds(hours: float) -> str:
    """Return a time limit in whole seconds.

    Raises:
        UsageError: not a time SageMaker takes: a minute to 28 days.
    """
    if not math.isfinite(hours) or not _LEAST_SECONDS <= hours * SECONDS_PER_HOUR <= _MOST_HOURS * SECONDS_PER_HOUR:
        raise UsageError(
            f"--max-runtime-hours {hours:g}: must be between a minute and {_MOST_HOURS} hours",
            why="SageMaker runs no job longer than 28 days",
            fix="--max-runtime-hours 120",
        )
    return str(math.floor(hours * SECONDS_PER_HOUR))


def budget(usd: Decimal, email: str | None) -> dict[str, str]:
    """Return the parameters of the monthly budget; 0 dollars take it away.

    Raises:
        UsageError: less than 0, or nobody to warn.
    """
    if not usd.is_finite() or usd < 0:
        raise UsageError(
            f"--budget {usd}: must be an amount in dollars", fix="--budget 500 --budget-email you@example.com"
        )
    if usd == 0:
        return {"BudgetUSD": "0", "BudgetEmail": ""}
    if not email:
        raise UsageError(
            "--budget needs --budget-email",
            why="a budget that warns nobody is none",
            fix=f"--budget {usd:f} --budget-email you@example.com",
        )
    return {"BudgetUSD": f"{usd:f}", "BudgetEmail": email}


def assignments(given: Iterable[str], named: dict[str, str]) -> dict[str, str]:
    """Return parameters written as `Name=value` beside those that options of their own have set.

    Raises:
        UsageError: not an assignment, or a parameter is given twice.
    """
    parameters = dict(named)
    for text in given:
        written = _ASSIGNMENT.fullmatch(text)
        if written is None:
            raise UsageError(f"--parameter {text!r} is not Name=value", fix="--parameter CheckpointDays=90")
        name, value = written.groups()
        if name in parameters:
            raise UsageError(f"the parameter {name} is given twice", fix="give it once")
        parameters[name] = value
    return parameters


def _to_be_had() -> list[InstanceProfile]:
    found = (profile for profile in profiles.load_all() if isinstance(profile, InstanceProfile))
    return [profile for profile in found if profile.lifecycle.state != "retired"]
