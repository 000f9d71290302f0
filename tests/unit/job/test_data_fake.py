"""Made-up data: the shape asked for, the same every time, learnable, and no fault in a specification gets through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpuplan_job import data, loaders
from gpuplan_job.data import DataError


@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.integers(2, 9), st.integers(18, 10**9))
def test_the_description_matches_what_is_loaded(
    channels: int, height: int, width: int, classes: int, samples: int
) -> None:
    spec = f"fake:{channels}x{height}x{width}:{classes}:{samples}"
    description = data.describe(spec)
    train, val = data.load(spec, None)
    assert (description.train_samples, description.val_samples) == (
        loaders.sample_count(train),
        loaders.sample_count(val),
    )
    assert description.train_samples + description.val_samples == samples
    assert val[0][0].shape == (channels, height, width)


def test_a_sample_is_the_same_every_time_and_unlike_its_neighbours() -> None:
    first, again = data.load("fake:3x8x8:2:100", None)[0], data.load("fake:3x8x8:2:100", None)[0]
    assert torch.equal(first[7][0], again[7][0])
    assert not torch.equal(first[7][0], first[9][0])
    assert first[7][1] == first[9][1]


def test_validation_samples_are_no_training_samples_and_hold_every_class() -> None:
    train, val = data.load("fake:1x4x4:10:200", None)
    assert {val[index][1] for index in range(20)} == set(range(10))
    assert not any(torch.equal(train[index][0], val[0][0]) for index in range(180))


def test_the_class_shows_in_the_image() -> None:
    train, val = data.load("fake:1x16x16:3:600", None)
    centres = torch.stack([torch.stack([train[i][0] for i in range(k, 300, 3)]).mean(0) for k in range(3)])
    distances = torch.stack([((centres - val[i][0]) ** 2).sum((1, 2, 3)) for i in range(60)])
    right = (distances.argmin(1) == torch.tensor([val[i][1] for i in range(60)])).float().mean()
    assert right.item() > 0.95


def test_an_image_size_replaces_height_and_width() -> None:
    assert data.load("fake:3x8x10:2:50", 12)[0][0][0].shape == (3, 12, 12)


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "3x32x32",
        "3x32:10:100",
        "3x32x32:10",
        "0x8x8:2:50",
        "3x8x8:1:50",
        "3x8x8:10:19",
        "-3x8x8:2:50",
        "3x8x8:2:5e3",
    ],
)
def test_a_malformed_argument_is_refused(argument: str) -> None:
    with pytest.raises(DataError, match="fake"):
        data.describe(f"fake:{argument}")


@given(st.text(alphabet="0123456789x:-. e٣", max_size=30))
def test_any_argument_describes_or_raises_data_error(argument: str) -> None:
    try:
        assert data.describe(f"fake:{argument}").train_samples > 0
    except DataError:
        return
