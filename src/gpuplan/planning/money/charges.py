"""What AWS bills for a step, line by line: instances, of it start-up, volume, S3 and logs. Pure.

Called by `pipelines.base` for planned steps. The prices are the step's own rate and the dated rows of `small_prices`;
an unknown one leaves its line unknown and no other.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import SECONDS_PER_HOUR, count, significant
from gpuplan.planning.checkpointing import checkpoint_bytes, saves_within_epochs
from gpuplan.planning.limits import disk_gb
from gpuplan.planning.money.cost import Charge, ChargeName, Cost, Rate, cost, exact
from gpuplan.planning.money.interruptions import HOURS_PER_MONTH
from gpuplan.planning.money.small_prices import SmallPrice, small_price
from gpuplan.planning.placement import service
from gpuplan.planning.speed.data_transfer import list_requests
from gpuplan.planning.speed.throughput import Hours
from gpuplan_job.contract import BatchSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.planning.inputs import PlanInputs
    from gpuplan.planning.plan import StepPlan

_MINUTES_PER_HOUR = 60
_GB = 1e9
_PART_BYTES = 8 * 1024**2
"""From there on an upload is cut into parts of this size, each a request: the default of AWS's SDKs; an assumption."""
_UPLOAD_REQUESTS = 2
"""Beginning and completing an upload in parts."""
_FILES_PER_EPOCH = 4
"""Manifests, metrics, progress: small files that change with every epoch; an assumption."""
_FILES_PER_JOB = 50
"""Code, wheels, results, the run's event log; an assumption."""
_THOUSAND = 1000
_LOG_BYTES_PER_HOUR = 250 * SECONDS_PER_HOUR
"""A progress line a second, 250 B with what CloudWatch adds to it; an assumption."""

Band = tuple[Decimal, Decimal]
"""A quantity at p50 and at p90."""


def charges(step: StepPlan, inputs: PlanInputs) -> tuple[Charge, ...]:
    """Return the lines of a step's bill; none where AWS bills nothing."""
    if service(inputs) is None:
        return ()
    return (
        *_instance(step),
        *_volume(step, inputs),
        *_requests(step, inputs),
        _logs(step, inputs),
        *_kept(step, inputs),
    )


def _instance(step: StepPlan) -> Iterator[Charge]:
    rate, (low, high) = step.rate_usd_per_hour, step.startup_minutes
    startup = Hours(p50=low / _MINUTES_PER_HOUR, p90=high / _MINUTES_PER_HOUR)
    as_of, source = (rate.as_of, rate.source) if isinstance(rate, Rate) else (None, None)
    per_hour = f" x {rate.amount} USD/h" if isinstance(rate, Rate) else ""
    yield Charge(
        name="instance",
        billed="run",
        cost_usd=step.cost_usd,
        how=f"{step.instances} x {step.instance_type}, running time{per_hour}",
        as_of=as_of,
        source=source,
    )
    yield Charge(
        name="start-up",
        billed="run",
        part_of="instance",
        cost_usd=cost(rate, startup, step.instances),
        how=f"{significant(low)} min, p90 {significant(high)} min: billed before the first step",
        as_of=as_of,
        source=source,
    )


def _volume(step: StepPlan, inputs: PlanInputs) -> Iterator[Charge]:
    """Yield the volume of an instance without disks of its own; those of the others are in their rate."""
    if step.local_storage_gb is not None:
        return
    region, size = inputs.settings.aws.region, disk_gb(inputs.data, step.s3_data)
    on_ec2 = small_price("ebs-gp3", region)
    price = on_ec2 if service(inputs) == "ec2" else small_price("sagemaker-volume", region)
    gb_months = _by_the_hour(step, Decimal(size * step.instances) / HOURS_PER_MONTH)
    if isinstance(price, Unknown) and isinstance(on_ec2, SmallPrice):
        there = "" if isinstance(gb_months, Unknown) else f": {on_ec2.usd * gb_months[0]:.4f} USD"
        price = Unknown(unknown=f"{price.unknown}; on EC2 gp3 takes {on_ec2.usd} USD/GB-month{there}")
    yield _line("volume", price, gb_months, f"{step.instances} x {size} GB, as long as the job runs")


def _requests(step: StepPlan, inputs: PlanInputs) -> Iterator[Charge]:
    """Yield the S3 requests: the objects that every instance reads; lists, checkpoints in parts, and small files."""
    region, lists = inputs.settings.aws.region, 0
    if inputs.data.storage == "jpeg":
        lists = list_requests(inputs.data) * step.instances
        objects, how = _objects(step, inputs)
        reads = Decimal(objects) / _THOUSAND
        yield _line("s3-reads", small_price("s3-get", region), (reads, reads), how)
    writes: Band | Unknown = _thousands(step, inputs, _FILES_PER_JOB + lists)
    how = "checkpoints in parts of 8 MiB, results, lists" if step.sweep is None else "results, lists"
    yield _line("s3-writes", small_price("s3-put", region), writes, how)


