"""The plan as a document: every plan comes back from it, and one that was edited does not."""

from __future__ import annotations

import copy
import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.cli.options import Given
from gpuplan.cli.planning import plan_from
from gpuplan.core.errors import GpuplanError, PlanRefusedError, UsageError
from gpuplan.core.names import slug
from gpuplan.pipelines import base as pipelines
from gpuplan.planning.plan import LaunchPlan
from gpuplan.profiles import load as profiles
from gpuplan.reports.plan_document import RUN_PLACEHOLDER, differences, from_document, to_document, workload_slug

HOME = Path("/home/somebody/.local/state/gpuplan")
COPIES = ("per_gpu", "world_size", "accumulation", "global")
"""Keys of the training's batch that stand once more beside it, for scripts."""
NO_CHECK = {"check": None}
"""What a job is told in full and a plan leaves out."""
Place = tuple[str | int, ...]


@cache
def planned(pipeline: str = "lr-then-train", instance: str = "g5", backend: str | None = None) -> LaunchPlan:
    values: dict[str, object] = {
        "launch.pipeline": pipeline,
        "launch.instance": instance,
        "workload.per_gpu_batch": 32,
    }
    values |= {"lr.learning_rate": 0.05} if pipeline == "train" else {}
    values |= {"launch.backend": backend} if backend else {}
    return plan_from(Given(values, dict.fromkeys(values, "the test"), None)).plan


def leaves(value: object, path: Place = ()) -> list[Place]:
    """Return the places of all values that hold no others, without those of the requests."""
    if isinstance(value, dict):
        return [leaf for key, below in value.items() if key != "request" for leaf in leaves(below, (*path, key))]
    if isinstance(value, list):
        return [leaf for place, below in enumerate(value) for leaf in leaves(below, (*path, place))]
    return [path]


def change(document: dict[str, Any], path: Place, new: object = None) -> str:
    """Return the document's text with another value at one place: `new`, or one close to the old."""
    edited = copy.deepcopy(document)
    at: Any = edited
    for part in path[:-1]:
        at = at[part]
    old = at[path[-1]]
    near: object = not old if isinstance(old, bool) else f"{old}x" if isinstance(old, str) else old + 1
    at[path[-1]] = near if new is None or new == old else new
    return json.dumps(edited)


def is_copy(path: Place) -> bool:
    return path[0] == "batch" and path[1] in COPIES


PLAN = planned(backend="fake")
DOCUMENT: dict[str, Any] = json.loads(json.dumps(to_document(PLAN, HOME)))
LEAVES = [leaf for leaf in leaves(DOCUMENT) if not is_copy(leaf)]


@pytest.mark.parametrize(("pipeline", "instance"), list(product(pipelines.names(), profiles.names())))
def test_every_plan_comes_back_from_its_document(pipeline: str, instance: str) -> None:
    plan = planned(pipeline, instance)
    again = from_document(json.dumps(to_document(plan, HOME)), "plan.json")
    assert again == plan
    assert again.plan_id == plan.plan_id


def test_there_is_much_to_edit() -> None:
    assert len(LEAVES) > 100


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: ".".join(map(str, leaf)))
def test_a_document_with_one_value_changed_a_little_is_refused(leaf: Place) -> None:
    with pytest.raises(GpuplanError):
        from_document(change(DOCUMENT, leaf), "plan.json")


@given(st.sampled_from(LEAVES), st.integers() | st.floats() | st.text() | st.booleans() | st.just([]))
def test_a_document_with_one_value_replaced_is_refused(leaf: Place, new: object) -> None:
    with pytest.raises(GpuplanError) as caught:
        from_document(change(DOCUMENT, leaf, new), "plan.json")
    assert isinstance(caught.value, PlanRefusedError | UsageError)
    assert "gpuplan plan --out plan.json" in caught.value.fix


@pytest.mark.parametrize("key", COPIES)
def test_the_copies_of_the_batch_that_scripts_read_cannot_be_edited_either(key: str) -> None:
    with pytest.raises(GpuplanError):
        from_document(change(DOCUMENT, ("batch", key)), "plan.json")


@given(st.sampled_from(LEAVES))
def test_a_document_with_a_value_removed_is_refused(leaf: Place) -> None:
    edited = copy.deepcopy(DOCUMENT)
    at: Any = edited
    for part in leaf[:-1]:
        at = at[part]
    del at[leaf[-1]]
    with pytest.raises(GpuplanError):
        from_document(json.dumps(edited), "plan.json")


@pytest.mark.parametrize("place", [(), ("batch",), ("workload",), ("steps", 0), ("provenance", "settings", "lr")])
def test_a_document_with_a_key_too_many_is_refused(place: Place) -> None:
    edited = copy.deepcopy(DOCUMENT)
    at: Any = edited
    for part in place:
        at = at[part]
    at["surprise"] = 1
    with pytest.raises(GpuplanError):
        from_document(json.dumps(edited), "plan.json")


