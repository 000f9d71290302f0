"""A comparison as people and scripts read it: what each instance takes and costs, then what is needed to have it.

Called by `gpuplan compare`. It returns blocks and documents; it compares nothing.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from gpuplan.aws.quotas import training_quota_name
from gpuplan.core.frozen import Unknown
from gpuplan.core.units import count, significant, usd
from gpuplan.planning.batch import StepBatch
from gpuplan.planning.money.cost import Cost, Rate
from gpuplan.profiles.hardware import QUOTA_NAMES, SAGEMAKER_PREFIX
from gpuplan.reports.layout import Facts, Line, Table
from gpuplan.reports.money_text import cost_text
from gpuplan.reports.plan_text import hours_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gpuplan.planning.comparison import Row
    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.memory.estimate import MemoryEstimate

_FIGURES = (
    "",
    "instance",
    "GPUs",
    "batch",
    "precision",
    "memory of GiB",
    "time p50 (p90)",
    "cost p50 (p90)",
)
_NEEDS = ("instance", "$/epoch", "images/$", "lr-find on", "lifecycle", "EC2 $/h", "EC2 quota", "SageMaker quota")
_BEST = {"price": "cheapest", "time": "fastest"}
_STATUS = {"over_budget": "over budget", "does_not_fit": "too big"}
_VERDICT = {"fits": "", "tight": " TIGHT", "too_big": " TOO BIG"}
_LESS = "*"
_NONE = "-"


def compare_text(
    rows: Sequence[Row], inputs: PlanInputs, given: Mapping[str, object], arguments: list[str], asked: str | None
) -> list[Line | Table | Facts]:
    """Return the blocks of a comparison.

    Args:
        rows: in the order to show them, one or more.
        inputs: of any of them, for what they have in common.
        given: the settings that were said, by dotted key.
        arguments: the options the user gave, without the one that names an instance.
        asked: the instance the user has in mind, by its full name.
    """
    work = inputs.settings.workload
    where = ", ".join(dict.fromkeys(f"{row.backend} {row.region}" for row in rows if row.billed))
    title = f"gpuplan compare · {inputs.settings.launch.pipeline} · {work.model} on {work.data}, {work.epochs} epochs"
    return [
        Line(f"{title} · {where}" if where else title),
        Table(_FIGURES, tuple(map(_figures, rows))),
        Table(_NEEDS, tuple(map(_needs, rows))),
        Facts((*_yours(rows, asked), *_facts(rows, given))),
        Facts(tuple(_next(rows, arguments))),
    ]


def compare_document(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as JSON-ready data."""
    documents = []
    for row in rows:
        document = row.document()
        code = document.pop("ec2_quota", None)
        if row.billed:
            ec2 = {"code": code, "name": QUOTA_NAMES.get(code, "")} if code else {"unknown": "not in the profile"}
            document["quota"] = {"ec2": ec2, "sagemaker": _sagemaker_quota(row)}
        documents.append(document)
    return documents


def _figures(row: Row) -> tuple[str, ...]:
    return (
        ", ".join(_BEST[what] for what in row.best) or ("" if row.status == "ok" else _status(row)),
        row.instance,
        f"{row.gpus} x {row.gpu}",
        _batch(row),
        row.precision,
        _memory(row.memory),
        _NONE if isinstance(row.time_hours, Unknown) else hours_text(row.time_hours),
        _NONE if isinstance(row.cost_usd, Unknown) else cost_text(row.cost_usd),
    )


def _needs(row: Row) -> tuple[str, ...]:
    ec2 = row.ec2_usd_per_hour
    return (
        row.instance,
        _NONE if isinstance(row.usd_per_epoch, Unknown) else usd(row.usd_per_epoch),
        _NONE if isinstance(row.images_per_usd, Unknown) else count(row.images_per_usd),
        row.finder_instance or _NONE,
        row.lifecycle.replace("previous-generation", "previous gen."),
        (f"{usd(ec2.amount)}" if isinstance(ec2, Rate) else "unknown") if row.billed else _NONE,
        row.ec2_quota or _NONE,
        _sagemaker_quota(row) if row.billed else _NONE,
    )


