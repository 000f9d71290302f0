"""What a user should know before paying, read off a plan: each with a code for scripts and a fix for people. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuplan.core.frozen import Unknown
from gpuplan.core.units import SECONDS_PER_HOUR, duration
from gpuplan.planning.batch import BATCHNORM_NEEDS, LARGE_BATCH
from gpuplan.planning.limits import ORDINARY_LONGEST_SECONDS
from gpuplan.planning.plan import PlanWarning
from gpuplan.planning.speed.throughput import Hours

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.planning.advice.parts import Norm
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.profiles.schema import InstanceProfile

_NOT_IN_IMAGES = ("mlflow", "wandb")
"""Loggers that need a package which neither SageMaker's PyTorch images nor the wheels that come with a job bring."""


def warnings_for(plan: LaunchPlan, profile: InstanceProfile, norm: Norm) -> tuple[PlanWarning, ...]:
    """Return the plan's warnings, most important first; `norm` is the model's normalisation."""
    return (
        *_instance(plan, profile),
        *_code(plan),
        *_loggers(plan),
        *_finder(plan),
        *_batch(plan, norm),
        *_limits(plan),
        *_estimates(plan, profile),
    )


def _instance(plan: LaunchPlan, profile: InstanceProfile) -> Iterator[PlanWarning]:
    if plan.lifecycle != "current":
        others = ", ".join(plan.substitutes)
        yield PlanWarning(
            code=plan.lifecycle,
            message=profile.lifecycle.note,
            fix=f"consider {others}, or gpuplan compare" if others else "gpuplan profiles list",
        )


def _code(plan: LaunchPlan) -> Iterator[PlanWarning]:
    reads = plan.checked.reads if plan.checked else ()
    if reads and plan.billed:
        yield PlanWarning(
            code="reads-what-is-not-sent",
            message=f"your code opens {', '.join(reads)} here, and a job in AWS has only the code that is sent",
            fix="--include sends small files; large ones belong on S3: --data imagefolder:s3://...",
        )


def _loggers(plan: LaunchPlan) -> Iterator[PlanWarning]:
    settings = plan.provenance.settings
    missing = [name for name in settings.launch.loggers if name in _NOT_IN_IMAGES]
    if missing and plan.billed and plan.step("train") and settings.aws.image is None:
        names = " and ".join(missing)
        yield PlanWarning(
            code="logger-not-in-image",
            message=f"SageMaker's images are not known to have {names}: without it the training goes on, and its "
            "figures do not get there",
            fix="--image with one of your own that has it, or --loggers csv,tensorboard",
        )


def _finder(plan: LaunchPlan) -> Iterator[PlanWarning]:
    step = plan.step("lr-find")
    if step is not None and step.gpu_model != plan.gpu:
        yield PlanWarning(
            code="finder-gpu-differs",
            message=f"lr-find runs on {step.instance_type} ({step.gpu_model}), not on {plan.gpu}: the "
            "learning rate carries over, its memory and speed do not",
            fix="none needed",
        )


def _batch(plan: LaunchPlan, norm: Norm) -> Iterator[PlanWarning]:
    batch = plan.batch
    if batch.override:
        yield PlanWarning(
            code="batch-override",
            message=f"lr-find uses {batch.lr_find.per_gpu} per GPU, the training {batch.train.per_gpu}: the learning "
            "rate is found under other conditions than it is used",
            fix=f"drop {batch.override.reason}",
        )
    synced = plan.workload.sync_batchnorm and plan.device == "cuda"
    seen = batch.train.per_gpu * (batch.train.world_size if synced else 1)
    if norm in {"batch", "unknown"} and seen < BATCHNORM_NEEDS:
        several = batch.train.world_size > 1 and not synced
        yield PlanWarning(
            code="small-batchnorm",
            message=f"{seen} samples{' of all GPUs' if synced else ' per GPU'} make BatchNorm statistics noisy",
            fix=f"--per-gpu-batch {BATCHNORM_NEEDS} or more{', or --sync-batchnorm' if several else ''}",
        )
    if plan.workload.sync_batchnorm and plan.device != "cuda" and batch.train.world_size > 1:
        yield PlanWarning(
            code="no-sync-batchnorm",
            message=f"SyncBatchNorm needs CUDA: on {plan.device} BatchNorm stays that of each process",
            fix="none needed for a rehearsal",
        )
    if batch.train.global_batch > LARGE_BATCH and plan.workload.optimizer != "lamb":
        yield PlanWarning(
            code="large-global-batch",
            message=f"a global batch of {batch.train.global_batch:,} needs warm-up and perhaps a layer-wise optimizer",
            fix=f"keep the global batch at {LARGE_BATCH:,} or less, or --optimizer lamb",
        )


def _limits(plan: LaunchPlan) -> Iterator[PlanWarning]:
    for step in plan.steps:
        if step.spot:
            yield PlanWarning(
                code="spot-price",
                message=f"{step.name} runs on spot: its cost is shown at the on-demand price, the most it can be",
                fix="none needed",
            )
        if step.limits is not None and step.limits.max_runtime_seconds > ORDINARY_LONGEST_SECONDS:
            yield PlanWarning(
                code="longest-run",
                message=f"the time limit of {step.name} is over 5 days, which is SageMaker's default quota for a job",
                fix="--max-hours 120, or raise the quota 'Longest run time for a training job'",
            )
        if step.limits is not None and isinstance(step.time_hours, Hours):
            hours = step.limits.max_runtime_seconds / SECONDS_PER_HOUR
            if hours < step.time_hours.p50:
                yield PlanWarning(
                    code="short-limit",
                    message=f"AWS ends {step.name} after {duration(hours)}, and it takes about "
                    f"{duration(step.time_hours.p50)}",
                    fix="a higher --max-hours or --max-cost",
                )


def _estimates(plan: LaunchPlan, profile: InstanceProfile) -> Iterator[PlanWarning]:
    if plan.workload.compile:
        yield PlanWarning(
            code="compiled",
            message="--compile: memory and time are those without it; a compiled step is usually faster and smaller",
            fix="none needed",
        )
    for step in plan.steps:
        if step.s3_data == "copied" and profile.train.network_gbps is None:
            yield PlanWarning(
                code="unknown-copy",
                message=f"{step.name}: SageMaker first copies the data to the instance, and that is not in its time: "
                "the network bandwidth is not known",
                fix="network_gbps in the profile",
            )
        if isinstance(step.rate_usd_per_hour, Unknown):
            yield PlanWarning(
                code="unknown-price",
                message=f"{step.name}: {step.rate_usd_per_hour.unknown}",
                fix="drop --live-prices"
                if plan.provenance.live_prices
                else "--live-prices asks AWS, --region us-east-1 has the most",
            )
