"""`--live-prices` on this side: asked once a day, never answered by what is shipped, repeated by a saved plan."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from gpuplan.cli import launch as launch_command
from gpuplan.cli.live_prices import FRESH, WITHOUT, live_prices, of_settings
from gpuplan.cli.options import Given
from gpuplan.cli.planning import build
from gpuplan.core.errors import CredentialsError, PlanRefusedError, UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.planning.money.cost import Rate
from gpuplan.profiles.prices import LIVE_SOURCE, LivePrices, Price, Service
from gpuplan.reports.plan_document import to_document

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakePlan
    from gpuplan.planning.plan import LaunchPlan

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
REGION = "us-east-1"
TYPES = ["g5.xlarge", "g5.12xlarge"]
G5_SETTINGS: dict[str, object] = {"launch.instance": "g5", "launch.backend": "sagemaker"}


def answer(name: str, now: datetime = NOW, usd: str = "3.21") -> LivePrices:
    services: tuple[Service, ...] = ("ec2", "sagemaker")
    rows = tuple(
        Price(
            service=service,
            instance_type=name,
            region=REGION,
            usd_per_hour=Decimal(usd),
            as_of=now.date(),
            source=LIVE_SOURCE,
        )
        for service in services
    )
    return LivePrices(fetched_at=now, region=REGION, instance_types=(name,), prices=rows)


@dataclass
class Aws:
    """Answers and counts."""

    asked: list[str] = field(default_factory=list)

    def __call__(self, name: str, now: datetime) -> LivePrices:
        self.asked.append(name)
        return answer(name, now)


def test_every_shape_of_the_profiles_is_asked_for_once(tmp_path: Path) -> None:
    aws = Aws()
    found = live_prices([*TYPES, "g5.48xlarge"], REGION, tmp_path, NOW, aws)
    assert aws.asked == ["g5.12xlarge", "g5.48xlarge", "g5.xlarge"]
    assert found.instance_types == ("g5.12xlarge", "g5.48xlarge", "g5.xlarge")
    assert len(found.prices) == 6


@pytest.mark.parametrize(
    ("age", "again"), [(timedelta(0), False), (FRESH - timedelta(seconds=1), False), (FRESH, True)]
)
def test_an_answer_is_used_for_a_day(tmp_path: Path, age: timedelta, *, again: bool) -> None:
    live_prices(TYPES, REGION, tmp_path, NOW, Aws())
    aws = Aws()
    found = live_prices(TYPES, REGION, tmp_path, NOW + age, aws)
    assert bool(aws.asked) == again
    assert found.fetched_at == (NOW + age if again else NOW)


def test_an_answer_from_the_future_is_asked_for_again(tmp_path: Path) -> None:
    live_prices(TYPES, REGION, tmp_path, NOW + timedelta(days=1), Aws())
    aws = Aws()
    live_prices(TYPES, REGION, tmp_path, NOW, aws)
    assert aws.asked


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        answer("g6.xlarge").canonical_json().encode(),
        answer("g5.xlarge").canonical_json().encode()[:-20],
        answer("g5.xlarge").canonical_json().replace("3.21", "-3.21").encode(),
    ],
    ids=["empty", "cut", "no text", "a list", "another type", "torn", "negative"],
)
def test_a_damaged_answer_is_asked_for_again_and_mended(tmp_path: Path, damage: bytes) -> None:
    live_prices(TYPES, REGION, tmp_path, NOW, Aws())
    kept = tmp_path / "prices" / REGION / "g5.xlarge.json"
    kept.write_bytes(damage)
    aws = Aws()
    live_prices(TYPES, REGION, tmp_path, NOW, aws)
    assert aws.asked == ["g5.xlarge"]
    assert LivePrices.model_validate_json(kept.read_text(encoding="utf-8")) == answer("g5.xlarge")


def test_the_age_of_several_answers_is_that_of_the_oldest(tmp_path: Path) -> None:
    live_prices(TYPES, REGION, tmp_path, NOW, Aws())
    (tmp_path / "prices" / REGION / "g5.xlarge.json").unlink()
    later = NOW + timedelta(hours=5)
    assert live_prices(TYPES, REGION, tmp_path, later, Aws()).fetched_at == NOW


def test_a_folder_that_cannot_be_written_costs_no_prices(tmp_path: Path) -> None:
    (tmp_path / "prices").write_text("a file", encoding="utf-8")
    assert live_prices(TYPES, REGION, tmp_path, NOW, Aws()).prices


def test_a_lookup_that_fails_is_an_error_that_names_the_way_without(tmp_path: Path) -> None:
    def denied(name: str, now: datetime) -> LivePrices:
        del name, now
        raise CredentialsError("no credentials", fix="aws configure")

    with pytest.raises(CredentialsError) as caught:
        live_prices(TYPES, REGION, tmp_path, NOW, denied)
    assert caught.value.fix == f"aws configure    or {WITHOUT}"
    assert not (tmp_path / "prices").exists()


@pytest.mark.parametrize("backend", ["local", "fake"])
def test_what_aws_does_not_bill_has_no_live_prices(make_plan: MakePlan, backend: str) -> None:
    settings = make_plan({"launch.backend": backend}).provenance.settings
    with pytest.raises(UsageError, match=f"does not bill what backend {backend} runs") as caught:
        of_settings(settings, TYPES)
    assert caught.value.fix == "drop --live-prices"


def live_plan(make_plan: MakePlan, usd: str = "3.21") -> LaunchPlan:
    """Return a plan at live prices of the training's instance alone."""
    return build(make_plan(G5_SETTINGS).provenance.settings, live_prices=answer("g5.12xlarge", usd=usd))