def _facts(rows: Sequence[Row], given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    per_gpu = "each profile's default per GPU; --per-gpu-batch N sets one for all rows"
    if "workload.per_gpu_batch" in given:
        per_gpu = f"{rows[0].wanted_per_gpu_batch} per GPU on every row, as given"
    yield "batch", f"per GPU x GPUs (x accumulated) = global: {per_gpu}"
    if any(_reduced(row) for row in rows):
        yield "batch", f"{_LESS} the largest per GPU with which training and lr-find fit; more was wanted"
    if "workload.precision" not in given:
        yield (
            "precision",
            "each profile's default, bf16-mixed where the GPU has it, else 16-mixed; --precision sets one for all rows",
        )
    yield "time, cost", "of all steps, as gpuplan plan states them with the same options; rough, see docs/estimates.md"
    yield "$/epoch", "p50 cost of all steps over the epochs; images/$: samples trained on over it"
    yield "EC2 $/h", "on demand, whole instance, for orientation: what is billed is the backend's price"
    for code in dict.fromkeys(row.ec2_quota for row in rows if row.ec2_quota):
        yield "EC2 quota", f"{code}: {QUOTA_NAMES.get(code, 'name not known')} (unit: vCPU)"
    for row in rows:
        if row.status != "ok":
            yield "note", f"{row.instance}: {_status(row)}: {row.reason}"


def _next(rows: Sequence[Row], arguments: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the plan of each best row, ready to paste."""
    for row in rows:
        if row.best:
            options = ["--instance", row.instance, *arguments]
            if isinstance(row.batch, StepBatch) and _reduced(row):
                options = [*_without(options, "--per-gpu-batch"), "--per-gpu-batch", str(row.batch.per_gpu)]
            yield "next", f"gpuplan plan {shlex.join(options)}"
    if not any(row.best for row in rows):
        yield "next", "gpuplan profiles list"


def _without(options: list[str], flag: str) -> list[str]:
    """Return options without one of them and its value."""
    if flag not in options:
        return options
    at = options.index(flag)
    return options[:at] + options[at + 2 :]


def _yours(rows: Sequence[Row], asked: str | None) -> Iterator[tuple[str, str]]:
    """Yield where the instance stands that the user has in mind."""
    cheapest = next((row for row in rows if "price" in row.best), None)
    for place, row in enumerate(rows, start=1):
        if row.instance == asked:
            told = f"{row.instance} is row {place} of {len(rows)}"
            if cheapest is not None and isinstance(row.cost_usd, Cost) and isinstance(cheapest.cost_usd, Cost):
                more = row.cost_usd.p50 - cheapest.cost_usd.p50
                told += f": {usd(abs(more))} {'more' if more >= 0 else 'less'} than the cheapest" if more else ""
            yield "yours", told


def _status(row: Row) -> str:
    return _STATUS.get(row.status, row.status)


def _batch(row: Row) -> str:
    if isinstance(row.batch, Unknown):
        return str(row.wanted_per_gpu_batch)
    batch = row.batch
    mark = _LESS if _reduced(row) else ""
    accumulated = f" x {batch.accumulation}" if batch.accumulation > 1 else ""
    return f"{batch.per_gpu}{mark} x {batch.world_size}{accumulated} = {batch.global_batch}"


def _reduced(row: Row) -> bool:
    return not isinstance(row.batch, Unknown) and row.batch.per_gpu < row.wanted_per_gpu_batch


def _memory(memory: MemoryEstimate | Unknown) -> str:
    if isinstance(memory, Unknown):
        return "unknown"
    return f"{significant(memory.peak_gib, 2)} of {significant(memory.capacity_gib)}{_VERDICT[memory.verdict]}"


def _sagemaker_quota(row: Row) -> str:
    return training_quota_name(f"{SAGEMAKER_PREFIX}{row.instance}", spot=row.spot)