def _objects(step: StepPlan, inputs: PlanInputs) -> tuple[int, str]:
    """Return how many objects are read, and how that comes: every one, or those that a range test opens."""
    there = inputs.data.train_samples + inputs.data.val_samples
    if step.sweep is None or step.s3_data != "streamed":
        return there * step.instances, f"{count(there * step.instances)} objects of data"
    noise = step.sweep.noise_micro_batches * step.batch.per_gpu * step.batch.world_size
    batch = BatchSpec(step.batch.per_gpu, step.batch.world_size, step.batch.accumulation)
    opened = step.sweep.samples(batch) + noise
    return opened, f"{count(opened)} objects opened, of {count(there)}"


def _thousands(step: StepPlan, inputs: PlanInputs, small: int) -> Band | Unknown:
    """Return thousands of requests that write or list, `small` of them whatever is trained."""
    if step.sweep is not None:
        return Decimal(small) / _THOUSAND, Decimal(small) / _THOUSAND
    size = checkpoint_bytes(inputs)
    if isinstance(size, Unknown):
        return size
    parts = math.ceil(size / _PART_BYTES)
    each = parts + _UPLOAD_REQUESTS if parts > 1 else 1
    small += _FILES_PER_EPOCH * inputs.settings.workload.epochs
    within = saves_within_epochs(step.checkpoints, step.time_hours, inputs.settings.workload.epochs)
    saves = zip(_of_epochs(inputs), within, strict=True)
    # Each save within an epoch also writes a manifest; those of the epochs are among their small files.
    low, high = (Decimal(small + each * (kept + more) + more) / _THOUSAND for kept, more in saves)
    return low, high


def _logs(step: StepPlan, inputs: PlanInputs) -> Charge:
    gigabytes = _by_the_hour(step, exact(_LOG_BYTES_PER_HOUR / _GB))
    price = small_price("logs", inputs.settings.aws.region)
    return _line("logs", price, gigabytes, f"about {_LOG_BYTES_PER_HOUR / 1e6:.1f} MB an hour")


def _kept(step: StepPlan, inputs: PlanInputs) -> Iterator[Charge]:
    """Yield a month of what a training leaves on S3: SageMaker mirrors its checkpoints there and deletes none."""
    if step.sweep is not None:
        return
    within = saves_within_epochs(step.checkpoints, step.time_hours, inputs.settings.workload.epochs)
    # Those within an epoch take two names in turn.
    low, high = (kept + min(2, more) for kept, more in zip(_of_epochs(inputs), within, strict=True))
    size = checkpoint_bytes(inputs)
    price = small_price("s3-storage", inputs.settings.aws.region)
    if isinstance(size, Unknown):
        yield _line("s3-storage", price, size, f"{low} to {high} checkpoints", billed="month")
        return
    each = exact(size / _GB)
    how = f"{low} to {high} checkpoints of {significant(size / _GB, 2)} GB"
    yield _line("s3-storage", price, (each * low, each * high), how, billed="month")


def _of_epochs(inputs: PlanInputs) -> tuple[int, int]:
    """Return how many are of whole epochs: one each, and the best again when it changed: every second epoch, or all."""
    epochs = inputs.settings.workload.epochs
    return epochs + math.ceil(epochs / 2), 2 * epochs


def _by_the_hour(step: StepPlan, each: Decimal) -> Band | Unknown:
    """Return `each` times the step's hours."""
    hours = step.time_hours
    return hours if isinstance(hours, Unknown) else (each * exact(hours.p50), each * exact(hours.p90))


def _line(
    name: ChargeName,
    price: SmallPrice | Unknown,
    quantity: Band | Unknown,
    how: str,
    *,
    billed: Literal["run", "month"] = "run",
) -> Charge:
    """Return quantity x price; unknown if either is."""
    if isinstance(price, Unknown):
        return Charge(name=name, billed=billed, cost_usd=price, how=how)
    amount: Cost | Unknown
    if isinstance(quantity, Unknown):
        amount = quantity
    else:
        amount = Cost(p50=price.usd * quantity[0], p90=price.usd * quantity[1])
    full = f"{how}, {price.usd} USD per {price.per}"
    return Charge(name=name, billed=billed, cost_usd=amount, how=full, as_of=price.as_of, source=price.source)
