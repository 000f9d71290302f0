"""Atomic files: whole or absent, and nothing left beside them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from gpuplan_job.atomic import write_atomic, write_once

if TYPE_CHECKING:
    from pathlib import Path


def test_a_text_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "one")
    write_atomic(path, "zwölf")
    assert path.read_text(encoding="utf-8") == "zwölf"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_text_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "one")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\udcff")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_a_folder_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomic(tmp_path / "taken", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_only_the_first_of_many_writers_writes(tmp_path: Path) -> None:
    path = tmp_path / "failure.json"
    assert write_once(path, "first")
    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(lambda text: write_once(path, text), ["a", "b", "c", "d"]))
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
