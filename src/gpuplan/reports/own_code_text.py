"""What a plan says of a user's own code: what is sent, what the check has shown, what gpuplan does in another way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.units import count, significant
from gpuplan_job.contract import OWN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.own_code.code_package import CheckedCode, CodePackage
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan_job.contract import DataDescription

_COMMIT, _DIGEST = 10, 10
_KILO, _MEGA = 1e3, 1e6


def code_facts(plan: LaunchPlan) -> Iterator[tuple[str, str]]:
    """Yield what is sent and what was checked; nothing where model and data are gpuplan's kinds."""
    code = plan.provenance.code
    if code is None:
        return
    yield "code", _sent(code)
    if plan.checked is not None:
        yield "checked", _shown(plan.checked, own_optimizer=plan.workload.optimizer == OWN)
    elif plan.provenance.unchecked is not None:
        yield "note", f"code: {plan.provenance.unchecked.replace('; ', ' (', 1)})"
    for note in (*code.notes, *(plan.checked.notes if plan.checked else ())):
        yield "note", f"code: {note}"


def samples(data: DataDescription, image_size: int | None) -> str:
    """Return `1,437 + 360 samples of 8 px, 10 classes`."""
    counted = f"{count(data.train_samples)} + {count(data.val_samples)} samples of "
    what = data.sample or f"{image_size or data.height} px"
    return counted + what + (f", {data.classes} classes" if data.classes else "")


def _sent(code: CodePackage) -> str:
    size = code.archive_bytes
    amount = f"{significant(size / _MEGA)} MB" if size >= _MEGA else f"{significant(size / _KILO)} kB"
    changed = f", {count(code.changed)} of them changed since" if code.changed else ""
    commit = f" of commit {code.commit[:_COMMIT]}{changed}" if code.commit else " of this folder, without git"
    files = f"{count(code.files)} file{'' if code.files == 1 else 's'}"
    return f"{files}{commit}, {amount}, sent with each job (sha256 {code.sha256[:_DIGEST]})"


def _shown(checked: CheckedCode, *, own_optimizer: bool) -> str:
    shown = f"on the CPU, there and back, a batch of {', '.join(checked.batch)}"
    if not own_optimizer or checked.optimizer is None:
        return shown
    return f"{shown}; its {checked.optimizer} follows {checked.rate_at}"
