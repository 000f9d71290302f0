"""Seconds of DistributedDataParallel's all-reduce that the backward pass does not hide.

Called by `throughput`. Pure arithmetic. Standing of each figure: docs/estimates-time.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuplan.planning.speed.machine import Hardware

_RING_GBS = {"pcie": 5.0, "nvlink": 50.0, "nvswitch": 100.0}
"""Bandwidth of a ring in one direction, where the profile has no figure. PCIe is shared with the host and 8 lanes
wide on g5; two RTX 3090 on 16 lanes show 7 or more."""
_RING_SHARE = 1 / 3
"""Of a published bidirectional bandwidth, what a ring reaches in one direction."""
NETWORK_SHARE = 0.7
"""Of an instance's baseline network bandwidth, what gradients reach, and data from S3."""
_LAST_BUCKET_BYTES = 25 * 2**20
"""DDP's bucket_cap_mb: the last bucket is full when the backward pass is over, so nothing hides it."""
_BITS = 8
_GIGA = 1e9


def all_reduce_seconds(gradient_bytes: float, hardware: Hardware) -> float:
    """Return the seconds of a ring all-reduce: each GPU sends and receives 2 (n - 1) / n of the gradients.

    Over several machines the slower of the two rings counts, the one between the GPUs of a machine or the one between
    the machines, whose bandwidth all GPUs of a machine share; `network_gbps` must be known there.
    """
    between = 0.0
    if hardware.nodes > 1 and hardware.network_gbps is not None:
        sent = 2 * (hardware.nodes - 1) / hardware.nodes * gradient_bytes
        between = sent / (NETWORK_SHARE * hardware.network_gbps / _BITS * _GIGA)
    return max(between, _within_machine_seconds(gradient_bytes, hardware))


def exposed_seconds(gradient_bytes: float, backward_seconds: float, hardware: Hardware) -> float:
    """Return what a step waits for the all-reduce: its last bucket, and what backward was too short to hide."""
    reduce = all_reduce_seconds(gradient_bytes, hardware)
    last = reduce * min(1.0, _LAST_BUCKET_BYTES / max(gradient_bytes, 1.0))
    return last + max(0.0, reduce - last - backward_seconds)


def _within_machine_seconds(gradient_bytes: float, hardware: Hardware) -> float:
    if hardware.gpus == 1 or hardware.interconnect == "single-gpu":
        return 0.0
    ring = _RING_GBS[hardware.interconnect]
    if hardware.interconnect_gbs_per_gpu is not None:
        ring = _RING_SHARE * hardware.interconnect_gbs_per_gpu
    return 2 * (hardware.gpus - 1) / hardware.gpus * gradient_bytes / (ring * _GIGA)
