"""A plan's identity: it changes with every setting and with nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.planning.money.cost import beside_instance
from gpuplan.planning.plan import LaunchPlan
from gpuplan.workload.schema import setting_fields

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakePlan

BASE: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker", "workload.workers": 2}
OTHERWISE: dict[str, object] = {
    "launch.instance": "g6",
    "launch.pipeline": "lr",
    "launch.backend": "fake",
    "launch.device": "cpu",
    "launch.world_size": 2,
    "launch.nodes": 2,
    "launch.spot": True,
    "launch.max_cost": Decimal("12.50"),
    "launch.max_hours": 3.5,
    "aws.region": "us-west-2",
    "aws.profile": "research",
    "aws.role_arn": "arn:aws:iam::123456789012:role/gpuplan-execution",
    "aws.bucket": "gpuplan-123456789012",
    "aws.prefix": "team/gpuplan",
    "aws.stack": "gpuplan-research",
    "aws.image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer:1",
    "aws.network_isolation": False,
    "aws.wheels": False,
    "aws.poll_seconds": 5.0,
    "workload.model": "resnet34",
    "workload.data": "fake:3x32x32:10:5000",
    "workload.image_size": 16,
    "workload.epochs": 7,
    "workload.per_gpu_batch": 48,
    "workload.accumulate": 2,
    "workload.optimizer": "adamw",
    "workload.momentum": 0.8,
    "workload.weight_decay": 1e-4,
    "workload.schedule": "constant",
    "workload.label_smoothing": 0.1,
    "workload.precision": "fp32",
    "workload.workers": 3,
    "workload.seed": 1,
    "workload.decay_norms": True,
    "workload.clip_norm": 1.0,
    "workload.ema_decay": 0.999,
    "workload.sync_batchnorm": True,
    "workload.batch_schedule": "linear",
    "workload.checkpointing": True,
    "workload.channels_last": True,
    "workload.compile": True,
    "lr.learning_rate": 0.05,
    "lr.rule": "minimum",
    "lr.transfer": "linear",
    "lr.runs": 4,
    "lr.iterations": 80,
    "lr.lr_min": 1e-6,
    "lr.lr_max": 5.0,
    "lr.finder_batch": 32,
    "lr.finder_instance": "g6.xlarge",
    "lr.fixed": "steps",
    "lr.check": True,
    "lr.compare_batches": (32, 128),
    "lr.carry_to_gpus": 8,
    "lr.warmup_epochs": 2.0,
    "code.include": ("labels.csv",),
    "code.exclude": ("notes/",),
    "code.max_mb": 60.0,
    "launch.loggers": ("csv",),
    "launch.divergence_guard": False,
    "launch.checkpoint_minutes": 7.0,
    "find_batch.largest": 48,
    "find_batch.memory_share": 0.7,
    "find_batch.memory_gib": 12.0,
    "find_batch.trial_seconds": 5.0,
}
OF_OWN_CODE = {"workload.model_args", "workload.data_args"}
"""Settings that are refused without code of the user's own; with it they are in `tests/unit/cli/test_own_code.py`."""
SEARCH: dict[str, object] = {"launch.pipeline": "batch-then-lr-then-train"}
BESIDE: dict[str, dict[str, object]] = {
    "lr.carry_to_gpus": {"launch.pipeline": "lr"},
    "workload.batch_schedule": {"workload.accumulate": 2},
    "find_batch.largest": SEARCH,
    "find_batch.memory_share": SEARCH,
    "find_batch.memory_gib": SEARCH,
    "find_batch.trial_seconds": SEARCH,
}
"""What a setting needs beside it."""
CASES: list[dict[str, object]] = [
    {},
    {"launch.instance": "p4de", "workload.per_gpu_batch": 64},
    {"launch.instance": "p3", "launch.backend": "ec2"},
    {"launch.nodes": 2, "launch.spot": True, "launch.max_hours": 2.5, "launch.max_cost": Decimal("40.5")},
    {"aws.role_arn": "arn:aws:iam::123456789012:role/x", "aws.bucket": "b-1", "aws.network_isolation": False},
    {"aws.region": "nowhere-1"},
    {"lr.learning_rate": 0.1, "launch.pipeline": "train"},
    {"lr.check": True, "lr.compare_batches": (32, 128), "lr.transfer": "accumulate", "lr.fixed": "steps"},
    {"launch.pipeline": "lr", "lr.carry_to_gpus": 16},
    {"lr.finder_batch": 16, "launch.max_cost": Decimal("0.10")},
    {"lr.finder_instance": "g6e.xlarge", "workload.data": "imagenet", "workload.model": "resnet50"},
    {"workload.data": "imagenet", "workload.model": "vit_b_16", "workload.per_gpu_batch": 700},
]


