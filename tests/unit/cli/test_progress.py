"""The dollars beside a run's progress: those of the plan that the run follows now."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from gpuplan.cli.progress import Meter
from gpuplan.planning.limits import at_most
from gpuplan.reports.progress_text import money_text
from gpuplan.store.events import Planned, PlannedAgain

if TYPE_CHECKING:
    from conftest import FakeClock, MakePlan
    from gpuplan.store.sqlite import RunStore

G5: dict[str, object] = {
    "launch.instance": "g5",
    "launch.backend": "sagemaker",
    "launch.pipeline": "batch-then-lr-then-train",
    "workload.epochs": 20,
}


def test_a_run_planned_again_may_cost_what_its_new_limits_allow(
    make_plan: MakePlan, store: RunStore, clock: FakeClock
) -> None:
    plan, again = make_plan(G5), make_plan(G5 | {"workload.epochs": 2000})
    store.create("run", Planned(plan=plan, owner="me"))
    meter = Meter(store.record("run"), clock)
    before = str(meter)
    meter.event(PlannedAgain(plan=again))
    assert before == money_text(Decimal(0), at_most(plan))
    assert str(meter) == money_text(Decimal(0), at_most(again)) != before
