import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.core.frozen import Unknown
from gpuplan.planning.speed import throughput
from gpuplan.planning.speed.throughput import Hardware, Hours, StepLoad, StepTime, TimeEstimate
from gpuplan_job.step_trace import Operations, StepTrace
from unit.planning.tracing import of_kernels


def traced(parameters: int = 25_557_032, gflop: float = 8.2, megabytes: float = 130.0, kernels: int = 160) -> StepTrace:
    """Return a network of one kind of block; figures are of a sample's forward pass, backward is twice that."""
    half = kernels // 2
    rows = [
        ("convolution", half, gflop / half * 1e9, megabytes / 4 / half * 1e6, True),
        ("cudnn_batch_norm", half, 0.0, megabytes * 3 / 4 / half * 1e6, True),
        ("convolution_backward", half, 2 * gflop / half * 1e9, megabytes / 2 / half * 1e6, False),
        ("cudnn_batch_norm_backward", half, 0.0, megabytes * 3 / 2 / half * 1e6, False),
    ]
    zeros = [0.0] * len(rows)
    return of_kernels(
        Operations(
            name=[row[0] for row in rows],
            count=[row[1] for row in rows],
            flops_fixed=zeros,
            flops_per_sample=[row[2] for row in rows],
            bytes_fixed=zeros,
            bytes_per_sample=[row[3] for row in rows],
            forward=[row[4] for row in rows],
        ),
        trainable=4 * parameters,
    )


RESNET50 = traced()
A10G = Hardware(
    device="cuda",
    gpus=1,
    vcpus=4,
    peak_tflops=70.0,
    fp32_tflops=35.0,
    bandwidth_gbs=600.0,
    gpu="A10G",
    startup_minutes=(4.0, 7.0),
)
FOUR_A10G = A10G.model_copy(update={"gpus": 4, "vcpus": 48, "interconnect": "pcie"})
LAPTOP = Hardware(device="cpu", gpus=2, vcpus=4)
TENSORS = StepLoad(per_gpu_batch=64, accumulation=1, precision="16-mixed", jpeg=False)
JPEG = TENSORS.model_copy(update={"jpeg": True})
loads = st.builds(
    StepLoad,
    per_gpu_batch=st.integers(1, 1024),
    accumulation=st.integers(1, 16),
    precision=st.sampled_from(["fp32", "16-mixed", "bf16-mixed"]),
    jpeg=st.booleans(),
    workers=st.one_of(st.none(), st.integers(0, 16)),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    momentum=st.booleans(),
)
machines = st.sampled_from([A10G, FOUR_A10G, LAPTOP])


def step(load: StepLoad = TENSORS, hardware: Hardware = A10G, trace: StepTrace = RESNET50) -> StepTime:
    result = throughput.step_time(trace, load, hardware)
    assert isinstance(result, StepTime)
    return result


def trained(load: StepLoad, hardware: Hardware, steps: int, val_samples: int = 0) -> TimeEstimate:
    result = throughput.train(step(load, hardware), load, hardware, steps=steps, val_samples=val_samples)
    assert isinstance(result, TimeEstimate)
    return result


@given(loads, machines, st.integers(1, 1_000_000), st.integers(1, 1000))
def test_more_steps_take_longer(load: StepLoad, hardware: Hardware, steps: int, more: int) -> None:
    short, long = trained(load, hardware, steps), trained(load, hardware, steps + more)
    assert long.hours.p50 > short.hours.p50
    assert long.hours.p90 > short.hours.p90


@given(loads, machines, st.integers(0, 10**7), st.integers(1, 10**6))
def test_more_validation_takes_longer(load: StepLoad, hardware: Hardware, samples: int, more: int) -> None:
    assert trained(load, hardware, 10, samples + more).hours.p50 > trained(load, hardware, 10, samples).hours.p50


@given(loads, machines, st.integers(1, 512))
def test_a_larger_batch_never_makes_a_step_shorter(load: StepLoad, hardware: Hardware, more: int) -> None:
    larger = load.model_copy(update={"per_gpu_batch": load.per_gpu_batch + more})
    assert step(larger, hardware).seconds >= step(load, hardware).seconds


@given(loads, machines, st.integers(1, 100_000))
def test_p90_is_never_below_p50_and_nothing_is_free(load: StepLoad, hardware: Hardware, steps: int) -> None:
    result = trained(load, hardware, steps)
    assert 0 < result.hours.p50 <= result.hours.p90
    assert result.samples_per_second > 0


