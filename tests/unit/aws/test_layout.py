"""Keys and handles: what is put together comes apart again, and no name leads out of its place."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.aws import layout
from gpuplan.core import names

PREFIXES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.=-]{0,9}(/[A-Za-z0-9][A-Za-z0-9_.=-]{0,9}){0,2}", fullmatch=True)
RUNS = st.builds(
    names.run_id,
    st.text(max_size=40),
    st.datetimes(datetime(2020, 1, 1), datetime(2080, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    st.integers(0, 2**20 - 1),
)
"""Of whatever users call their models and data."""
STEPS = st.sampled_from(["lr-find", "train", "find-batch"])
ATTEMPTS = st.integers(1, 99)


@given(PREFIXES, RUNS, STEPS, ATTEMPTS)
def test_the_place_of_an_attempt_is_read_off_its_jobs_name(prefix: str, run: str, step: str, attempt: int) -> None:
    name = f"{run}-{step}-{attempt}"
    assert layout.place_of(prefix, name) == layout.attempt_place(prefix, run, step, attempt)
    assert layout.run_id(name) == run


@given(st.sampled_from(["us-east-1", "ap-southeast-2", "us-gov-west-1"]), RUNS, STEPS, ATTEMPTS)
def test_a_handle_is_a_url_that_gives_the_name_back(region: str, run: str, step: str, attempt: int) -> None:
    name = f"{run}-{step}-{attempt}"
    handle = layout.handle(region, name)
    assert handle == f"sagemaker://{region}/{name}"
    assert layout.job_name(handle) == name


@given(RUNS, STEPS, ATTEMPTS, RUNS, STEPS, ATTEMPTS)
def test_no_two_attempts_share_a_place(
    run: str, step: str, attempt: int, other_run: str, other_step: str, other_attempt: int
) -> None:
    here, there = (
        layout.attempt_place("p", run, step, attempt),
        layout.attempt_place("p", other_run, other_step, other_attempt),
    )
    assert (here == there) == ((run, step, attempt) == (other_run, other_step, other_attempt))
    assert here == there or not here.root.startswith(there.root)
    assert here == there or not here.mirrored("x").startswith(there.mirrored(""))
    assert (here.checkpoints == there.checkpoints) == ((run, step) == (other_run, other_step))


@given(PREFIXES, RUNS, STEPS, ATTEMPTS)
def test_everything_of_an_attempt_lies_below_its_root(prefix: str, run: str, step: str, attempt: int) -> None:
    place = layout.attempt_place(prefix, run, step, attempt)
    assert place.root == f"{prefix}/runs/{run}/{step}/{attempt}/"
    own = [place.output, place.published("exit.json"), place.file("lr_result.json")]
    shared = [place.checkpoints, place.mirrored("exit.json"), place.file("checkpoints/best.ckpt")]
    assert all(key.startswith(place.root) for key in own)
    assert all(key.startswith(place.checkpoints) for key in shared)
    assert all("//" not in key for key in (*own, *shared))
    assert len({*own, *shared}) == 6


def test_a_document_has_one_key_as_the_job_left_it_and_one_as_it_was_published() -> None:
    place = layout.attempt_place("gpuplan", "digits-0000000000001", "train", 2)
    root = "gpuplan/runs/digits-0000000000001/train"
    assert place.mirrored("train_result.json") == f"{root}/checkpoints/results/2/train_result.json"
    assert (
        place.published("train_result.json") == place.file("train_result.json") == f"{root}/2/results/train_result.json"
    )
    assert place.mirrored("x").startswith(place.checkpoints), "SageMaker mirrors nothing else while a job runs"
    assert not place.published("x").startswith(place.checkpoints), "a job that is stopped late must not write over it"
    assert place.file("checkpoints/epoch=4.ckpt") == f"{root}/checkpoints/epoch=4.ckpt"
    assert place.file("logs") == f"{root}/checkpoints/logs"
    assert place.file("logs/metrics.csv") == f"{root}/checkpoints/logs/metrics.csv"


@given(PREFIXES, st.from_regex(r"[0-9a-f]{64}", fullmatch=True))
def test_each_version_of_the_code_has_a_folder(prefix: str, sha256: str) -> None:
    assert layout.code_folder(prefix, sha256) == f"{prefix}/code/{sha256}/"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "train-1",
        "digits-train-1",
        "digits-0000000000001",
        "digits-0000000000001-train",
        "digits-0000000000001-train-",
        "digits-0000000000001-train-x",
        "digits-0000000000001-Train-1",
        "digits-000000000000-train-1",
        "digits-000000000000i-train-1",
        "digits-0000000000001/../../x-train-1\n",
        "0000000000001-train-1",
        "../../x-0000000000001-train-1",
        "other/runs/x-0000000000001-train-1",
        "x y-0000000000001-train-1",
        "digits-0000000000001-train-\u0661",
    ],
)
def test_what_is_no_name_of_a_job_of_gpuplan_has_no_place(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a gpuplan job"):
        layout.place_of("gpuplan", name)
    with pytest.raises(ValueError, match="no name of a gpuplan job"):
        layout.run_id(name)


@given(st.text(max_size=70))
def test_any_name_has_a_place_below_the_prefix_or_none(name: str) -> None:
    try:
        place = layout.place_of("gpuplan", name)
    except ValueError as error:
        assert repr(name) in str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert re.fullmatch(r"gpuplan/runs/[a-z0-9-]+/[a-z-]+/\d+/", place.root)


@given(st.text(max_size=70))
def test_any_text_is_no_handle_or_gives_a_name(text: str) -> None:
    assert layout.job_name(layout.handle("us-east-1", text)) == text
