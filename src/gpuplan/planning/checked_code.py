"""What a plan takes from the check of a user's own code: what it shows, and what its optimizer keeps in memory. Pure.

Called by the pipelines, `steps`, `step_times` and `checkpointing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gpuplan.own_code.code_package import CheckedCode
from gpuplan_job.code_check import CodeCheck
from gpuplan_job.contract import OWN

if TYPE_CHECKING:
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.memory.step_program import Optimizer

_SHOWN = 3


class OptimizerKept(NamedTuple):
    """An optimizer by what it keeps beside the weights."""

    optimizer: Optimizer
    momentum: float
    weight_decay: float


def checked_code(inputs: PlanInputs) -> CheckedCode | None:
    """Return what the plan shows of the check, None where there was none."""
    check = inputs.checked
    if not isinstance(check, CodeCheck):
        return None
    found = check.optimizer
    return CheckedCode(
        batch=tuple(check.batch),
        kind=check.kind,
        optimizer=found.name if found else None,
        rate_at=found.rate_at if found and found.follows else None,
        notes=tuple(check.notes),
        reads=tuple(sorted(check.reads)[:_SHOWN]),
    )


def optimizer_kept(inputs: PlanInputs) -> OptimizerKept:
    """Return the optimizer that memory, time, checkpoints and sweeps are planned for.

    It is the one that the user's model configures, where it is the training's, and known.
    """
    workload, check = inputs.settings.workload, inputs.checked
    if workload.optimizer == OWN and isinstance(check, CodeCheck) and check.optimizer:
        own = check.optimizer
        if own.kind != "other":
            return OptimizerKept(own.kind, own.momentum, own.weight_decay)
    return OptimizerKept(workload.optimizer, workload.momentum, workload.weight_decay)