def plan(values: dict[str, object]) -> LaunchPlan:
    return plan_from(Given(values, dict.fromkeys(values, "the test"), None)).plan


def test_every_setting_has_another_value_here() -> None:
    assert set(OTHERWISE) | OF_OWN_CODE == {field.key for field in setting_fields()}


@pytest.mark.parametrize("key", OTHERWISE)
def test_another_setting_is_another_plan(key: str) -> None:
    base = BASE | BESIDE.get(key, {})
    assert plan(base | {key: OTHERWISE[key]}).plan_id != plan(base).plan_id


def test_no_two_settings_lead_to_the_same_plan() -> None:
    ids = [plan(BASE | BESIDE.get(key, {}) | {key: value}).plan_id for key, value in OTHERWISE.items()]
    assert len(set(ids)) == len(ids)


def test_the_order_in_which_settings_are_given_does_not_matter() -> None:
    values = BASE | {"workload.epochs": 3, "lr.rule": "minimum", "workload.seed": 5}
    assert plan(values).plan_id == plan(dict(reversed(values.items()))).plan_id


def test_a_setting_given_at_its_default_is_the_same_plan(make_plan: MakePlan) -> None:
    assert make_plan({"workload.model": "resnet18", "lr.runs": 3}).plan_id == make_plan().plan_id


@pytest.mark.parametrize("instance", ["local", "g5"])
def test_two_processes_make_the_same_plan(instance: str, tmp_path: Path) -> None:
    def planned(seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": seed, "GPUPLAN_HOME": str(tmp_path)}
        command = [sys.executable, "-c", "from gpuplan.cli.app import main; main()", "plan", "-o", "json"]
        done = subprocess.run(
            [*command, "--instance", instance],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            check=True,
        )
        return done.stdout

    assert planned("1") == planned("4242")


@pytest.mark.parametrize("values", CASES, ids=str)
def test_json_and_back_is_the_same_plan_with_the_same_id(values: dict[str, object]) -> None:
    made = plan(BASE | values)
    again = LaunchPlan.model_validate_json(made.canonical_json())
    assert again == made
    assert again.plan_id == made.plan_id
    assert again.canonical_json() == made.canonical_json()


@pytest.mark.parametrize("values", CASES, ids=str)
def test_money_is_text_and_nothing_is_null(values: dict[str, object]) -> None:
    def walk(value: Any, path: str) -> None:  # noqa: ANN401 - JSON
        assert value is not None, path
        if isinstance(value, dict):
            for key, below in value.items():
                walk(below, f"{path}.{key}")
        elif isinstance(value, list):
            for below in value:
                walk(below, path)
        elif path.endswith((".amount", ".max_cost")) or ".cost_usd." in path:
            assert isinstance(value, str), path

    walk(plan(BASE | values).document(), "")


def test_the_total_is_the_sum_of_the_steps_and_of_what_is_charged_beside_them() -> None:
    made = plan(BASE)
    beside, unknown = beside_instance(charge for step in made.steps for charge in step.charges)
    assert not unknown
    for band in ("p50", "p90"):
        steps = sum(getattr(step.cost_usd, band) for step in made.steps)
        assert getattr(made.total.cost_usd, band) == steps + getattr(beside, band) > steps
        assert getattr(made.total.time_hours, band) == sum(getattr(step.time_hours, band) for step in made.steps)


def test_a_plan_is_immutable() -> None:
    made = plan(BASE)
    with pytest.raises(ValidationError, match="frozen"):
        made.backend = "local"  # type: ignore[misc] # what must fail at run time, too
    with pytest.raises(ValidationError, match="frozen"):
        made.batch.train.per_gpu = 1  # type: ignore[misc] # as above


def test_a_step_is_found_by_its_name() -> None:
    made = plan(BASE | {"lr.learning_rate": 0.05})
    train = made.step("train")
    assert train is not None
    assert train.name == "train"
    assert made.step("lr-find") is None
