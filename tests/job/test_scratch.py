"""The folder for temporary files: in the job's folder, short, and gone afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpuplan_job import scratch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["a", "deep" * 20])
def test_a_folder_is_short_lies_with_the_results_and_is_removed(tmp_path: Path, name: str) -> None:
    job_folder = tmp_path / name
    job_folder.mkdir()
    with scratch.folder(job_folder) as temporary:
        (temporary / "file").write_text("text")
        assert len(str(temporary)) <= scratch.LONGEST_PATH
        assert (job_folder / "tmp" / "file").read_text() == "text"
    assert not temporary.exists()
    assert list(job_folder.iterdir()) == []
    assert not (temporary.parent.exists() and temporary.parent != job_folder)
