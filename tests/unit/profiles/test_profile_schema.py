"""The laws that the schema of a profile enforces, each broken once."""

from __future__ import annotations

import ast
import inspect
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuplan.profiles import hardware, prices, schema
from gpuplan.profiles.schema import Defaults, Gpu, InstanceProfile, Lifecycle, Price, Shape, Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal
    from types import ModuleType

A10G = Gpu(model="A10G", memory_mib=22_888, bf16=True, peak_tflops=70.0, bandwidth_gbs=600.0)
T4 = Gpu(model="T4", memory_mib=15_360, bf16=False)
FOUR = Shape(instance_type="g5.12xlarge", gpus=4, vcpus=48, ram_gib=192.0, interconnect="pcie")
ONE = Shape(instance_type="g5.xlarge", gpus=1, vcpus=4, ram_gib=16.0, interconnect="single-gpu")
BF16 = Defaults(per_gpu_batch=64, precision="bf16-mixed", backend="sagemaker", region="us-east-1")
ALL = Source(what="all", covers=("gpu", "train", "finders", "defaults"), where="a datasheet", as_of=date(2026, 1, 1))


def price(usd: str, **changes: Any) -> Price:  # noqa: ANN401 - any field of Price may be changed
    row: dict[str, Any] = {"service": "ec2", "instance_type": "g5.xlarge", "region": "us-east-1", "source": "a list"}
    return Price.model_validate({**row, "usd_per_hour": usd, **changes})


def profile(**changes: Any) -> InstanceProfile:  # noqa: ANN401 - any field of InstanceProfile may be changed
    fields: dict[str, Any] = {
        "name": "g5.12xlarge",
        "description": "4 x A10G",
        "gpu": A10G,
        "train": FOUR,
        "finders": (ONE,),
        "lifecycle": Lifecycle(state="current"),
        "defaults": BF16,
        "sources": (ALL,),
    }
    return InstanceProfile.model_validate(fields | changes)


def test_finder_of_the_same_gpu_takes_the_profiles_gpu() -> None:
    assert profile().gpu_of(ONE) == A10G
    assert not profile().finder_differs


def test_finder_with_its_own_gpu_is_said_to_differ() -> None:
    fp16 = BF16.model_copy(update={"precision": "16-mixed"})
    other = profile(finders=(ONE.model_copy(update={"gpu": T4}),), defaults=fp16)
    assert other.finder_differs
    assert other.gpu_of(other.finder) == T4


@pytest.mark.parametrize("instance_type", ["g5.xlarge", "ml.g5.xlarge"])
def test_price_is_found_under_both_services_names(instance_type: str) -> None:
    assert profile(prices=(price("1.006"),)).price("ec2", instance_type, "us-east-1") == price("1.006")


def test_price_that_is_not_listed_is_none_not_zero() -> None:
    assert profile(prices=(price("1.006"),)).price("ec2", "g5.xlarge", "eu-west-1") is None


def test_derived_price_says_so() -> None:
    rows = (price("1.006"), price("1.4084", service="sagemaker", ec2_ratio="1.40"))
    assert [row.derived for row in profile(prices=rows).prices] == [False, True]


def breaks(message: str, make: Callable[[], object]) -> None:
    with pytest.raises(ValidationError, match=message):
        make()


def test_laws_between_fields_are_enforced() -> None:
    expensive = ONE.model_copy(update={"instance_type": "g5.2xlarge"})
    rows = (price("1.212", instance_type="g5.2xlarge"), price("1.006"))
    breaks("lr-find runs on one", lambda: profile(finders=(FOUR,)))
    breaks("remove its own `gpu`", lambda: profile(finders=(ONE.model_copy(update={"gpu": A10G}),)))
    breaks(r"remove \[train.gpu\]", lambda: profile(train=FOUR.model_copy(update={"gpu": T4})))
    breaks("T4 has no bf16", lambda: profile(gpu=T4))
    breaks("T4 has no bf16", lambda: profile(finders=(ONE.model_copy(update={"gpu": T4}),)))
    breaks("not cheapest first", lambda: profile(finders=(expensive, ONE), prices=rows))
    breaks("no shape of this profile", lambda: profile(prices=(price("1", instance_type="g6.xlarge"),)))
    breaks(
        "no source covers defaults.per_gpu_batch",
        lambda: profile(sources=(ALL.model_copy(update={"covers": ("gpu",)}),)),
    )
    breaks("covers 'gpus'", lambda: profile(sources=(ALL.model_copy(update={"covers": ("gpus",)}),)))


