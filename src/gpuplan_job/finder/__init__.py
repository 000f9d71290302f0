"""Learning rate and batch from Python: `find_lr` and `find_batch` for any module, `FindLearningRate` for Lightning.

For notebooks and training scripts; it runs in the caller's process, on the caller's module, and leaves both as they
were. The client, which may hold credentials, never imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan_job.finder.batch import FoundBatch, find_batch
from gpuplan_job.finder.errors import FindLrError, NoBatchError, NoLearningRateError
from gpuplan_job.finder.found import FoundLr
from gpuplan_job.finder.search import find_lr

if TYPE_CHECKING:
    from gpuplan_job.finder.callback import FindLearningRate

__all__ = [
    "FindLearningRate",
    "FindLrError",
    "FoundBatch",
    "FoundLr",
    "NoBatchError",
    "NoLearningRateError",
    "find_batch",
    "find_lr",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute
    # Whoever trains without Lightning need not have it.
    if name == "FindLearningRate":
        from gpuplan_job.finder.callback import FindLearningRate

        return FindLearningRate
    raise AttributeError(name)