@given(loads)
def test_fp32_is_never_faster_than_mixed_precision_on_a_gpu(load: StepLoad) -> None:
    full, half = (load.model_copy(update={"precision": p}) for p in ("fp32", "bf16-mixed"))
    assert step(full, trace=traced(megabytes=260.0)).seconds >= step(half).seconds


def test_resnet50_on_an_a10g_lies_where_such_gpus_were_measured() -> None:
    # An RTX 3090, with 1.56 times the bandwidth, was measured at some 700 images/s.
    assert 300 < 64 / step().seconds < 700


def test_four_gpus_do_almost_four_times_the_work() -> None:
    one, four = 64 / step().seconds, 256 / step(TENSORS, FOUR_A10G).seconds
    assert 3.2 * one < four < 4 * one


def nodes(count: int, gbps: float | None = 40.0) -> Hardware:
    """Return `count` machines of four A10G each."""
    several = {"gpus": 4 * count, "vcpus": 48 * count, "nodes": count, "network_gbps": gbps}
    return FOUR_A10G.model_copy(update=several)


@given(loads, st.integers(1, 32), st.integers(1, 32), st.floats(0.5, 4000))
def test_more_nodes_never_make_a_step_shorter_nor_an_epoch_longer_on_a_fast_network(
    load: StepLoad, few: int, more: int, gbps: float
) -> None:
    small, large = step(load, nodes(few, gbps)), step(load, nodes(few + more, gbps))
    assert large.seconds >= small.seconds * (1 - 1e-9)
    assert step(load, nodes(few + more, 1e6)).seconds / (few + more) <= step(load, nodes(few, 1e6)).seconds / few


@given(loads, st.integers(2, 32), st.floats(0.5, 4000), st.floats(1, 10))
def test_a_faster_network_never_makes_a_step_longer(load: StepLoad, count: int, gbps: float, faster: float) -> None:
    assert step(load, nodes(count, gbps * faster)).seconds <= step(load, nodes(count, gbps)).seconds


def test_two_nodes_send_their_gradients_over_the_network() -> None:
    large = traced(parameters=1_000_000_000)
    slow, fast = (step(TENSORS, nodes(2, gbps), large) for gbps in (10.0, 1e6))
    assert slow.bound == "all-reduce"
    # 4 GB of gradients each way at 70 % of 10 Gbit/s instead of the ring inside a node at 5 GB/s.
    assert slow.seconds - fast.seconds == pytest.approx(4e9 / (0.7 * 10e9 / 8) - 2 * 7 / 8 * 4e9 / 5e9, rel=0.05)


def test_the_network_of_one_node_does_not_matter() -> None:
    assert step(TENSORS, nodes(1, None)) == step(TENSORS, nodes(1, 0.001)) == step(TENSORS, FOUR_A10G)


def test_an_unknown_network_between_nodes_has_an_unknown_time() -> None:
    found = throughput.step_time(RESNET50, TENSORS, nodes(2, None))
    assert isinstance(found, Unknown)
    assert "network" in found.unknown


def test_few_cores_that_decode_jpeg_bound_a_fast_gpu() -> None:
    assert step(JPEG).bound == "data loading"
    assert step(TENSORS).bound != "data loading"


def test_few_workers_bound_a_gpu_that_many_cores_could_feed() -> None:
    many = A10G.model_copy(update={"vcpus": 64})
    assert step(JPEG, many).bound != "data loading"
    assert step(JPEG.model_copy(update={"workers": 2}), many).bound == "data loading"


def test_without_workers_the_training_process_loads_between_its_steps() -> None:
    alone, beside = (step(JPEG.model_copy(update={"workers": workers})) for workers in (0, 1))
    assert alone.seconds == pytest.approx(beside.seconds + step(TENSORS).seconds, rel=0.01)


def test_a_slow_wire_bounds_many_weights_on_few_samples() -> None:
    large = traced(parameters=1_000_000_000)
    assert step(TENSORS.model_copy(update={"per_gpu_batch": 1}), FOUR_A10G, large).bound == "all-reduce"