def test_source_of_a_longer_key_does_not_cover_its_neighbour() -> None:
    narrow = ALL.model_copy(update={"covers": ("gpu.memory", "train", "finders", "defaults")})
    breaks("no source covers gpu.bandwidth_gbs, gpu.memory_mib, gpu.peak_tflops", lambda: profile(sources=(narrow,)))


def test_laws_within_a_table_are_enforced() -> None:
    breaks("does not go with 4", lambda: FOUR.model_validate(FOUR.model_dump() | {"interconnect": "single-gpu"}))
    breaks("needs a `note`", lambda: Lifecycle(state="previous-generation"))
    breaks("needs `substitutes`", lambda: Lifecycle(state="retired", note="gone"))
    breaks("EC2's name", lambda: price("1", instance_type="ml.g5.xlarge"))
    breaks("greater than 0", lambda: price("0"))
    breaks("greater than 0", lambda: price("-1"))
    breaks("no decimal number", lambda: price("cheap"))
    breaks("finite", lambda: price("NaN"))
    breaks('write money in quotes, as "1.5"', lambda: price("1", usd_per_hour=1.5))


def test_second_price_for_the_same_thing_names_the_newer_to_keep() -> None:
    old, new = price("32.7726", as_of=date(2025, 4, 28)), price("21.957642", as_of=date(2026, 9, 6))
    for rows in ((old, new), (new, old), (price("32.7726"), new)):
        breaks("keep the newest, 21.957642 of 2026-09-06", lambda rows=rows: profile(prices=rows))  # type: ignore[misc] # mypy cannot infer a lambda with a default


def test_derived_price_must_follow_from_ec2s_price() -> None:
    breaks("needs EC2's price", lambda: profile(prices=(price("1.4", service="sagemaker", ec2_ratio="1.40"),)))
    wrong = (price("1.006"), price("1.5", service="sagemaker", ec2_ratio="1.40"))
    breaks("EC2's price times 1.40 is 1.4084", lambda: profile(prices=wrong))
    undated = (price("1.006", as_of=date(2026, 9, 6)), price("1.4084", service="sagemaker", ec2_ratio="1.40"))
    breaks("of 2026-09-06", lambda: profile(prices=undated))


@given(st.decimals(min_value="0.0001", max_value="200", places=6), st.decimals(min_value="1", max_value="2", places=2))
def test_any_derived_price_that_is_the_product_is_accepted(base: Decimal, ratio: Decimal) -> None:
    rows = (price("1", usd_per_hour=base), price(str(base * ratio), service="sagemaker", ec2_ratio=str(ratio)))
    found = profile(prices=rows).price("sagemaker", "ml.g5.xlarge", "us-east-1")
    assert found is not None
    assert found.usd_per_hour == base * ratio


def test_profile_survives_json_with_its_digest() -> None:
    before = profile(prices=(price("1.006", as_of=date(2026, 9, 6)),))
    after = InstanceProfile.model_validate_json(before.model_dump_json())
    assert after == before
    assert after.digest() == before.digest()


@pytest.mark.parametrize("module", [hardware, prices, schema], ids=["hardware", "prices", "schema"])
def test_every_field_says_what_it_is(module: ModuleType) -> None:
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if not isinstance(node, ast.ClassDef):
            continue
        for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign):
                assert isinstance(following, ast.Expr), f"{node.name}.{ast.unparse(statement.target)} has no docstring"
                assert isinstance(following.value, ast.Constant)
