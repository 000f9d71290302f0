"""The line of the user's own code: innermost, of an exception, of a worker's, of a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from gpuplan_job import user_frames
from gpuplan_job.failures import classify, describe

HERE = Path(__file__)


class Missing(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return len(Path("/nowhere/at/all.png").read_bytes())

    def __len__(self) -> int:
        return 2


class Wrong(Missing):
    def __getitem__(self, index: int) -> int:
        raise KeyError("label")


def test_an_error_inside_a_library_is_placed_where_the_user_called_it() -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")
    frame = user_frames.of_error(caught.value)
    assert frame is not None
    assert (frame.file, frame.function) == (
        __file__,
        "test_an_error_inside_a_library_is_placed_where_the_user_called_it",
    )


def test_an_error_that_no_user_code_took_part_in_has_no_place() -> None:
    assert user_frames.of_error(ValueError("never raised")) is None


def test_an_unknown_error_in_the_users_code_is_theirs_with_file_and_line() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 // 0
    kind, message, fix = classify(caught.value)
    assert kind == "user-code"
    assert f"{HERE.name}:" in message
    assert str(HERE) in fix
    assert HERE.name in describe(None, caught.value, 0).where


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_opened_is_the_datas_fault(workers: int) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        next(iter(DataLoader(Missing(), num_workers=workers)))
    kind, message, _ = classify(caught.value)
    assert (kind, "/nowhere/at/all.png" in message) == ("data", True)


def test_an_error_in_a_data_loading_worker_is_placed_in_the_users_file() -> None:
    with pytest.raises(KeyError) as caught:
        next(iter(DataLoader(Wrong(), num_workers=1)))
    kind, message, _ = classify(caught.value)
    assert kind == "user-code"
    assert HERE.name in message
