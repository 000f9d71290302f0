"""Each warning has a code for scripts, a sentence and a way out for people, and comes when it should and only then."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import MakePlan

FITTING: dict[str, object] = {"workload.per_gpu_batch": 32}
ONE_GPU: dict[str, object] = {
    "launch.instance": "g6",
    "launch.world_size": 1,
    "workload.data": "fake:3x32x32:10:1000000",
}
CASES: list[tuple[dict[str, object], list[str]]] = [
    ({}, []),
    ({"launch.instance": "g6"}, []),
    ({"launch.instance": "g5"}, ["previous-generation"]),
    ({"launch.instance": "p3"}, ["retired"]),
    ({"launch.instance": "p4d"}, ["finder-gpu-differs"]),
    ({"launch.instance": "p4d", "lr.learning_rate": 0.1}, []),
    ({"launch.instance": "g6", "lr.finder_batch": 32}, []),
    ({"launch.instance": "g6", "lr.finder_batch": 64}, ["batch-override"]),
    ({"launch.instance": "g6", "workload.per_gpu_batch": 16}, []),
    ({"launch.instance": "g6", "workload.per_gpu_batch": 15}, ["small-batchnorm"]),
    (
        {
            **ONE_GPU,
            "workload.data": "fake:3x224x224:10:1000",
            "workload.model": "vit_b_16",
            "workload.per_gpu_batch": 8,
        },
        [],
    ),
    ({**ONE_GPU, "workload.per_gpu_batch": 8192}, []),
    ({**ONE_GPU, "workload.per_gpu_batch": 8193}, ["large-global-batch"]),
    (
        {"launch.instance": "g6", "launch.backend": "sagemaker", "aws.region": "nowhere-1"},
        ["unknown-price", "unknown-price"],
    ),
    (
        {"launch.instance": "g6", "launch.backend": "sagemaker", "launch.spot": True},
        ["spot-price"],
    ),
    (
        {"launch.instance": "g6", "launch.backend": "sagemaker", "launch.loggers": ("csv", "mlflow", "wandb")},
        ["logger-not-in-image"],
    ),
    ({"launch.instance": "g6", "launch.loggers": ("mlflow",)}, []),
    (
        {
            "launch.instance": "g6",
            "launch.backend": "sagemaker",
            "launch.loggers": ("mlflow",),
            "aws.image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer:1",
        },
        [],
    ),
    (
        {
            "launch.instance": "g6",
            "launch.backend": "sagemaker",
            "launch.loggers": ("mlflow",),
            "launch.pipeline": "lr",
        },
        [],
    ),
    ({"launch.instance": "g6", "launch.backend": "sagemaker", "launch.max_hours": 120.0}, []),
    ({"launch.instance": "g6", "launch.backend": "sagemaker", "launch.max_hours": 121.0}, ["longest-run"]),
    ({"launch.instance": "g6", "launch.backend": "sagemaker", "launch.max_hours": 0.02}, ["short-limit"]),
    (
        {"launch.instance": "p3dn", "workload.per_gpu_batch": 8, "launch.backend": "ec2", "aws.region": "nowhere-1"},
        ["finder-gpu-differs", "small-batchnorm", "unknown-price", "unknown-price"],
    ),
]


@pytest.mark.parametrize(("values", "codes"), CASES, ids=lambda value: "" if isinstance(value, list) else str(value))
def test_warnings_come_when_they_should_most_important_first(
    make_plan: MakePlan, values: dict[str, object], codes: list[str]
) -> None:
    assert [warning.code for warning in make_plan(FITTING | values).warnings] == codes


@pytest.mark.parametrize("values", [values for values, codes in CASES if codes], ids=str)
def test_a_warning_has_a_code_a_message_and_a_way_out(make_plan: MakePlan, values: dict[str, object]) -> None:
    for warning in make_plan(FITTING | values).warnings:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", warning.code)
        assert len(warning.message) > len("a sentence")
        assert warning.fix


def test_a_finder_of_another_gpu_is_named_beside_the_gpu_of_training(make_plan: MakePlan) -> None:
    p4d = {"launch.instance": "p4d", "launch.backend": "sagemaker", "lr.finder_instance": "g6e.xlarge"}
    warning = make_plan({**p4d, **FITTING}).warnings[0]
    assert "ml.g6e.xlarge" in warning.message
    assert "L40S" in warning.message
    assert "A100-40GB" in warning.message


def test_a_batch_override_says_how_to_be_rid_of_it(make_plan: MakePlan) -> None:
    warning = make_plan({"launch.instance": "g6", "lr.finder_batch": 64, **FITTING}).warnings[0]
    assert warning.fix == "drop --finder-batch"
    assert "64 per GPU, the training 32" in warning.message


def test_warnings_are_part_of_what_a_plan_is(make_plan: MakePlan) -> None:
    plan = make_plan({"launch.instance": "g5"})
    assert plan.model_copy(update={"warnings": ()}).plan_id != plan.plan_id
