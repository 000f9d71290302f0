"""Failures: sorted by cause, first writer wins, and the file is whole."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from gpuplan_job.contract import Failure, FailureKind, JobInput
from gpuplan_job.data import DataError
from gpuplan_job.document import ContractError
from gpuplan_job.failures import JobError, classify, write_failure

if TYPE_CHECKING:
    from pathlib import Path


class Broken(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        raise DataError(f"cannot read the image cat/{index}.png: truncated; replace or remove it")

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out-of-memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out-of-memory"),
        (MemoryError(), "out-of-memory"),
        (DataError("no images"), "data"),
        (IndexError("Target 12 is out of bounds."), "data"),
        (ModuleNotFoundError("No module named 'torchvision'"), "import"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. shared memory"), "disk"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "killed"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "device"),
        (torch.distributed.DistBackendError("NCCL error in: ..."), "communication"),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5"), "communication"),
        (RuntimeError("[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(...)"), "stall"),
        (RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv"), "stall"),
        (RuntimeError("NCCL error: unhandled cuda error, out of memory"), "out-of-memory"),
        (RuntimeError("[enforce fail at inline_container.cc:664] PytorchStreamWriter failed writing"), "disk"),
        (OSError(errno.EFBIG, "File too large"), "disk"),
        (OSError("image file is truncated (3 bytes not processed)"), "data"),
        (ContractError("JobInput.batch: missing"), "usage"),
        (JobError("user-code", "diverged", "lower"), "user-code"),
        (KeyboardInterrupt(), "killed"),
        (ZeroDivisionError("division by zero"), "internal"),
    ],
)
def test_a_cause_is_recognised(error: BaseException, kind: FailureKind) -> None:
    found, message, fix = classify(error)
    assert found == kind
    assert message
    assert fix


def test_an_error_from_a_data_loading_worker_keeps_its_own_words() -> None:
    with pytest.raises(DataError) as caught:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert classify(caught.value)[:2] == ("data", "cannot read the image cat/0.png: truncated; replace or remove it")


def test_the_first_writer_wins(tmp_path: Path, train_input: JobInput) -> None:
    assert write_failure(tmp_path, train_input, DataError("first"), rank=1)
    assert not write_failure(tmp_path, train_input, DataError("echo"), rank=0)
    failure = Failure.from_json((tmp_path / "failure.json").read_bytes())
    assert (failure.message, failure.rank, failure.run_id, failure.attempt) == ("first", 1, "run-1", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failure.json", "ranks"]
    reports = [Failure.from_json(path.read_bytes()) for path in sorted((tmp_path / "ranks").iterdir())]
    assert [(report.rank, report.message) for report in reports] == [(0, "echo"), (1, "first")]


def test_a_message_with_bytes_that_are_no_text_is_written_all_the_same(tmp_path: Path) -> None:
    assert write_failure(tmp_path, None, DataError("cannot read \udcff.png"), rank=None)
    assert "cannot read ?.png" in Failure.from_json((tmp_path / "failure.json").read_bytes()).message


def test_the_trace_shows_where_it_happened(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 // 0
    write_failure(tmp_path, None, caught.value, rank=0)
    assert "_ = 1 // 0" in Failure.from_json((tmp_path / "failure.json").read_bytes()).trace
