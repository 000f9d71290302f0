"""What a run may cost: --max-cost holds whatever fails, AWS enforces the limits, and an unknown price is never $0."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan.backends.fake import synthetic_results
from gpuplan.core.errors import ExitCode
from gpuplan.planning.money.cost import Rate
from gpuplan_job.contract import LR_RESULT_FILE, JobInput
from gpuplan_job.document import canonical_json

if TYPE_CHECKING:
    from e2e.bench import Account, Bench, Terminal
    from gpuplan.planning.plan import LaunchPlan
    from gpuplan.testing import JobView

pytest_plugins = ("tests.e2e.bench",)

HOUR = 3600
NO_PRICES = "af-south-1"


def rates(plan: LaunchPlan) -> dict[str, Decimal]:
    """Return the plan's USD an hour of each instance type."""
    known = {step.instance_type: step.rate_usd_per_hour for step in plan.steps}
    return {name: rate.amount for name, rate in known.items() if isinstance(rate, Rate)}


def dollars(job: JobView, rate: dict[str, Decimal], seconds: int) -> Decimal:
    resources = job.request["ResourceConfig"]
    instances: int = resources["InstanceCount"]
    return rate[resources["InstanceType"]] * instances * seconds / HOUR


def worst(job: JobView, rate: dict[str, Decimal]) -> Decimal:
    """Return what a job costs that AWS ends at the limit that was sent with it."""
    return dollars(job, rate, job.request["StoppingCondition"]["MaxRuntimeInSeconds"])


class TestWhatIsSent:
    """The limits in CreateTrainingJob bound the bill, whatever becomes of the client."""

    @pytest.mark.parametrize(("max_cost", "nodes"), [("1.90", 1), ("20", 2), ("400", 1)])
    def test_the_limits_that_were_sent_cost_no_more_than_the_budget(
        self, bench: Bench, max_cost: str, nodes: int
    ) -> None:
        budget = Decimal(max_cost)
        plan = bench.plan(launch__max_cost=budget, launch__nodes=nodes)
        run_id = bench.start(plan)
        assert bench.drive(run_id).state == "succeeded"
        sent = bench.jobs(run_id)
        assert [job.request["ResourceConfig"]["InstanceCount"] for job in sent] == [1, nodes]
        assert sum(worst(job, rates(plan)) for job in sent) <= budget

    def test_all_eight_gpus_of_an_instance_are_paid_for_and_used(self, bench: Bench) -> None:
        record = bench.launch(launch__instance="p4d", launch__pipeline="train", lr__learning_rate=0.05)
        assert record.state == "succeeded"
        [job] = bench.jobs(record.run_id)
        assert job.request["ResourceConfig"]["InstanceType"] == "ml.p4d.24xlarge"
        assert job.request["Environment"]["GPUPLAN_GPUS"] == "8"
        assert json.loads(job.request["HyperParameters"]["batch"])["world_size"] == 8

    @pytest.mark.parametrize("used", [Decimal("0.9"), Decimal("0.4")])
    def test_each_new_attempt_gets_what_is_left_until_nothing_can_be_done_with_it(
        self, bench: Bench, used: Decimal
    ) -> None:
        budget = Decimal(3)
        plan = bench.plan(launch__pipeline="lr", launch__max_cost=budget)
        rate, run_id = rates(plan), bench.start(plan)

        def late(job: JobView) -> None:
            allowed = job.request["StoppingCondition"]["MaxRuntimeInSeconds"]
            bench.aws.fail(job.name, billed_seconds=int(allowed * used))

        bench.play = late
        for _ in range(30):
            before = len(bench.jobs(run_id))
            record = bench.drive(run_id)
            tried = bench.jobs(run_id)
            spent = sum((dollars(job, rate, job.billable_seconds or 0) for job in tried[:-1]), Decimal(0))
            if record.exit_code is ExitCode.OVER_BUDGET:
                break
            assert record.exit_code is ExitCode.JOB_FAILED
            assert spent + worst(tried[-1], rate) <= budget
        assert record.exit_code is ExitCode.OVER_BUDGET, "the budget ends it, not the test's patience"
        assert len(tried) == before, "nothing is created for what is left"
        assert before >= 2
        assert record.failure is not None
        assert "is left of --max-cost $3.00" in record.failure.message
        left = budget - sum((dollars(job, rate, job.billable_seconds or 0) for job in tried), Decimal(0))
        assert Decimal(0) <= left < rate["ml.g5.xlarge"] * 300 / HOUR

    def test_max_hours_is_the_trainings_limit(self, bench: Bench) -> None:
        run = bench.launch(launch__pipeline="train", lr__learning_rate=0.1, launch__max_hours=2.5)
        [job] = bench.jobs(run.run_id)
        assert job.request["StoppingCondition"] == {"MaxRuntimeInSeconds": int(2.5 * HOUR)}

    def test_without_a_budget_each_job_has_a_limit_all_the_same(self, bench: Bench) -> None:
        plan = bench.plan()
        run_id = bench.start(plan)
        bench.drive(run_id)
        for step, job in zip(plan.steps, bench.jobs(run_id), strict=True):
            assert step.limits is not None
            assert job.request["StoppingCondition"]["MaxRuntimeInSeconds"] == step.limits.max_runtime_seconds
            assert "gpuplan:expires-at" in job.tags