def test_live_prices_stand_in_place_of_the_shipped_ones(make_plan: MakePlan) -> None:
    shipped, live = make_plan(G5_SETTINGS), live_plan(make_plan)
    finder, training = live.steps
    assert finder.rate_usd_per_hour == shipped.steps[0].rate_usd_per_hour, "it was not asked for"
    assert training.rate_usd_per_hour == Rate(amount=Decimal("3.21"), as_of=date(2026, 11, 29), source=LIVE_SOURCE)
    assert live.plan_id != shipped.plan_id
    assert live.provenance.profile_sha256 == shipped.provenance.profile_sha256


def test_what_aws_lists_no_price_for_is_unknown_not_shipped(make_plan: MakePlan) -> None:
    nothing = LivePrices(fetched_at=NOW, region=REGION, instance_types=("g5.12xlarge",))
    plan = build(make_plan(G5_SETTINGS).provenance.settings, live_prices=nothing)
    assert isinstance(plan.steps[-1].rate_usd_per_hour, Unknown)
    [warning] = [found for found in plan.warnings if found.code == "unknown-price"]
    assert warning.fix == "drop --live-prices"


def saved(plan: LaunchPlan, folder: Path) -> Path:
    path = folder / "plan.json"
    path.write_text(json.dumps(to_document(plan, folder)), encoding="utf-8")
    return path


NOTHING_GIVEN = Given({}, {}, None)


def test_a_saved_plan_is_made_again_at_the_prices_it_holds_without_asking(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = live_plan(make_plan)
    again = launch_command.saved_plan(saved(plan, tmp_path), NOTHING_GIVEN, live_prices=False)
    assert again == plan


def test_a_saved_plan_whose_live_prices_were_edited_is_refused(make_plan: MakePlan, tmp_path: Path) -> None:
    path = saved(live_plan(make_plan), tmp_path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"usd_per_hour": "3.21"', '"usd_per_hour": "1.00"'), encoding="utf-8")
    with pytest.raises(PlanRefusedError, match="was changed after it was planned"):
        launch_command.saved_plan(path, NOTHING_GIVEN, live_prices=False)


def test_a_saved_plan_takes_no_other_prices(make_plan: MakePlan, tmp_path: Path) -> None:
    path = saved(make_plan(G5_SETTINGS), tmp_path)
    with pytest.raises(UsageError, match="--live-prices was given as well"):
        launch_command.saved_plan(path, NOTHING_GIVEN, live_prices=True)
