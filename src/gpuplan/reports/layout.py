"""Blocks of output and how they are set: a line, a table, aligned facts. Rendered by rich, wrapped, never cut."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.table import Table as RichTable

_PLAIN_WIDTH = 140
"""Width where there is no terminal to ask: wide enough for a plan's table."""
_NARROWEST = 20
_COPIED = {"next", "fix", "last lines"}
"""Labels whose values are commands."""


@dataclass(frozen=True)
class Line:
    """One line of text."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under headings."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Facts:
    """Labels and values; a label that repeats is printed once."""

    items: tuple[tuple[str, str], ...]


Block = Line | Table | Facts


def console(*, stderr: bool = False) -> Console:
    """Return the console for results (stdout) or progress (stderr); it honours NO_COLOR and COLUMNS."""
    import sys

    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False, emoji=False, markup=False)


def show(blocks: Iterable[Block], target: Console) -> None:
    """Print blocks with a blank line between them, without the spaces that pad a table's last column."""
    target.file.write("".join(f"{line}\n" for line in rendered(blocks, target)))
    target.file.flush()


def rendered(blocks: Iterable[Block], target: Console) -> list[str]:
    """Return the lines that `show` would print."""
    lines: list[str] = []
    for index, block in enumerate(blocks):
        if index:
            lines.append("")
        if isinstance(block, Line):
            lines.append(block.text)
        elif isinstance(block, Facts):
            lines += _facts(block, target.width)
        else:
            with target.capture() as captured:
                target.print(_table(block), width=target.width - 1)
            lines += [f" {line}".rstrip() for line in captured.get().splitlines()]
    return lines


def _table(block: Table) -> RichTable:
    from rich.table import Table as RichTable

    table = RichTable(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 1))
    for column in block.columns:
        table.add_column(column, overflow="fold")
    for row in block.rows:
        table.add_row(*row)
    return table


def _facts(block: Facts, width: int) -> list[str]:
    """Set labels and values; prose is wrapped, what is there to be copied (a command, a path) never is."""
    indent = max((len(label) for label, _ in block.items), default=0) + 3
    lines: list[str] = []
    seen = ""
    for label, value in block.items:
        first = "" if label == seen else label
        seen = label
        copied = label in _COPIED or " " not in value
        wrapped = [value] if copied else textwrap.wrap(value, max(width - indent, _NARROWEST), break_on_hyphens=False)
        for text in wrapped or [""]:
            lines.append(f" {first:<{indent - 1}}{text}".rstrip())
            first = ""
    return lines
