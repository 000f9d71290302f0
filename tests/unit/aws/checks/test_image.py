from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest

from gpuplan.aws.checks.base import Status
from gpuplan.aws.checks.image import image
from gpuplan.core.errors import ExitCode

if TYPE_CHECKING:
    from unit.aws.checks.conftest import StubbedSession

OWN = "123456789012.dkr.ecr.us-east-1.amazonaws.com/team/train"


def test_every_gpu_generations_image_is_looked_up_once(stubbed: StubbedSession) -> None:
    stubbed.stub("ecr").add_response("describe_images", {"imageDetails": []})
    [found] = image(stubbed, ["8.6", "8.6"], None, None)
    assert found.status is Status.OK
    assert found.message.startswith("763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch")


def test_an_image_that_is_no_longer_patched_is_warned_of_once_the_day_is_known(stubbed: StubbedSession) -> None:
    stubbed.stub("ecr").add_response("describe_images", {"imageDetails": []})
    there, note = image(stubbed, ["8.6"], None, date(2099, 1, 1))
    assert (there.status, note.status) == (Status.OK, Status.WARNING)
    assert "no security patches" in note.message


def test_a_gpu_that_no_image_runs_on_needs_one_of_the_users(stubbed: StubbedSession) -> None:
    [found] = image(stubbed, ["3.0"], None, None)
    assert (found.status, found.exit_code) == (Status.ERROR, ExitCode.USAGE)
    assert found.fix.startswith("add --image ")


@pytest.mark.parametrize(
    ("uri", "which"),
    [
        (f"{OWN}:2026-11", {"imageTag": "2026-11"}),
        (OWN, {"imageTag": "latest"}),
        (f"{OWN}@sha256:{'a' * 64}", {"imageDigest": f"sha256:{'a' * 64}"}),
    ],
)
def test_an_image_of_ones_own_is_looked_up_by_tag_or_digest(
    stubbed: StubbedSession, uri: str, which: dict[str, str]
) -> None:
    wanted = {"registryId": "123456789012", "repositoryName": "team/train", "imageIds": [which]}
    stubbed.stub("ecr").add_response("describe_images", {"imageDetails": []}, wanted)
    [found] = image(stubbed, ["8.6"], uri, None)
    assert (found.status, found.message) == (Status.OK, uri)


@pytest.mark.parametrize("code", ["ImageNotFoundException", "RepositoryNotFoundException"])
def test_an_image_that_its_registry_does_not_have_is_an_error(stubbed: StubbedSession, code: str) -> None:
    stubbed.stub("ecr").add_client_error("describe_images", code, "does not exist", 400)
    [found] = image(stubbed, ["8.6"], f"{OWN}:typo", None)
    assert (found.status, found.exit_code) == (Status.ERROR, ExitCode.USAGE)
    assert "no such image" in found.message


def test_an_image_elsewhere_is_looked_up_there(stubbed: StubbedSession) -> None:
    there = stubbed.in_region("eu-west-1")
    there.stub("ecr").add_response("describe_images", {"imageDetails": []})
    [found] = image(stubbed, ["8.6"], f"{OWN.replace('us-east-1', 'eu-west-1')}:1", None)
    assert found.status is Status.OK
    there.stub("ecr").assert_no_pending_responses()


def test_a_registry_that_may_not_be_asked_leaves_it_unchecked(stubbed: StubbedSession) -> None:
    stubbed.denied("ecr", "describe_images", "ecr:DescribeImages")
    [found] = image(stubbed, ["8.6"], f"{OWN}:1", None)
    assert (found.status, found.exit_code) == (Status.UNKNOWN, ExitCode.OK)
    assert found.message.endswith("not checked, ecr:DescribeImages is not allowed")


def test_another_registry_than_ecr_is_not_asked(stubbed: StubbedSession) -> None:
    [found] = image(stubbed, ["8.6"], "docker.io/library/python:3.12", None)
    assert found.status is Status.UNKNOWN