class TestWhatComesDearer:
    """Than the plan said."""

    def test_a_job_that_meets_its_limit_is_exit_6_with_its_cost(self, bench: Bench) -> None:
        plan = bench.plan(launch__pipeline="lr")
        run_id = bench.start(plan)

        def too_long(job: JobView) -> None:
            bench.aws.advance(job.name, "Training")
            bench.aws.advance(job.name, "MaxRuntimeExceeded")

        bench.play = too_long
        record = bench.drive(run_id)
        assert record.exit_code is ExitCode.OVER_BUDGET
        assert record.failure is not None
        assert "ran into its limit" in record.failure.message
        assert "--max-hours" in record.failure.fix
        [job], [attempt] = bench.jobs(run_id), record.steps[0].attempts
        assert job.billable_seconds
        assert attempt.billable_seconds == job.billable_seconds
        assert attempt.cost_usd == dollars(job, rates(plan), job.billable_seconds)

    def test_a_training_that_the_measured_speed_prices_over_the_budget_is_not_started(self, bench: Bench) -> None:
        def slow(job: JobInput) -> dict[str, bytes]:
            document: dict[str, Any] = json.loads(synthetic_results(job)[LR_RESULT_FILE])
            document["measured"] |= {"step_seconds": 900.0, "busy_seconds": 900.0}
            return {LR_RESULT_FILE: canonical_json(document).encode()}

        bench.play = lambda job: bench.finish(job, slow)
        record = bench.launch(launch__max_cost=Decimal(5))
        assert record.exit_code is ExitCode.OVER_BUDGET
        assert record.failure is not None
        assert "over --max-cost $5.00" in record.failure.message
        assert len(bench.jobs(record.run_id)) == 1

    def test_a_plan_whose_p90_passes_the_budget_asks_aws_for_nothing(
        self, terminal: Terminal, account: Account
    ) -> None:
        before = len(account.aws.calls)
        code, _, err = terminal("launch", "--instance", "g5", "--yes", "--max-cost", "0.05")
        assert code == ExitCode.OVER_BUDGET
        assert "passes --max-cost $0.05" in err
        assert len(account.aws.calls) == before


class TestAPriceThatIsNotKnown:
    """Is said to be unknown, and no promise is made with it."""

    def test_a_plan_says_unknown_and_no_amount(self, terminal: Terminal) -> None:
        arguments = ("plan", "--instance", "g5", "--region", NO_PRICES)
        code, out, _ = terminal(*arguments)
        assert code == ExitCode.OK
        assert "unknown" in out
        assert "$" not in out
        code, out, _ = terminal(*arguments, "-o", "json")
        document = json.loads(out)
        for cost in (document["total"]["cost_usd"], *(step["cost_usd"] for step in document["steps"])):
            assert list(cost) == ["unknown"]
            assert NO_PRICES in cost["unknown"]

    def test_a_budget_is_refused_because_it_could_not_be_kept(self, terminal: Terminal, account: Account) -> None:
        before = len(account.aws.calls)
        launch = ("launch", "--instance", "g5", "--yes", "--region", NO_PRICES, "--max-cost", "1000")
        code, _, err = terminal(*launch)
        assert code == ExitCode.OVER_BUDGET
        assert "--max-cost $1,000.00 cannot be kept" in err
        assert "no sagemaker price of ml.g5.xlarge" in err
        assert len(account.aws.calls) == before

    def test_a_run_there_has_a_cost_that_is_unknown_and_not_0(self, bench: Bench) -> None:
        plan = bench.plan(launch__pipeline="lr")
        unpriced = bench.plan(launch__pipeline="lr", aws__region=NO_PRICES).steps[0].rate_usd_per_hour
        step = plan.steps[0].model_copy(update={"rate_usd_per_hour": unpriced})
        run_id = bench.start(plan.model_copy(update={"steps": (step,)}))
        record = bench.drive(run_id)
        assert record.state == "succeeded"
        cost = record.steps[0].attempts[0].cost_usd
        assert not isinstance(cost, Decimal)
        assert cost is not None
        assert NO_PRICES in cost.unknown
