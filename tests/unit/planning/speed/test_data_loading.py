from hypothesis import given
from hypothesis import strategies as st

from gpuplan.planning.speed.data_loading import MOST_WORKERS, loading, workers
from gpuplan.planning.speed.machine import Hardware, StepLoad

JPEG = StepLoad(per_gpu_batch=64, accumulation=1, precision="bf16-mixed", jpeg=True)
FINDER = Hardware(device="cuda", gpus=1, vcpus=4)


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 256))
def test_workers_of_all_gpus_load_and_never_faster_than_the_vcpus_decode(asked: int, gpus: int, vcpus: int) -> None:
    machine = FINDER.model_copy(update={"gpus": gpus, "vcpus": vcpus})
    found = loading(JPEG.model_copy(update={"workers": asked}), machine)
    assert found.processes == asked * gpus
    assert abs(64 * gpus / found.seconds - 100 * min(vcpus, asked * gpus)) < 1e-6 * vcpus


@given(st.integers(1, 16), st.integers(1, 256), st.booleans())
def test_a_machine_s_workers_follow_its_vcpus_and_leave_the_training_one(
    gpus: int,
    vcpus: int,
    streamed: bool,  # noqa: FBT001 - hypothesis passes by name
) -> None:
    machine = FINDER.model_copy(update={"gpus": gpus, "vcpus": vcpus})
    number = workers(machine, None, streamed=streamed).number
    assert 1 <= number <= MOST_WORKERS
    if not streamed and vcpus >= 2 * gpus:
        assert (number + 1) * gpus <= vcpus


def test_what_the_user_asks_for_goes_over_what_the_machine_says() -> None:
    assert workers(FINDER, 0, streamed=False).number == 0
    assert workers(FINDER, 40, streamed=True) == (40, "as asked")


def test_the_number_of_workers_says_where_it_comes_from() -> None:
    four = FINDER.model_copy(update={"gpus": 4, "vcpus": 48})
    assert workers(FINDER, None, streamed=False) == (3, "4 vCPUs - 1")
    assert workers(four, None, streamed=False) == (11, "48 vCPUs / 4 GPUs - 1")
    assert workers(FINDER, None, streamed=True) == (8, "2 x 4 vCPUs: they wait for S3")
    assert workers(four.model_copy(update={"vcpus": 192}), None, streamed=False) == (
        16,
        "the most of 192 vCPUs / 4 GPUs - 1",
    )
    assert workers(FINDER.model_copy(update={"vcpus": 1}), None, streamed=False) == (1, "1 vCPU")


def test_training_on_cpus_gets_no_workers_that_compete_with_it() -> None:
    assert workers(FINDER.model_copy(update={"device": "cpu"}), None, streamed=False).number == 0


def test_four_vcpus_decode_some_four_hundred_images_a_second() -> None:
    assert 300 < 64 / loading(JPEG, FINDER).seconds < 500


def test_four_processes_open_some_eighty_images_a_second_on_s3_and_eight_twice_as_many() -> None:
    streamed = JPEG.model_copy(update={"streamed": True})
    eight = streamed.model_copy(update={"workers": 8})
    assert loading(eight, FINDER).seconds * 2 == loading(streamed, FINDER).seconds
    assert 60 < 64 / loading(streamed, FINDER).seconds < 100
    assert loading(streamed, FINDER).seconds > loading(JPEG, FINDER).seconds


def test_loading_is_beside_the_gpu_only_where_workers_do_it() -> None:
    assert loading(JPEG, FINDER).beside
    assert not loading(JPEG.model_copy(update={"workers": 0}), FINDER).beside
    assert not loading(JPEG, FINDER.model_copy(update={"device": "cpu"})).beside


def test_tensors_in_memory_cost_less_than_files_to_decode() -> None:
    assert loading(JPEG.model_copy(update={"jpeg": False}), FINDER).seconds < loading(JPEG, FINDER).seconds / 10