def test_a_plan_whose_id_was_made_up_to_match_is_refused() -> None:
    edited = json.loads(change(DOCUMENT, ("workload", "epochs")))
    edited["plan_id"] = PLAN.model_copy(update={"region": "x"}).plan_id
    with pytest.raises(PlanRefusedError, match="changed after"):
        from_document(json.dumps(edited), "plan.json")


def test_requests_follow_from_the_rest_and_are_not_read_back() -> None:
    edited = copy.deepcopy(DOCUMENT)
    edited["steps"][0]["request"] = {"anything": 1}
    assert from_document(json.dumps(edited), "plan.json") == PLAN


def test_order_and_white_space_do_not_matter() -> None:
    reordered = json.dumps(dict(reversed(DOCUMENT.items())), indent=7, sort_keys=False)
    assert from_document(reordered, "plan.json") == PLAN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        '"x"',
        "[" * 9999,
        '{"plan_id": 1}',
        '{"plan_id": "x", "steps": [], "batch": {}}',
        '{"plan_id": "x", "steps": [1], "batch": {}}',
        '{"plan_id": "x", "steps": {"a": 1}, "batch": 3}',
        '{"plan_id": "x", "steps": [], "batch": {"x": NaN}}',
        '{"plan_id": "\\ud800", "steps": [], "batch": {"x": "\\ud800"}}',
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_plan_is_refused_in_words(text: str) -> None:
    with pytest.raises(GpuplanError) as caught:
        from_document(text, "plan.json")
    assert "plan.json" in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize("backend", ["fake", "local"])
def test_the_request_is_what_would_be_sent_but_for_what_is_not_known_yet(backend: str) -> None:
    lr_find, train = to_document(planned(backend=backend), HOME)["steps"]
    assert lr_find["request"]["name"] == f"{RUN_PLACEHOLDER}-lr-find-1"
    assert lr_find["request"]["input"]["sweep"] == lr_find["sweep"] | NO_CHECK
    assert train["request"]["input"]["train"]["learning_rate"] == {"unknown": "found by lr-find"}


def test_the_request_to_sagemaker_is_whole_but_for_what_an_offline_plan_does_not_know() -> None:
    lr_find, train = to_document(planned(backend="sagemaker"), HOME)["steps"]
    assert train["request"]["HyperParameters"]["train"] == {"unknown": "found by lr-find"}
    sweep = json.loads(lr_find["request"]["HyperParameters"]["sweep"])
    assert sweep == lr_find["sweep"] | NO_CHECK
    assert lr_find["request"]["HyperParameters"]["train"] == "null"
    for step in (lr_find, train):
        request = step["request"]
        assert request["name"] == request["TrainingJobName"] == f"{RUN_PLACEHOLDER}-{step['name']}-1"
        assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": step["limits"]["max_runtime_seconds"]}
        assert request["ResourceConfig"]["InstanceType"] == step["instance_type"]
        assert "--role" in request["RoleArn"]["unknown"]
        assert "--bucket" in request["CheckpointConfig"]["S3Uri"]["unknown"]
        assert "dkr.ecr.us-east-1" in request["AlgorithmSpecification"]["TrainingImage"]


def test_a_limit_cannot_be_edited_into_a_plan() -> None:
    document = to_document(planned(backend="sagemaker"), HOME)
    limits = [leaf for leaf in leaves(document) if "limits" in leaf]
    assert len(limits) >= 4
    for leaf in limits:
        with pytest.raises(PlanRefusedError):
            from_document(change(document, leaf), "plan.json")


def test_a_given_learning_rate_stands_in_the_request() -> None:
    train = to_document(planned("train", backend="fake"), HOME)["steps"][0]
    assert train["request"]["input"]["train"]["learning_rate"] == 0.05


def test_a_backend_that_is_not_installed_has_no_request_but_a_reason() -> None:
    step = to_document(planned(backend="ec2"), HOME)["steps"][0]
    assert step["request"] == {"unknown": "this installation has no backend 'ec2'"}


def test_the_document_has_the_training_batch_where_scripts_look_for_it() -> None:
    batch = DOCUMENT["batch"]
    assert {key: batch[key] for key in COPIES} == batch["train"]
    assert batch["global"] == 128
    assert DOCUMENT["schema"] == "gpuplan.plan/1"
    assert DOCUMENT["plan_id"] == PLAN.plan_id


def test_the_home_is_no_part_of_the_plan() -> None:
    plan = planned(backend="local")
    other = to_document(plan, Path("/elsewhere"))
    assert other["plan_id"] == to_document(plan, HOME)["plan_id"]
    assert str(HOME) not in json.dumps(other)


def test_differences_are_named_by_their_place() -> None:
    plan = PLAN
    assert differences(plan, plan) == []
    workload = {**plan.document()["workload"], "epochs": 9}
    changed = LaunchPlan.model_validate_json(json.dumps({**plan.document(), "workload": workload, "region": "x"}))
    assert differences(plan, changed) == ["region", "workload.epochs"]


def test_a_run_is_called_by_its_model_and_its_data() -> None:
    assert workload_slug(PLAN) == "resnet18-digits" == slug("resnet18-digits")
