"""A plan as the `gpuplan.plan/1` document, and back: with its id and the exact request of each step.

The id covers everything but the requests, which follow from the rest; so an edited document is recognised.
"""

from __future__ import annotations

import functools
import json
import operator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gpuplan.backends import base as backends
from gpuplan.core.errors import PlanRefusedError, UsageError
from gpuplan.core.names import owner, slug
from gpuplan.planning.job_input import job_input
from gpuplan.planning.plan import LaunchPlan
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from pathlib import Path

    from gpuplan.planning.plan import StepPlan

RUN_PLACEHOLDER = "RUN"
"""Stands for the run's id in the requests of a plan, which has none yet."""
_UNBOUND_LR = 1.0


def to_document(plan: LaunchPlan, home: Path) -> dict[str, Any]:
    """Return the document of a plan; `home` is where a local backend would keep its files."""
    document = plan.document()
    for step, entry in zip(plan.steps, document["steps"], strict=True):
        entry["request"] = _request(plan, step, home)
    document["batch"] = {**document["batch"], **document["batch"]["train"]}
    return {"plan_id": plan.plan_id, **document}


def from_document(text: str, name: str) -> LaunchPlan:
    """Return the plan that a document holds.

    Raises:
        UsageError: the text is no such document.
        PlanRefusedError: it was changed after gpuplan wrote it.
    """
    fix = f"gpuplan plan --out {name}    writes it again"
    try:
        document = json.loads(text)
        plan_id = document.pop("plan_id")
        for step in document["steps"]:
            step.pop("request", None)
        copies = {key: document["batch"].pop(key) for key in ("per_gpu", "world_size", "accumulation", "global")}
        if copies != {key: document["batch"]["train"][key] for key in copies}:
            document["batch"]["edited"] = copies  # changes the content below, as any other edit does
        found = sha256_hex(canonical_json(document))
        if found != plan_id:
            raise _changed(name, plan_id, found)
        plan = LaunchPlan.model_validate_json(json.dumps(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PlanRefusedError(
            f"{name} is not a plan of this version", why=f"{where}: {first['msg']}", fix=fix
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{name} is not a gpuplan plan", why=f"{type(error).__name__}: {error}", fix=fix) from error
    if plan.plan_id != plan_id:
        raise _changed(name, plan_id, plan.plan_id)
    return plan


def _changed(name: str, plan_id: object, found: str) -> PlanRefusedError:
    return PlanRefusedError(
        f"{name} was changed after it was planned",
        why=f"its id says {str(plan_id)[:10]}, its content is {found[:10]}",
        fix=f"gpuplan plan --out {name}    writes it again",
    )


def differences(old: LaunchPlan, new: LaunchPlan) -> list[str]:
    """Return the parts in which two plans differ, as dotted paths, for a message about a stale plan."""
    return sorted(_differing(old.document(), new.document(), ""))


def _differing(old: object, new: object, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return [p for key in keys for p in _differing(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
    return [] if old == new else [path]


def _request(plan: LaunchPlan, step: StepPlan, home: Path) -> dict[str, Any]:
    if plan.backend not in backends.names():
        return {"unknown": f"this installation has no backend {plan.backend!r}"}
    learning_rate = plan.lr.learning_rate or _UNBOUND_LR
    job = job_input(plan, step, run_id=RUN_PLACEHOLDER, attempt=1, learning_rate=learning_rate)
    spec = backends.JobSpec.of(step, job, owner=owner(), limits=step.limits)
    request = backends.create(plan.backend, home, plan.provenance.settings.aws).render(spec)
    body = json.loads(json.dumps(request.body))
    if step.name == "train" and plan.lr.learning_rate is None:
        *above, last = request.learning_rate_at
        functools.reduce(operator.getitem, above, body)[last] = {"unknown": "found by lr-find"}
    return {"name": request.name, **body}


def workload_slug(plan: LaunchPlan) -> str:
    """Return the readable part of a run's id."""
    return slug(f"{plan.workload.model}-{plan.workload.data.partition(':')[0]}")
