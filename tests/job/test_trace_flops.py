"""A trace counts the arithmetic of grouped convolutions as what it is: torch's own count ignores their groups."""

import pytest

from gpuplan_job.step_trace import InputSpec, TraceRequest
from gpuplan_job.trace.step import trace


@pytest.mark.parametrize("suffix", ["", "/depthwise"])
def test_the_backward_pass_of_convolutions_costs_twice_the_forward_pass(suffix: str) -> None:
    of = trace(TraceRequest("mobilenet_v2", InputSpec("images", 3, 64, 64, 10), "fp32")).operations
    flops = dict.fromkeys(of.name, 0.0)
    for name, count, each in zip(of.name, of.count, of.flops_per_sample, strict=True):
        flops[name] += count * each
    # The first convolution, a plain one, needs no gradient of its input.
    assert 1.8 < flops[f"convolution_backward{suffix}"] / flops[f"convolution{suffix}"] <= 2
