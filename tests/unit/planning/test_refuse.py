"""What must not be launched, and the way out each refusal names."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from gpuplan.core.errors import ExitCode, OverBudgetError, PlanRefusedError, UsageError
from gpuplan.planning.money.cost import Cost
from gpuplan.planning.refuse import refuse

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakePlan

G5: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}
HUGE: dict[str, object] = {
    "launch.instance": "g4dn",
    "workload.model": "vit_l_16",
    "workload.data": "fake:3x224x224:1000:1000000",
    "workload.per_gpu_batch": 1024,
}
CENT = Decimal("0.01")


def test_a_plan_that_fits_and_is_paid_for_may_be_launched(make_plan: MakePlan) -> None:
    refuse(make_plan(G5), Decimal(100), allow_retired=False)
    refuse(make_plan(G5), None, allow_retired=False)


def test_a_retired_instance_is_refused_with_what_to_use_instead(make_plan: MakePlan) -> None:
    plan = make_plan({"launch.instance": "p3", "launch.backend": "sagemaker"})
    with pytest.raises(PlanRefusedError, match=r"p3\.16xlarge is retired") as caught:
        refuse(plan, None, allow_retired=False)
    assert caught.value.exit_code is ExitCode.PLAN_REFUSED
    assert "p4d.24xlarge" in caught.value.fix
    assert "--allow-retired" in caught.value.fix
    assert caught.value.why
    refuse(plan, None, allow_retired=True)


def test_what_cannot_fit_is_refused_and_the_advice_keeps_the_global_batch(make_plan: MakePlan) -> None:
    with pytest.raises(PlanRefusedError, match="does not fit") as caught:
        refuse(make_plan(HUGE), None, allow_retired=True)
    assert "--per-gpu-batch 512 --accumulate 2" in caught.value.fix


def test_following_the_advice_often_enough_ends_in_a_plan_that_may_be_launched(make_plan: MakePlan) -> None:
    values = dict(HUGE)
    for _ in range(10):
        plan = make_plan(values)
        try:
            refuse(plan, None, allow_retired=False)
        except PlanRefusedError as error:
            flags = dict(re.findall(r"--([a-z-]+) (\d+)", error.fix))
            values |= {f"workload.{flag.replace('-', '_')}": int(number) for flag, number in flags.items()}
            kept = make_plan(values).batch.train.global_batch == plan.batch.train.global_batch
            assert kept == ("keeps the global batch" in error.fix)  # noqa: PT017 - which plans are refused is not the point
        else:
            break
    refuse(make_plan(values), None, allow_retired=False)


@pytest.mark.parametrize("accumulate", [9, 16])
def test_advice_that_says_it_keeps_the_global_batch_keeps_it(make_plan: MakePlan, accumulate: int) -> None:
    plan = make_plan(HUGE | {"workload.accumulate": accumulate})
    with pytest.raises(PlanRefusedError) as caught:
        refuse(plan, None, allow_retired=False)
    advised = re.findall(r"--per-gpu-batch (\d+) --accumulate (\d+) keeps", caught.value.fix)
    for per_gpu, times in advised:
        assert int(per_gpu) * int(times) == plan.batch.train.per_gpu * accumulate


def test_the_p90_cost_is_what_the_limit_is_held_against(make_plan: MakePlan) -> None:
    plan = make_plan(G5)
    cost = plan.total.cost_usd
    assert isinstance(cost, Cost)
    refuse(plan, cost.p90, allow_retired=False)
    with pytest.raises(OverBudgetError, match="p90") as caught:
        refuse(plan, cost.p90 - CENT, allow_retired=False)
    assert caught.value.exit_code is ExitCode.OVER_BUDGET
    assert "nothing was started" in caught.value.why
    assert caught.value.fix


def test_a_limit_cannot_be_kept_while_the_cost_is_not_known(make_plan: MakePlan) -> None:
    plan = make_plan(G5 | {"aws.region": "nowhere-1"})
    with pytest.raises(OverBudgetError, match="not known") as caught:
        refuse(plan, Decimal(1000), allow_retired=False)
    assert "nowhere-1" in caught.value.why
    refuse(plan, None, allow_retired=False)


def test_this_machine_passes_any_limit(make_plan: MakePlan) -> None:
    refuse(make_plan(), CENT, allow_retired=False)


def test_data_that_are_a_description_only_are_planned_but_not_launched(make_plan: MakePlan) -> None:
    plan = make_plan(G5 | {"workload.data": "imagenet"})
    with pytest.raises(UsageError) as caught:
        refuse(plan, None, allow_retired=False)
    assert "imagenet:s3://" in caught.value.fix


def test_a_model_that_is_not_known_is_no_reason_to_refuse(make_plan: MakePlan) -> None:
    # Its memory is unknown, not too big: the job itself will tell.
    plan = make_plan({"workload.image_size": 1, "workload.model": "vgg16"})
    refuse(plan, None, allow_retired=False)


ON_S3 = "imagefolder:s3://bucket/flowers?train=1000&val=100&classes=10&bytes=110000"


def test_data_on_s3_go_to_sagemaker_and_nowhere_else(make_plan: MakePlan) -> None:
    refuse(make_plan({**G5, "workload.data": ON_S3, "workload.image_size": 64}), None, allow_retired=False)
    with pytest.raises(UsageError, match="backend fake does not fetch it") as caught:
        refuse(
            make_plan({**G5, "launch.backend": "fake", "workload.data": ON_S3, "workload.image_size": 64}),
            None,
            allow_retired=False,
        )
    assert "aws s3 sync" in caught.value.fix


def test_data_on_this_machine_are_not_sent_to_sagemaker_by_silence(make_plan: MakePlan, tmp_path: Path) -> None:
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for number in range(4):
                (folder / f"{number}.png").touch()
    values = {**G5, "workload.data": f"imagefolder:{tmp_path}", "workload.image_size": 64, "workload.per_gpu_batch": 1}
    with pytest.raises(UsageError, match="lies on this machine"):
        refuse(make_plan(values), None, allow_retired=False)


def test_data_that_do_not_fit_the_disk_are_refused(make_plan: MakePlan) -> None:
    # 900 GB on a g4dn.12xlarge.
    values: dict[str, object] = {"launch.instance": "g4dn", "launch.backend": "sagemaker"}
    values["workload.data"] = "imagefolder:s3://bucket/large?train=10000000&val=1000&classes=10&bytes=110000"
    with pytest.raises(PlanRefusedError, match=r"do not fit the disk of ml\.g4dn\.12xlarge"):
        refuse(make_plan(values), None, allow_retired=False)


def test_a_range_test_runs_where_the_data_do_not_fit_the_disk(make_plan: MakePlan) -> None:
    # 125 GB on a g4dn.xlarge, some 206 GB of images and room: it opens them on S3.
    values: dict[str, object] = {"launch.instance": "g4dn", "launch.backend": "sagemaker"}
    values |= {"lr.finder_instance": "g4dn.xlarge", "workload.data": "imagenet:s3://bucket/imagenet"}
    refuse(make_plan(values), None, allow_retired=False)
