from hypothesis import given
from hypothesis import strategies as st

from gpuplan.planning.speed.data_loading import loading
from gpuplan.planning.speed.machine import Hardware, StepLoad

JPEG = StepLoad(per_gpu_batch=64, accumulation=1, precision="bf16-mixed", jpeg=True)
FINDER = Hardware(device="cuda", gpus=1, vcpus=4)


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 256))
def test_processes_are_workers_of_all_gpus_but_never_more_than_vcpus(workers: int, gpus: int, vcpus: int) -> None:
    machine = FINDER.model_copy(update={"gpus": gpus, "vcpus": vcpus})
    assert loading(JPEG.model_copy(update={"workers": workers}), machine).processes == min(vcpus, workers * gpus)


def test_four_vcpus_decode_some_four_hundred_images_a_second() -> None:
    assert 300 < 64 / loading(JPEG, FINDER).seconds < 500


def test_four_processes_open_some_eighty_images_a_second_on_s3() -> None:
    streamed = JPEG.model_copy(update={"streamed": True})
    assert 60 < 64 / loading(streamed, FINDER).seconds < 100
    assert loading(streamed, FINDER).seconds > loading(JPEG, FINDER).seconds


def test_loading_is_beside_the_gpu_only_where_workers_do_it() -> None:
    assert loading(JPEG, FINDER).beside
    assert not loading(JPEG.model_copy(update={"workers": 0}), FINDER).beside
    assert not loading(JPEG, FINDER.model_copy(update={"device": "cpu"})).beside


def test_tensors_in_memory_cost_less_than_files_to_decode() -> None:
    assert loading(JPEG.model_copy(update={"jpeg": False}), FINDER).seconds < loading(JPEG, FINDER).seconds / 10
