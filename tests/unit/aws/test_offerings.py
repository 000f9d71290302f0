from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.stub import Stubber

from gpuplan.aws.errors import AccessDeniedError
from gpuplan.aws.offerings import regions, zones
from gpuplan.aws.session import Session


class Regions(Session):
    """A session whose EC2 answers from a table: zones by type and region; a region without an entry is closed."""

    def __init__(self, offered: dict[str, dict[str, list[str]]], region: str = "us-east-1") -> None:
        super().__init__(region)
        self.offered = offered
        self.ec2 = boto3.client("ec2", region, config=Config(signature_version=UNSIGNED))
        self.stub = Stubber(self.ec2)
        self.stub.activate()

    def client(self, service: str) -> Any:  # noqa: ANN401 - botocore is untyped
        assert service == "ec2"
        return self.ec2

    def in_region(self, region: str) -> Regions:
        there = Regions(self.offered, region)
        there.answer() if region in self.offered else there.deny()
        return there

    def answer(self) -> None:
        rows = [
            {"InstanceType": instance_type, "LocationType": "availability-zone", "Location": zone}
            for instance_type, zones in self.offered[self.region].items()
            for zone in zones
        ]
        self.stub.add_response("describe_instance_type_offerings", {"InstanceTypeOfferings": rows})

    def deny(self) -> None:
        self.stub.add_client_error("describe_instance_type_offerings", "UnauthorizedOperation", "no", 403)


def test_zones_are_sorted_and_a_type_that_is_nowhere_has_none() -> None:
    session = Regions({"us-east-1": {"g5.xlarge": ["us-east-1b", "us-east-1a"]}})
    session.answer()
    assert zones(session, ["g5.xlarge", "p3.16xlarge"]) == {
        "g5.xlarge": ["us-east-1a", "us-east-1b"],
        "p3.16xlarge": [],
    }


def test_only_the_wanted_types_are_asked_for() -> None:
    session = Regions({})
    session.stub.add_response(
        "describe_instance_type_offerings",
        {"InstanceTypeOfferings": []},
        {
            "LocationType": "availability-zone",
            "Filters": [{"Name": "instance-type", "Values": ["g5.12xlarge", "g5.xlarge"]}],
        },
    )
    zones(session, ["g5.xlarge", "g5.12xlarge"])
    session.stub.assert_no_pending_responses()


def test_nothing_asked_is_no_call() -> None:
    assert zones(Regions({}), []) == {}


def test_other_regions_that_offer_a_type_are_found_and_closed_ones_left_out() -> None:
    offered: dict[str, dict[str, list[str]]] = {
        "eu-west-1": {"g6.xlarge": []},
        "us-west-2": {"g6.xlarge": ["us-west-2a"]},
        "eu-north-1": {"g6.xlarge": ["eu-north-1b"]},
    }
    session = Regions(offered)
    names = ["us-west-2", "us-east-1", "eu-west-1", "eu-north-1", "me-south-1"]
    session.stub.add_response("describe_regions", {"Regions": [{"RegionName": name} for name in names]})
    assert regions(session, ["g6.xlarge", "p3.2xlarge"]) == {"g6.xlarge": ["eu-north-1", "us-west-2"], "p3.2xlarge": []}


def test_a_denied_look_is_an_error_of_its_own() -> None:
    session = Regions({})
    session.deny()
    with pytest.raises(AccessDeniedError):
        zones(session, ["g5.xlarge"])
