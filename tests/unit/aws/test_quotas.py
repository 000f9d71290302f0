from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.stub import Stubber

from gpuplan.aws.errors import AccessDeniedError
from gpuplan.aws.quotas import ServiceQuota, increase_command, training_quota_name, training_quotas
from gpuplan.aws.session import Session
from gpuplan.core.errors import UnreachableError

G5 = "ml.g5.xlarge for training job usage"
G5_SPOT = "ml.g5.12xlarge for spot training job usage"


class Quotas(Session):
    """A session whose Service Quotas answers with the pages it is given, and fails on any call beyond them."""

    def __init__(self, *pages: tuple[str, list[dict[str, Any]], bool]) -> None:
        super().__init__("us-east-1", "work")
        self.service = boto3.client("service-quotas", "us-east-1", config=Config(signature_version=UNSIGNED))
        self.stub = Stubber(self.service)
        self.stub.activate()
        for number, (operation, quotas, more) in enumerate(pages):
            self.stub.add_response(operation, {"Quotas": quotas} | ({"NextToken": str(number)} if more else {}))

    def client(self, service: str) -> Any:  # noqa: ANN401 - botocore is untyped
        assert service == "service-quotas"
        return self.service


def row(name: str, value: float | None, code: str = "L-12345678") -> dict[str, Any]:
    entry: dict[str, Any] = {"QuotaName": name, "QuotaCode": code, "Adjustable": True}
    return entry if value is None else entry | {"Value": value}


def test_quotas_have_the_names_that_aws_gives_them() -> None:
    assert training_quota_name("ml.g5.xlarge", spot=False) == G5
    assert training_quota_name("ml.g5.12xlarge", spot=True) == G5_SPOT


def test_a_quota_is_found_by_its_exact_name_on_any_page() -> None:
    others = [row("ml.g5.xlarge for endpoint usage", 9), row("ml.g5.xlarge for spot training job usage", 8)]
    session = Quotas(("list_service_quotas", others, True), ("list_service_quotas", [row(G5, 2, "L-ABCDEF01")], False))
    assert training_quotas(session, [G5]) == {G5: ServiceQuota(G5, "L-ABCDEF01", 2.0, adjustable=True, default=False)}


def test_pages_are_read_only_until_all_are_found() -> None:
    session = Quotas(("list_service_quotas", [row(G5, 2), row(G5_SPOT, 1)], True))
    assert set(training_quotas(session, [G5, G5_SPOT])) == {G5, G5_SPOT}
    session.stub.assert_no_pending_responses()


def test_what_was_never_set_is_awss_default() -> None:
    session = Quotas(
        ("list_service_quotas", [row(G5, 2)], False),
        ("list_aws_default_service_quotas", [row(G5, 0), row(G5_SPOT, 0)], False),
    )
    found = training_quotas(session, [G5, G5_SPOT])
    assert (found[G5].value, found[G5].default) == (2.0, False)
    assert (found[G5_SPOT].value, found[G5_SPOT].default) == (0.0, True)


def test_a_name_that_does_not_exist_is_left_out() -> None:
    assert not training_quotas(
        Quotas(("list_service_quotas", [], False), ("list_aws_default_service_quotas", [], False)), [G5]
    )


def test_a_quota_without_a_value_is_looked_up_among_the_defaults() -> None:
    session = Quotas(
        ("list_service_quotas", [row(G5, None)], False), ("list_aws_default_service_quotas", [row(G5, 4)], False)
    )
    assert training_quotas(session, [G5])[G5].value == 4.0


def test_a_garbled_page_is_no_answer_rather_than_no_quota() -> None:
    session = Quotas()
    session.stub.add_response("list_service_quotas", {})
    with pytest.raises(UnreachableError, match="holds no Quotas"):
        training_quotas(session, [G5])


def test_nothing_asked_is_no_call() -> None:
    assert not training_quotas(Quotas(), [])


def test_a_denied_look_names_the_action() -> None:
    session = Quotas()
    said = "User: x is not authorized to perform: servicequotas:ListServiceQuotas because no identity-based policy"
    session.stub.add_client_error("list_service_quotas", "AccessDeniedException", said, 403)
    with pytest.raises(AccessDeniedError) as caught:
        training_quotas(session, [G5])
    assert caught.value.action == "servicequotas:ListServiceQuotas"


def test_the_command_that_asks_for_more_can_be_pasted() -> None:
    quota = ServiceQuota(G5, "L-ABCDEF01", 0.0, adjustable=True, default=True)
    assert increase_command(quota, 2, Session("eu-west-1", "work")) == (
        "aws service-quotas request-service-quota-increase --service-code sagemaker --quota-code L-ABCDEF01 "
        "--desired-value 2 --region eu-west-1 --profile work"
    )
    assert "--profile" not in increase_command(quota, 2, Session("eu-west-1"))
