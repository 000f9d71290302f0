"""A range test's result is used only if it is what was asked for, and says of itself what its curves say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpuplan.backends.fake import FakeBackend, Script, synthetic_results
from gpuplan.core.errors import NoResultError
from gpuplan.engine import verify
from gpuplan.planning.job_input import job_input
from gpuplan_job.contract import LR_RESULT_FILE, BatchSpec, JobInput, LrResult
from gpuplan_job.decision import decide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import MakePlan

    Change = Callable[[LrResult], LrResult]

RUN = "digits-0000000000001"
HANDLE = f"fake://{RUN}-lr-find-1"
SETTINGS: dict[str, object] = {"launch.instance": "g5", "lr.check": True, "lr.compare_batches": (32, 128)}


@pytest.fixture
def job(make_plan: MakePlan) -> JobInput:
    plan = make_plan(SETTINGS)
    return job_input(plan, plan.steps[0], run_id=RUN, attempt=1, learning_rate=None)


def written(job: JobInput) -> LrResult:
    return LrResult.from_json(synthetic_results(job)[LR_RESULT_FILE])


def verified(job: JobInput, result: str, folder: Path) -> LrResult:
    backend = FakeBackend(folder, Script(results=lambda _job: {LR_RESULT_FILE: result.encode()}))
    body = {"instance_type": "x", "input": json.loads(job.to_json())}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{RUN}-lr-find-1.json").write_text(json.dumps({"request": body}), encoding="utf-8")
    return verify.lr_result(backend, HANDLE, job)


def test_a_healthy_result_with_check_and_compared_batches_passes(job: JobInput, tmp_path: Path) -> None:
    result = written(job)
    assert result.check is not None
    assert len(result.compared) == 2
    assert verified(job, result.to_json(), tmp_path) == result


def decided(change: Change) -> Change:
    """Return the change with the decision made again: a forgery as good as can be."""

    def changed(result: LrResult) -> LrResult:
        other = change(result)
        return replace(other, decision=decide(other))

    return changed


FORGED: dict[str, tuple[Change, str]] = {
    "a learning rate": (
        lambda r: replace(r, decision=replace(r.decision, training_learning_rate=0.5)),
        "another decision than its curves lead to",
    ),
    "the last bit of a learning rate": (
        lambda r: replace(r, decision=replace(r.decision, learning_rate=(r.decision.learning_rate or 0) * (1 + 1e-15))),
        "another decision",
    ),
    "what another policy would give": (
        lambda r: replace(r, decision=replace(r.decision, by_policy=r.decision.by_policy | {"linear": 1.0})),
        "another decision",
    ),
    "a warning that is missing or made up": (
        lambda r: replace(r, decision=replace(r.decision, warning="none")),
        "another decision",
    ),
    "a verdict": (
        lambda r: replace(r, decision=replace(r.decision, verdict="noisy", training_learning_rate=None)),
        "another decision",
    ),
    "the curves": (
        lambda r: replace(r, curves=[replace(c, losses=[1.0] * len(c.losses)) for c in r.curves]),
        "another decision",
    ),
    "the curves of the check": (
        lambda r: replace(
            r,
            check=r.check
            and replace(r.check, curves=[replace(c, losses=[1.0] * len(c.losses)) for c in r.check.curves]),
        ),
        "another decision",
    ),
    "the optimizer": (
        decided(lambda r: replace(r, workload=replace(r.workload, optimizer="adamw"))),
        "another batch or workload",
    ),
    "the model": (
        decided(lambda r: replace(r, workload=replace(r.workload, model="resnet34"))),
        "another batch or workload",
    ),
    "the batch": (decided(lambda r: replace(r, batch=BatchSpec(16, 1, 1))), "another batch or workload"),
    "the check left out": (decided(lambda r: replace(r, check=None)), "sweeps at other batches"),
    "a batch left out": (decided(lambda r: replace(r, compared=r.compared[:1])), "sweeps at other batches"),
    "batches swapped": (decided(lambda r: replace(r, compared=r.compared[::-1])), "sweeps at other batches"),
    "a check of another batch": (
        decided(
            lambda r: replace(r, check=r.check and replace(r.check, at=replace(r.check.at, batch=BatchSpec(64, 1, 3))))
        ),
        "sweeps at other batches",
    ),
    "a sweep of the check left out": (
        decided(lambda r: replace(r, check=r.check and replace(r.check, curves=r.check.curves[:1]))),
        "sweeps instead of",
    ),
    "a sweep of a batch made up": (
        decided(
            lambda r: replace(
                r, compared=[replace(r.compared[0], curves=[*r.compared[0].curves, r.curves[0]]), *r.compared[1:]]
            )
        ),
        "sweeps instead of",
    ),
    "a learning rate that no sweep reached": (
        decided(lambda r: replace(r, curves=[replace(r.curves[0], stopped_at_lr=99.0), *r.curves[1:]])),
        "a learning rate outside",
    ),
    "the target": (
        decided(lambda r: replace(r, sweep=replace(r.sweep, target=replace(r.sweep.target, transfer="linear")))),
        "another sweep than it was told",
    ),
    "a rule that does not exist": (
        lambda r: replace(r, sweep=replace(r.sweep, target=replace(r.sweep.target, rule="steepness"))),
        "another sweep than it was told",
    ),
    "a sweep without steps": (
        lambda r: replace(r, sweep=replace(r.sweep, iterations=0, reference_steps=0)),
        "another sweep than it was told",
    ),
    "the length of the training": (
        decided(lambda r: replace(r, sweep=replace(r.sweep, reference_steps=7))),
        "another sweep than it was told",
    ),
    "a step that took no time": (
        lambda r: replace(r, measured=replace(r.measured, step_seconds=0.0)),
        "a step that took no time",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_result_in_which_something_was_changed_is_refused_by_name(name: str, job: JobInput, tmp_path: Path) -> None:
    change, said = FORGED[name]
    forged = change(written(job))
    assert forged != written(job)
    with pytest.raises(NoResultError, match=said) as caught:
        verified(job, forged.to_json(), tmp_path)
    assert f"gpuplan resume {RUN}" in caught.value.fix


def test_a_result_of_the_version_before_is_refused_with_the_command_that_runs_the_step_again(
    job: JobInput, tmp_path: Path
) -> None:
    old = written(job).to_json().replace("gpuplan.lr-result/2", "gpuplan.lr-result/1")
    with pytest.raises(NoResultError, match=r"expected schema 'gpuplan.lr-result/2'") as caught:
        verified(job, old, tmp_path)
    assert f"gpuplan resume {RUN}" in caught.value.fix