def test_the_last_bucket_of_gradients_is_waited_for_however_long_the_backward_pass_is() -> None:
    one, four = (step(TENSORS, FOUR_A10G.model_copy(update={"gpus": gpus})).seconds for gpus in (1, 4))
    # 25 MiB to and from each of four GPUs at 5 GB/s, on top of what several GPUs wait for each other.
    assert four - 1.035 * one > 0.9 * 1.5 * 25 * 2**20 / 5e9


def test_kernels_that_compute_much_for_what_they_move_are_bound_by_compute_others_by_memory_bandwidth() -> None:
    assert step(trace=traced(gflop=100.0, megabytes=10.0)).bound == "compute"
    assert step(trace=traced(gflop=1.0, megabytes=1000.0)).bound == "memory bandwidth"


def test_a_step_of_tiny_images_takes_as_long_as_its_kernel_launches() -> None:
    tiny = step(trace=traced(gflop=1e-6, megabytes=1e-6))
    assert tiny.bound == "launch"
    # 320 launches, 30 microseconds in the forward pass and 12 in the backward pass.
    assert 0.006 < tiny.seconds < 0.02


@given(loads)
def test_adamw_never_makes_a_step_shorter_than_sgd_does(load: StepLoad) -> None:
    sgd, adamw = (load.model_copy(update={"optimizer": name}) for name in ("sgd", "adamw"))
    large = traced(parameters=1_000_000_000)
    assert step(adamw, A10G, large).seconds >= step(sgd, A10G, large).seconds


def test_a_gpu_with_published_speeds_has_a_narrower_band() -> None:
    assert step(hardware=A10G.model_copy(update={"gpu": "A100-40GB"})).spread < step(hardware=A10G).spread


def test_fp32_without_tf32_takes_longer() -> None:
    full = TENSORS.model_copy(update={"precision": "fp32"})
    turing = A10G.model_copy(update={"tf32": False, "fp32_tflops": 8.0})
    assert step(full, turing).seconds > step(full, A10G).seconds


def test_processes_that_share_the_cores_of_a_cpu_share_their_speed() -> None:
    alone = LAPTOP.model_copy(update={"gpus": 1})
    assert step(TENSORS, LAPTOP).seconds > 1.5 * step(TENSORS, alone).seconds


def test_startup_is_paid_and_named_where_it_outweighs_the_work() -> None:
    result = trained(TENSORS, A10G, steps=1)
    assert result.bound == "start-up"
    assert result.hours.p50 > 4 / 60
    assert result.hours.p90 > 7 / 60


def test_an_lr_range_test_pays_its_steps_and_its_noise_micro_batches() -> None:
    one = step()
    found = throughput.lr_find(one, TENSORS, A10G, steps=300, noise_micro_batches=16)
    assert isinstance(found, TimeEstimate)
    assert found.hours.p50 == pytest.approx((4 * 60 + 316 * one.seconds) / 3600)


def test_a_measured_step_replaces_the_guess_with_a_narrower_band() -> None:
    guess = trained(TENSORS, A10G, 10_000)
    measured = throughput.from_measured(step().seconds, 10_000, A10G.startup_minutes, 64)
    assert measured.hours.p50 == pytest.approx(guess.hours.p50)
    assert measured.hours.p90 < guess.hours.p90
    assert measured.bound == "measured"


def test_accumulation_multiplies_the_work_of_a_step() -> None:
    four = TENSORS.model_copy(update={"accumulation": 4})
    assert step(four).seconds == pytest.approx(4 * step().seconds, rel=0.05)


def test_an_unknown_model_or_gpu_has_an_unknown_time_all_the_way() -> None:
    missing = Unknown(unknown="no such model")
    assert throughput.step_time(missing, TENSORS, A10G) == missing
    assert throughput.train(missing, TENSORS, A10G, steps=1, val_samples=0) == missing
    assert throughput.lr_find(missing, TENSORS, A10G, steps=1, noise_micro_batches=0) == missing
    for figure in ("peak_tflops", "fp32_tflops", "bandwidth_gbs"):
        nameless = A10G.model_copy(update={figure: None})
        assert isinstance(throughput.step_time(RESNET50, TENSORS, nameless), Unknown)
    apple = A10G.model_copy(update={"device": "mps"})
    assert isinstance(throughput.step_time(RESNET50, TENSORS, apple), Unknown)


def test_the_estimate_survives_json() -> None:
    hours = Hours(p50=1.5, p90=2.0)
    assert Hours.model_validate_json(hours.canonical_json()) == hours
