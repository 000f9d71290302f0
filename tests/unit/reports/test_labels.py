"""Labels beside their lines, and texts cut to a width."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from gpuplan.reports._labels import place
from gpuplan.reports._svg import text_width, wrapped


@given(
    xs=st.lists(st.floats(0, 800), min_size=1, max_size=3),
    lengths=st.lists(st.integers(1, 30), min_size=3, max_size=3),
)
def test_no_line_runs_through_the_label_of_another(xs: list[float], lengths: list[int]) -> None:
    labels = [(x, "a" * length) for x, length in zip(xs, lengths, strict=False)]
    placed = place(labels, 13, lanes=len(labels), bounds=(0, 800))
    for one, other in combinations(placed, 2):
        assert one.lane != other.lane or one.right < other.left or other.right < one.left
        for line, label in ((one, other), (other, one)):
            assert line.lane < label.lane or not label.left <= line.x <= label.right


def test_label_keeps_off_an_obstacle_where_it_can() -> None:
    (label,) = place([(400.0, "minimum")], 12, lanes=1, bounds=(0, 800), obstacles=[440.0])
    assert label.right < 400


@given(st.text(max_size=300), st.integers(1, 3))
def test_wrapped_text_fits_and_is_cut_with_a_sign_only_where_it_must(content: str, lines: int) -> None:
    found = wrapped(content, 13, 200, lines=lines)
    assert len(found) <= lines
    assert all(text_width(line, 13) <= 200 for line in found)
    kept = " ".join(found)
    assert kept.endswith("…") or len(kept.split()) == len(content.split())
