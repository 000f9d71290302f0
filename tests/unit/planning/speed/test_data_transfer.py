"""What data on S3 take before a job's first step: a copy goes by bytes and network, streaming by objects alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.planning.speed.data_transfer import list_requests, on_s3, startup_minutes, stored_bytes
from gpuplan.planning.speed.machine import Hardware
from gpuplan_job import data

if TYPE_CHECKING:
    from gpuplan_job.contract import DataDescription

IMAGENET = data.describe("imagenet")
MACHINE = Hardware(device="cuda", gpus=4, vcpus=48, network_gbps=40.0)
GBPS = st.floats(0.1, 10_000)
DATA = st.builds(
    lambda samples, size: replace(IMAGENET, train_samples=samples, bytes_per_sample=size),
    st.integers(1, 10**8),
    st.floats(1, 1e7),
)


def on(gbps: float | None) -> Hardware:
    return MACHINE.model_copy(update={"network_gbps": gbps})


def copying(description: DataDescription, gbps: float) -> float:
    """Return the p50 minutes."""
    found = startup_minutes("copied", description, on(gbps))
    assert found is not None
    return found[0]


def test_a_slow_network_is_what_a_copy_waits_for() -> None:
    # 146.4 GB over 0.7 x 1 Gbit/s.
    assert copying(IMAGENET, 1.0) == pytest.approx(146.42837 * 8 / 0.7 / 60)


def test_on_a_fast_network_a_copy_takes_what_aws_says_of_50_gb() -> None:
    fifty = replace(IMAGENET, train_samples=450_000, bytes_per_sample=100_000.0)
    assert stored_bytes(fifty) == 50e9
    assert copying(fifty, 400.0) == pytest.approx(5)


@given(DATA, GBPS, GBPS)
def test_a_faster_network_never_copies_slower_and_p90_is_twice_p50(
    description: DataDescription, one: float, other: float
) -> None:
    slow, fast = sorted((one, other))
    assert copying(description, fast) <= copying(description, slow)
    low, high = startup_minutes("copied", description, on(one)) or (0, 0)
    assert high == 2 * low > 0


@given(DATA)
def test_more_data_take_longer_either_way(description: DataDescription) -> None:
    more = replace(description, train_samples=2 * description.train_samples + 1000)
    for way in ("copied", "streamed"):
        before, after = (startup_minutes(way, some, MACHINE) for some in (description, more))
        assert before is not None
        assert after is not None
        assert before < after


def test_a_copy_over_a_network_that_nobody_knows_takes_nobody_knows_how_long() -> None:
    assert startup_minutes("copied", IMAGENET, on(None)) is None


@given(DATA, GBPS | st.none())
def test_streaming_lists_a_thousand_objects_in_a_tenth_of_a_second_on_any_machine(
    description: DataDescription, gbps: float | None
) -> None:
    found = startup_minutes("streamed", description, on(gbps))
    assert found is not None
    assert found[0] * 60 == pytest.approx(0.1 * list_requests(description))
    objects = description.train_samples + description.val_samples
    assert objects <= 1000 * list_requests(description) < objects + 1000


def test_what_is_described_before_it_is_there_will_be_on_s3() -> None:
    assert on_s3("imagenet", IMAGENET)
    for spec in ("imagenet:s3://bucket/x", "imagefolder:s3://bucket/x?train=9&val=9&classes=2&bytes=9"):
        assert on_s3(spec, data.describe(spec))
    for spec in ("digits", "fake:3x32x32:10:1000"):
        assert not on_s3(spec, data.describe(spec))
