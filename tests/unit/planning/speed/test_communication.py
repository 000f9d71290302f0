import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.planning.speed.communication import all_reduce_seconds, exposed_seconds
from gpuplan.planning.speed.machine import Hardware

EIGHT = Hardware(device="cuda", gpus=8, vcpus=96, interconnect="nvswitch", interconnect_gbs_per_gpu=600.0)
PAIR = Hardware(device="cuda", gpus=2, vcpus=16, interconnect="pcie")
gradients = st.floats(1, 1e11)


@given(gradients, st.floats(0, 100), st.floats(0, 100))
def test_a_longer_backward_pass_hides_more_but_never_the_last_bucket(size: float, short: float, more: float) -> None:
    exposed = exposed_seconds(size, short + more, PAIR)
    assert exposed <= exposed_seconds(size, short, PAIR)
    assert exposed >= all_reduce_seconds(min(size, 25 * 2**20), PAIR) * (1 - 1e-9)
    assert exposed_seconds(size, 0, PAIR) == pytest.approx(all_reduce_seconds(size, PAIR))


def test_one_gpu_reduces_nothing() -> None:
    assert exposed_seconds(1e9, 0, Hardware(device="cuda", gpus=1, vcpus=4)) == 0


def test_a_ring_sends_each_gradient_to_and_from_every_gpu_but_one() -> None:
    # 2 x 7/8 of 1 GB at a third of 600 GB/s.
    assert all_reduce_seconds(1e9, EIGHT) == pytest.approx(2 * 7 / 8 * 1e9 / 200e9)


@given(gradients)
def test_between_machines_the_slower_ring_counts(size: float) -> None:
    slow, fast = (EIGHT.model_copy(update={"gpus": 16, "nodes": 2, "network_gbps": gbps}) for gbps in (10.0, 1e6))
    assert all_reduce_seconds(size, slow) == pytest.approx(size / (0.7 * 10e9 / 8))
    assert all_reduce_seconds(size, fast) == pytest.approx(2 * 15 / 16 * size / 200e9)
