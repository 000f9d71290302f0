"""Events on their way to disk and back: nothing is lost, nothing foreign gets in."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuplan.backends.fake import synthetic_results
from gpuplan.core.frozen import Unknown
from gpuplan.core.job_state import JobState
from gpuplan.planning.job_input import job_input
from gpuplan.planning.money.cost import Cost
from gpuplan.planning.speed.throughput import Hours
from gpuplan.store import events as ev
from gpuplan_job.contract import LR_RESULT_FILE, Decision, LrResult
from gpuplan_job.decision import decide

if TYPE_CHECKING:
    from conftest import MakePlan
    from gpuplan.store.sqlite import RunStore

RUN = "digits-0000000000001"
UNKNOWN = Unknown(unknown="no price")
JOB = {"step": "lr-find", "attempt": 1}
ATTEMPTS = st.integers(1, 99)
STEPS = st.sampled_from(["lr-find", "train"])
DOLLARS = st.decimals(0, 10**6, places=6) | st.just(UNKNOWN)
POSITIVE = st.floats(1e-12, 1e12)
SIMPLE = st.one_of(
    st.builds(
        ev.Submitting,
        step=STEPS,
        attempt=ATTEMPTS,
        job_name=st.text(),
        handle=st.text(),
        request_sha256=st.text(),
        learning_rate=st.none() | POSITIVE,
        max_runtime_seconds=st.none() | st.integers(1, 10**7),
        expires_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    ),
    st.builds(ev.Submitted, step=STEPS, attempt=ATTEMPTS),
    st.builds(
        ev.Observed,
        step=STEPS,
        attempt=ATTEMPTS,
        state=st.sampled_from(JobState),
        detail=st.text(),
        cost_usd=st.none() | DOLLARS,
        billable_seconds=st.none() | st.integers(0, 10**7),
    ),
    st.builds(
        ev.Failed,
        step=STEPS,
        attempt=ATTEMPTS,
        exit_code=st.integers(1, 10),
        message=st.text(),
        why=st.text(),
        fix=st.text(),
    ),
    st.builds(
        ev.Replanned,
        time_hours=st.builds(Hours, p50=POSITIVE, p90=POSITIVE) | st.just(UNKNOWN),
        cost_usd=st.builds(Cost, p50=st.decimals(0, 99, places=9), p90=st.decimals(0, 99, places=9)) | st.just(UNKNOWN),
    ),
    st.builds(ev.CancelRequested),
    st.builds(ev.Cancelled),
    st.builds(ev.Resumed),
)


def written(event: ev.Event) -> bytes:
    return ev.EVENT.dump_json(event, by_alias=True, exclude_none=True)


def measured(make_plan: MakePlan) -> LrResult:
    plan = make_plan()
    job = job_input(plan, plan.steps[0], run_id=RUN, attempt=1, learning_rate=None)
    return LrResult.from_json(synthetic_results(job)[LR_RESULT_FILE])


@given(SIMPLE)
def test_json_and_back_is_the_same_event(event: ev.Event) -> None:
    assert ev.EVENT.validate_json(written(event)) == event


def test_a_plan_comes_back_from_disk_with_its_id_and_its_document(store: RunStore, make_plan: MakePlan) -> None:
    plan = make_plan(
        {
            "launch.instance": "p4de",
            "launch.backend": "sagemaker",
            "launch.max_cost": Decimal("12.50"),
            "workload.per_gpu_batch": 64,
        }
    )
    store.create(RUN, ev.Planned(plan=plan))
    event = store.events(RUN)[0].event
    assert isinstance(event, ev.Planned)
    assert event.plan == plan
    assert event.plan.document() == plan.document()
    assert event.plan.plan_id == plan.plan_id


def test_a_measurement_comes_back_whole_also_where_a_value_could_not_be_measured(
    store: RunStore, make_plan: MakePlan
) -> None:
    found = measured(make_plan)
    bare = replace(found, noise_scale=None, measured=replace(found.measured, peak_gib=None))
    store.create(RUN, ev.Planned(plan=make_plan()))
    for result in (found, bare):
        store.append(RUN, ev.Measured(step="lr-find", attempt=1, result=json.loads(result.to_json())))
        assert store.record(RUN).measured() == result


@pytest.mark.parametrize("rule", ["edge", "minimum"])
def test_a_decision_comes_back_to_the_last_bit(store: RunStore, make_plan: MakePlan, rule: str) -> None:
    found = measured(make_plan)
    decision = decide(found, replace(found.sweep.target, rule=rule, transfer="sqrt", global_batch=96))
    store.create(RUN, ev.Planned(plan=make_plan()))
    store.append(RUN, ev.Decided(decision=decision))
    assert store.record(RUN).decision == decision


def test_a_decision_against_is_kept_with_its_reason(store: RunStore, make_plan: MakePlan) -> None:
    decision = Decision(verdict="flat", rule="edge", transfer="none", reason="no fall", fix="--runs 5")
    store.create(RUN, ev.Planned(plan=make_plan()))
    store.append(RUN, ev.Decided(decision=decision))
    assert store.record(RUN).decision == decision


def test_every_kind_names_itself_once() -> None:
    union = get_args(get_args(ev.Event)[0])
    kinds = [kind.model_fields["kind"].default for kind in union]
    assert len(set(kinds)) == len(kinds) >= 12


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "unheard-of"},
        {"step": "lr-find", "attempt": 1},
        {"kind": "submitted", **JOB, "more": 1},
        {"kind": "submitted", "step": "lr-find"},
        {"kind": "submitted", "step": "lr-find", "attempt": "1"},
        {"kind": "observed", **JOB, "state": "levitating"},
        {"kind": "replanned", "time_hours": {"p50": 1.0}, "cost_usd": {"unknown": "x"}},
    ],
    ids=str,
)
def test_what_is_no_event_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ev.EVENT.validate_json(json.dumps(document))


def test_a_stored_event_keeps_its_place_and_time() -> None:
    at = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
    stored = ev.Stored(seq=7, at=at, event=ev.Resumed())
    again = ev.Stored.model_validate_json(stored.canonical_json())
    assert (again.seq, again.at, again.event) == (7, at, ev.Resumed())
