"""What `gpuplan infra` says: replacements are losses and named so, unknowns have reasons, commands do what they say."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import jmespath  # type: ignore[import-untyped] # botocore's own dependency, without types
import pytest

from gpuplan.aws.location import Location
from gpuplan.aws.stack import Stack, StackOutputs
from gpuplan.aws.stack_changes import ChangeSet, ParameterChange, ResourceChange
from gpuplan.aws.stack_removal import BucketFate
from gpuplan.core.frozen import Unknown
from gpuplan.reports import infra_text as report
from gpuplan.reports.layout import Facts, Line, Table

PLACE = Location("eu-west-1", "--region", "work", "AWS_PROFILE")
STACK = Stack(
    name="gpuplan",
    stack_id="arn:aws:cloudformation:eu-west-1:123456789012:stack/gpuplan/1",
    status="UPDATE_COMPLETE",
    reason="",
    parameters={"Prefix": "team-a"},
    outputs=StackOutputs("b", "r", "p"),
    ours=True,
    changed_at=datetime(2026, 11, 22, 8, 30, tzinfo=UTC),
    drift="DRIFTED",
    drift_checked_at=datetime(2026, 11, 23, tzinfo=UTC),
)


def words(blocks: report.Blocks) -> str:
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Line):
            parts.append(block.text)
        elif isinstance(block, Table):
            parts += [" | ".join(row) for row in block.rows]
        elif isinstance(block, Facts):
            parts += [f"{label}: {value}" for label, value in block.items]
    return "\n".join(parts)


def change_set(*changes: ResourceChange, creates: bool = False) -> ChangeSet:
    parameters = (ParameterChange("KmsKeyArn", None if creates else "", "arn:key"),)
    return ChangeSet("c", "gpuplan", "s", creates, creates, empty=False, changes=changes, parameters=parameters)


@pytest.mark.parametrize(
    ("replacement", "said"), [("True", "made anew"), ("Conditional", "perhaps"), ("False", "no"), ("Later", "Later")]
)
def test_a_replacement_is_named(replacement: str, said: str) -> None:
    change = ResourceChange("Modify", "ExecutionRole", "AWS::IAM::Role", replacement)
    (row,) = [line for line in words(report.change_text(change_set(change))).splitlines() if "ExecutionRole" in line]
    assert row.startswith("~ change | ")
    assert said in row.rpartition("|")[2]


def test_an_empty_value_is_none_and_a_new_stack_has_no_before() -> None:
    assert "KmsKeyArn | none | arn:key" in words(report.change_text(change_set()))
    assert "KmsKeyArn |  | arn:key" in words(report.change_text(change_set(creates=True)))


def test_a_stack_with_another_template_and_drift_says_both_and_the_next_step() -> None:
    text = words(report.show_text("gpuplan", (), (), report.Deployed(STACK, template_is_current=False)))
    assert "stack: UPDATE_COMPLETE since 2026-11-22 08:30 UTC" in text
    assert "drift: DRIFTED, checked 2026-11-23 00:00 UTC" in text
    assert "template: not what this gpuplan ships" in text
    assert "next: gpuplan infra deploy --stack gpuplan --region eu-west-1" in text


def test_what_cannot_be_seen_is_unknown_with_its_reason() -> None:
    hidden = report.Deployed(STACK, Unknown(unknown="not allowed"))
    assert "template: unknown: not allowed" in words(report.show_text("gpuplan", (), (), hidden))
    document = report.show_document("gpuplan", (), (), hidden)["stack"]
    assert document["template_is_current"] == {"unknown": "not allowed"}
    half = report.show_document("gpuplan", (), (), Unknown(unknown="no credentials"))
    assert half["stack"] == {"name": "gpuplan", "deployed": {"unknown": "no credentials"}}


def test_a_kept_bucket_comes_with_why_and_with_the_commands_on_unbroken_lines() -> None:
    fate = BucketFate("b-1", kept=True, why="it is not empty")
    blocks = report.removed_text("gpuplan", fate, PLACE)
    assert "the bucket b-1 stays: it is not empty" in words(blocks)
    emptying, deleting = [v for b in blocks if isinstance(b, Facts) for label, v in b.items if label == "next"]
    assert deleting == "aws s3api --region eu-west-1 --profile work delete-bucket --bucket b-1"
    assert emptying.count("--profile work") == 2
    assert report.removed_document("gpuplan", fate, PLACE)["bucket"]["delete_all"] == [emptying, deleting]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ({"Versions": [{"Key": "a", "VersionId": "1", "Size": 3}]}, [{"Key": "a", "VersionId": "1"}]),
        ({"DeleteMarkers": [{"Key": "a", "VersionId": "2"}]}, [{"Key": "a", "VersionId": "2"}]),
        (
            {"Versions": [{"Key": "a", "VersionId": "1"}], "DeleteMarkers": [{"Key": "b", "VersionId": "2"}]},
            [{"Key": "a", "VersionId": "1"}, {"Key": "b", "VersionId": "2"}],
        ),
        ({}, []),
    ],
)
def test_the_emptying_command_asks_for_every_version_and_delete_marker(
    page: dict[str, Any], expected: list[dict[str, str]]
) -> None:
    query = re.search(r"--query '([^']+)'", report.emptying_commands("b-1", PLACE)[0])
    assert query is not None
    assert jmespath.search(query[1], page) == {"Quiet": True, "Objects": expected}


def test_a_bucket_that_went_and_a_stack_without_one_leave_nothing_to_do() -> None:
    gone = words(report.removed_text("gpuplan", BucketFate("b-1", kept=False, why=""), PLACE))
    assert gone == "stack gpuplan deleted, and its empty bucket b-1"
    assert words(report.removed_text("gpuplan", None, PLACE)) == "stack gpuplan deleted; it had no bucket"
    assert "bucket" not in report.removed_document("gpuplan", None, PLACE)
