"""A user's own code before it is planned with: packed, checked on the CPU, and kept once a run starts.

Called by `planning` and `launch`. It says on stderr what takes seconds, and submits nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from gpuplan.cli.home import home
from gpuplan.core.errors import PlanRefusedError, UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.engine.checking import checked
from gpuplan.own_code import shelf
from gpuplan_job import data
from gpuplan_job.code_check import CheckRequest, CodeCheck
from gpuplan_job.contract import OWN
from gpuplan_job.own import is_own

if TYPE_CHECKING:
    from gpuplan.own_code.code_package import CodePackage
    from gpuplan.own_code.package import Packed
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.workload.load import Layers
    from gpuplan.workload.schema import Code, Settings, Workload
    from gpuplan_job.contract import DataDescription

_STATE = ("checks", "fake", "runs", "traces", "wheels", shelf.FOLDER)
"""Folders that gpuplan makes in its home."""
_OWN_KEYS = ("workload.optimizer", "workload.schedule")


class OwnCode(NamedTuple):
    """The packed code and what its check has shown, or why there is no check."""

    packed: Packed
    check: CodeCheck | Unknown

    @property
    def package(self) -> CodePackage:
        """What a plan keeps of the archive."""
        return self.packed.code


def own_code(settings: Settings) -> OwnCode | None:
    """Return the code that model or data name, packed and checked; None where both are gpuplan's kinds.

    Raises:
        UsageError: it cannot be packed, or it fails the check; nothing was submitted.
    """
    workload = settings.workload
    _refuse_names(workload)
    _refuse_arguments(workload)
    if not (is_own(workload.model) or is_own(workload.data)):
        return None
    return _with_check(_packed(settings.code), settings)


def kept_code(plan: LaunchPlan) -> OwnCode | None:
    """Return the code that a started run's plan was made with, from the shelf: its folder may have changed since.

    The check is the one made then, or made again of the same archive where what it saw beside the code has changed.

    Raises:
        UsageError: it is not on this machine, or it fails the check.
    """
    held = plan.provenance
    if held.code is None:
        return None
    from gpuplan.own_code.package import Packed  # as in `_packed`

    return _with_check(Packed(held.code, shelf.taken(home(), held.code.sha256)), held.settings)


def _with_check(packed: Packed, settings: Settings) -> OwnCode:
    workload = settings.workload
    described = None if is_own(workload.data) else data.describe(workload.data)
    here = described is not None and not described.plan_only and data.s3_location(workload.data) is None
    request = CheckRequest(
        model=workload.model,
        model_args=workload.model_args,
        data=workload.data,
        data_args=workload.data_args,
        image_size=workload.image_size,
        described=described,
        here=here,
    )
    check = checked(request, packed, home() / "checks", lambda said: typer.echo(said, err=True))
    return OwnCode(packed, check)


def add_own_optimizer(layers: Layers, code: OwnCode | None) -> bool:
    """Let a LightningModule's own optimizer and schedule be the defaults of a training, and return whether it did.

    What was given explicitly stays.
    """
    if code is None or not isinstance(code.check, CodeCheck):
        return False
    if code.check.optimizer is None and not code.check.optimizer_problem:
        return False
    if "workload.optimizer" in layers.values and layers.values["workload.optimizer"] != OWN:
        return False
    defaults = {key: OWN for key in _OWN_KEYS if key not in layers.values}
    layers.add(defaults, f"{layers.values['workload.model']}'s configure_optimizers")
    return bool(defaults)


def described(code: OwnCode | None, settings: Settings) -> DataDescription:
    """Return what a plan needs to know of the data.

    Raises:
        DataError: they are not there.
        UsageError: they are of the user's own code, which was not checked.
    """
    if code is None or not is_own(settings.workload.data):
        return data.describe(settings.workload.data)
    if isinstance(code.check, Unknown):
        what, _, fix = code.check.unknown.partition("; ")
        raise UsageError(f"--data {settings.workload.data} cannot be described: {what}", fix=fix)
    return code.check.data


def shelve(plan: LaunchPlan) -> None:
    """Keep the code of a plan that is about to run: resumed, the run goes on with the very same.

    Raises:
        PlanRefusedError: the folder has changed since the plan was made.
        UsageError: it cannot be packed or kept.
    """
    planned = plan.provenance.code
    if planned is None:
        return
    packed = _packed(plan.provenance.settings.code)
    if packed.code.sha256 != planned.sha256:
        raise PlanRefusedError(
            "your code has changed since the plan was made",
            why=f"planned {planned.sha256[:10]}, now {packed.code.sha256[:10]} in {Path.cwd()}",
            fix="plan again",
        )
    shelf.keep(home(), packed.code.sha256, packed.archive)


def _packed(settings: Code) -> Packed:
    from gpuplan.own_code.package import pack  # plans without such code need not pay for it

    # Runs and archives of gpuplan's are no code, wherever a user keeps them; theirs may lie in the same folder.
    state = [home() / name for name in _STATE] if home() == Path.cwd().resolve() else [home()]
    return pack(Path.cwd(), settings.include, settings.exclude, most_mb=settings.max_mb, without=state)


def _refuse_names(workload: Workload) -> None:
    """Return if what looks like code of the user's can be such."""
    if ":" in workload.model and not is_own(workload.model):
        raise UsageError(
            f"--model {workload.model} is not module:Class",
            why="its module must be a name with dots, and none of the names of data kinds",
            fix="--model net:Net    for the class Net in net.py of the current folder",
        )


def _refuse_arguments(workload: Workload) -> None:
    given = (("model", workload.model, workload.model_args), ("data", workload.data, workload.data_args))
    for name, spec, arguments in given:
        if arguments and not is_own(spec):
            raise UsageError(
                f"--{name}-args: --{name} {spec} is no code of yours, and takes no arguments",
                fix=f"drop {name}_args, or --{name}-args '{{}}', or --{name} module:Class",
            )


def refuse_unusable(settings: Settings, code: OwnCode | None) -> None:
    """Return if a training can use what the check has shown.

    Raises:
        UsageError: DDP would wait for a parameter's gradient, or the model's own optimizer cannot be used.
    """
    workload, check = settings.workload, code.check if code else None
    if not isinstance(check, CodeCheck):
        return
    if check.unused:
        names = ", ".join(check.unused[:5]) + (f" and {len(check.unused) - 5} more" if len(check.unused) > 5 else "")  # noqa: PLR2004 - enough to see
        raise UsageError(
            f"--model {workload.model}: no gradient reaches {names}",
            why="they take no part in the loss of a batch; with several GPUs DDP waits for their gradients and fails",
            fix="use them in training_step, or remove them, or set requires_grad_(False) on them",
        )
    if workload.optimizer == OWN and (check.optimizer_problem or check.optimizer is None):
        problem = check.optimizer_problem or "it configures no optimizer; --optimizer sgd or adamw trains it"
        what, _, fix = problem.partition("; ")
        raise UsageError(f"--optimizer own: {workload.model}: {what}", fix=f"{fix}, or --optimizer adamw")
