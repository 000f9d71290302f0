"""Which precision a device really runs. Standard library only; the client asks before a job, the job when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuplan_job.contract import Precision


def effective(precision: Precision, device: str) -> Precision:
    """Return what a type of device runs: 16-mixed needs CUDA, a CPU or an Apple GPU runs it as bf16-mixed."""
    # float16 has no use on a CPU; on MPS the loss scaler of torch 2.6 fails for want of float64.
    return "bf16-mixed" if precision == "16-mixed" and device != "cuda" else precision
