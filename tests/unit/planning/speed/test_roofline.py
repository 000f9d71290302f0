import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.planning.speed import roofline
from gpuplan.planning.speed.roofline import Efficiency, Shares, Speeds
from gpuplan_job.step_trace import Operations, StepTrace
from unit.planning.tracing import of_kernels

A100 = Speeds(half_tflops=312, tf32_tflops=156, fp32_tflops=19.5, bandwidth_gbs=2039, mixed=True)
V100 = Speeds(half_tflops=125, tf32_tflops=None, fp32_tflops=15.7, bandwidth_gbs=900, mixed=False)
IDEAL = Shares(
    kinds={name: Efficiency(1, 1, 1, 1) for name in roofline.efficiencies().kinds}, gap_seconds=0.0, reach=0.0
)
Row = tuple[str, int, float, float, float, float, bool]


def of_rows(*rows: Row) -> StepTrace:
    """Return a trace of kernels: name, count, flops and bytes each fixed and per sample, forward."""
    name, count, flops_fixed, flops, bytes_fixed, moved, forward = (list(column) for column in zip(*rows, strict=True))
    return of_kernels(Operations(name, count, flops_fixed, flops, bytes_fixed, moved, forward))


operators = st.sampled_from(["convolution", "convolution_backward/depthwise", "mm", "bmm", "relu_", "add", "_softmax"])
figures = st.floats(0, 1e9)
rows = st.tuples(operators, st.integers(1, 100), figures, figures, figures, figures, st.booleans())
traces = st.lists(rows, min_size=1, max_size=8).map(lambda found: of_rows(*found))


@given(traces, st.integers(1, 4096))
def test_the_parts_add_up_to_the_whole(trace: StepTrace, batch: int) -> None:
    time = roofline.gpu_time(trace, batch, A100)
    gaps = (time.forward_launches + time.backward_launches) * roofline.efficiencies().gap_seconds
    assert time.computing + time.moving + gaps == pytest.approx(time.seconds)
    assert 0 <= time.backward <= time.seconds * (1 + 1e-9)


@given(traces, st.integers(1, 4096), st.floats(1, 10))
def test_a_gpu_with_higher_peaks_is_never_slower(trace: StepTrace, batch: int, more: float) -> None:
    better = A100._replace(bandwidth_gbs=A100.bandwidth_gbs * more, fp32_tflops=A100.fp32_tflops * more)
    best = better._replace(half_tflops=A100.half_tflops * more)
    one, other, last = (roofline.gpu_time(trace, batch, speeds).seconds for speeds in (A100, better, best))
    assert last <= other * (1 + 1e-9)
    assert other <= one * (1 + 1e-9)


@given(traces, st.integers(1, 2048))
def test_no_kernel_passes_the_published_peaks_by_more_than_the_cap(trace: StepTrace, batch: int) -> None:
    ideal = roofline.gpu_time(trace, batch, A100._replace(half_tflops=71 / 936 * 2039), IDEAL)
    assert roofline.gpu_time(trace, batch, A100._replace(half_tflops=71 / 936 * 2039)).seconds >= ideal.seconds / 1.1


def test_a_kernel_takes_the_longer_of_its_flops_and_its_bytes() -> None:
    time = roofline.gpu_time(of_rows(("mm", 3, 0.0, 312e9, 0.0, 2039e3, True)), 10, A100, IDEAL)
    assert time.seconds == pytest.approx(3 * 10 * 1e-3)
    assert (time.moving, time.backward, time.forward_launches) == (0, 0, 3)
    assert time.computing == pytest.approx(time.seconds)


def test_fp32_uses_tf32_for_convolutions_only_and_only_where_there_is_tf32() -> None:
    full = A100._replace(mixed=False)
    assert [roofline.arithmetic_of(kind, full) for kind in ("convolution", "matmul")] == ["tf32", "fp32"]
    assert roofline.arithmetic_of("matmul", full._replace(tf32_matmul=True)) == "tf32"
    assert roofline.arithmetic_of("convolution", V100) == "fp32"


def test_depthwise_convolutions_never_run_on_tensor_cores() -> None:
    assert roofline.arithmetic_of("depthwise convolution", A100) == "fp32"


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("convolution", "convolution"),
        ("convolution_backward", "convolution backward"),
        ("convolution_backward/grouped", "grouped convolution backward"),
        ("convolution/depthwise", "depthwise convolution"),
        ("cudnn_batch_norm_backward", "batch norm"),
        ("_scaled_dot_product_flash_attention_backward", "attention"),
        ("native_layer_norm", "layer norm"),
        ("max_pool2d_with_indices", "pooling"),
        ("_softmax_backward_data", "softmax"),
        ("addmm", "matmul"),
        ("_to_copy", "copy"),
        ("an operator of tomorrow", "pointwise"),
    ],
)
def test_each_operator_has_a_kind_with_shares(operator: str, kind: str) -> None:
    assert roofline.kind_of(operator) == kind
    assert kind in roofline.efficiencies().kinds


def test_what_starts_no_kernel_costs_nothing() -> None:
    time = roofline.gpu_time(of_rows(("_unsafe_view", 5, 0.0, 0.0, 1e9, 1e9, True)), 8, A100)
    assert (time.seconds, time.forward_launches) == (0, 0)


def test_the_shipped_shares_are_shares() -> None:
    shares = roofline.efficiencies()
    for kind, found in shares.kinds.items():
        assert all(0 < share <= 1.1 for share in found), kind
    assert 0 < shares.gap_seconds < 20e-6
    assert 0 <= shares.reach < 1
