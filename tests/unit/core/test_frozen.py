"""The base of all values: immutable, strict, and with a digest that is a function of content alone."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuplan.core.frozen import Frozen, Unknown


class Part(Frozen):
    share: float
    note: str | None = None


class Whole(Frozen):
    name: str
    amount: Decimal
    parts: tuple[Part, ...] = ()
    kind: Literal["a", "b"] = "a"
    weights: dict[str, float] | None = None


PARTS = st.builds(Part, share=st.floats(allow_nan=False, allow_infinity=False), note=st.none() | st.text())
WHOLES = st.builds(
    Whole,
    name=st.text(),
    amount=st.decimals(allow_nan=False, allow_infinity=False, places=4),
    parts=st.lists(PARTS, max_size=3).map(tuple),
    kind=st.sampled_from(["a", "b"]),
    weights=st.none() | st.dictionaries(st.text(max_size=5), st.floats(0, 1), max_size=4),
)


def shuffled(value: object) -> object:
    """Return JSON data with the keys of every object the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(WHOLES)
def test_json_and_back_is_the_same_value_with_the_same_digest(whole: Whole) -> None:
    again = Whole.model_validate_json(whole.canonical_json())
    assert again == whole
    assert again.digest() == whole.digest()


@given(WHOLES)
def test_the_order_of_keys_does_not_matter(whole: Whole) -> None:
    again = Whole.model_validate_json(json.dumps(shuffled(whole.document())))
    assert again.digest() == whole.digest()


@given(WHOLES, WHOLES)
def test_different_documents_have_different_digests(one: Whole, other: Whole) -> None:
    assert (one.digest() == other.digest()) == (one.canonical_json() == other.canonical_json())


def test_an_integer_and_the_same_float_are_the_same_content() -> None:
    assert Part(share=1).digest() == Part(share=1.0).digest()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused(number: float) -> None:
    with pytest.raises(ValidationError):
        Part(share=number)
    with pytest.raises(ValidationError):
        Whole(name="", amount=Decimal(number))
    with pytest.raises(ValidationError):
        Whole(name="", amount=Decimal(0), weights={"x": number})


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="shares"):
        Part.model_validate({"share": 1.0, "shares": 2.0})
    with pytest.raises(ValidationError, match="amounts"):
        Whole.model_validate_json('{"name": "", "amount": "1", "amounts": "2"}')


@pytest.mark.parametrize("value", ["1.0", True, None, [1.0]])
def test_a_value_of_another_type_is_not_converted(value: object) -> None:
    with pytest.raises(ValidationError):
        Part.model_validate({"share": value})


def test_a_value_cannot_be_changed() -> None:
    part = Part(share=0.5)
    with pytest.raises(ValidationError, match="frozen"):
        part.share = 1.0  # type: ignore[misc] # what must fail at run time, too
    with pytest.raises(ValidationError):
        del part.share
    assert part.share == 0.5


def test_a_field_that_is_not_set_is_left_out_never_null() -> None:
    document = Whole(name="x", amount=Decimal("1.50"), parts=(Part(share=1.0),)).document()
    assert document == {"name": "x", "amount": "1.50", "parts": [{"share": 1.0}], "kind": "a"}


def test_an_unknown_is_its_reason_alone() -> None:
    assert Unknown(unknown="no price").document() == {"unknown": "no price"}
    with pytest.raises(ValidationError):
        Unknown.model_validate({"unknown": None})
