"""Blocks on a page: wrapped, never cut, and what a user wrote is shown as it was written."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gpuplan.reports.layout import Block, Facts, Line, Table, console, show

WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789.,/$%()[]:<>-", min_size=1, max_size=30)
TEXT = st.lists(WORD, min_size=1, max_size=12).map(" ".join)
PROSE = st.lists(WORD.map(lambda word: word[:12]), min_size=2, max_size=30).map(" ".join)
LABEL = st.text("abcdefghij", min_size=1, max_size=14)
WIDTHS = st.integers(40, 200)


def page(blocks: list[Block], width: int = 140) -> str:
    """Return what is printed at a width."""
    target = Console(file=io.StringIO(), width=width, highlight=False, emoji=False, markup=False)
    show(blocks, target)
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def ink(text: str) -> str:
    """Return a text without its white space."""
    return re.sub(r"\s", "", text)


@given(TEXT, WIDTHS)
def test_a_line_loses_nothing_at_any_width(text: str, width: int) -> None:
    assert ink(page([Line(text)], width)) == ink(text)


@given(LABEL, TEXT, WIDTHS)
def test_a_fact_loses_nothing_at_any_width(label: str, value: str, width: int) -> None:
    assert ink(page([Facts(((label, value),))], width)) == ink(label + value)


@given(st.lists(TEXT, min_size=1, max_size=6), WIDTHS)
def test_a_table_of_one_row_loses_nothing_at_any_width(cells: list[str], width: int) -> None:
    table = Table(tuple("abcdef"[: len(cells)]), (tuple(cells),))
    assert sorted(ink(page([table], width))) == sorted(ink("".join(cells)) + "abcdef"[: len(cells)])


@given(st.lists(st.tuples(LABEL, PROSE), min_size=1, max_size=4), WIDTHS)
def test_no_line_of_prose_is_wider_than_the_page_or_ends_in_spaces(facts: list[tuple[str, str]], width: int) -> None:
    for line in page([Facts(tuple(facts))], width).splitlines():
        assert len(line) <= width
        assert line == line.rstrip()


@given(st.lists(PROSE, min_size=1, max_size=6), WIDTHS)
def test_no_line_of_a_table_is_wider_than_the_page_or_ends_in_spaces(cells: list[str], width: int) -> None:
    for line in page([Table(tuple("abcdef"[: len(cells)]), (tuple(cells),))], width).splitlines():
        assert len(line) <= width
        assert line == line.rstrip()


@pytest.mark.parametrize("command", ["gpuplan launch " + "--model resnet18 " * 20 + "--yes", "/a" * 120])
def test_what_is_there_to_be_copied_stays_on_one_line(command: str) -> None:
    assert command in page([Facts((("next", command),))], 60).splitlines()[0]


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/]", ":smile:", "[link=http://x]y[/link]", "a[0]", "\\[x]"])
def test_what_looks_like_markup_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for block in (Line(text), Facts((("data", text),)), Table(("data",), ((text,),))):
        show([block], console())
        assert text in capsys.readouterr().out


def test_blocks_have_one_empty_line_between_them() -> None:
    lines = page([Line("a"), Line("b"), Facts((("c", "d"),))]).splitlines()
    assert [line.split() for line in lines] == [["a"], [], ["b"], [], ["c", "d"]]


def test_a_label_that_repeats_is_printed_once() -> None:
    shown = page([Facts((("note", "one"), ("note", "two"), ("next", "three"), ("note", "four")))])
    assert [line.split() for line in shown.splitlines()] == [
        ["note", "one"],
        ["two"],
        ["next", "three"],
        ["note", "four"],
    ]


def test_values_stand_in_a_column() -> None:
    lines = page([Facts((("a", "one"), ("a longer label", "two")))]).splitlines()
    assert lines[0].index("one") == lines[1].index("two")


def test_without_a_terminal_a_page_is_140_wide_and_has_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    show([Table(("a", "b"), (("x " * 100, "y"),))], console())
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert 120 < max(map(len, out.splitlines())) <= 140


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show([Line("working")], console(stderr=True))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "working\n")
