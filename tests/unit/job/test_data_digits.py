"""The shipped digits: what is described is what is loaded, and every image is used once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from gpuplan_job import data, loaders
from gpuplan_job.data import DataError, digits


def test_the_description_matches_the_archive() -> None:
    description = data.describe("digits")
    train, val = data.load("digits", None)
    assert (description.train_samples, description.val_samples) == (1437, 360)
    assert (loaders.sample_count(train), loaders.sample_count(val)) == (1437, 360)
    image, label = train[0]
    assert image.shape == (description.channels, description.height, description.width)
    assert 0 <= label < description.classes


def test_the_split_uses_each_image_once_and_validates_each_class_equally() -> None:
    with np.load(digits.ARCHIVE) as stored:
        assert sorted([*stored["train"].tolist(), *stored["val"].tolist()]) == list(range(1797))
        assert np.bincount(stored["labels"][stored["val"]]).tolist() == [36] * 10


def test_training_images_have_zero_mean_and_unit_variance() -> None:
    images, _ = next(iter(DataLoader(data.load("digits", None)[0], batch_size=1437)))
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-4)


def test_an_image_size_resizes() -> None:
    assert data.load("digits", 16)[1][0][0].shape == (1, 16, 16)
    assert torch.equal(data.load("digits", 8)[0][0][0], data.load("digits", None)[0][0][0])


def test_an_argument_is_refused() -> None:
    with pytest.raises(DataError, match="use --data digits"):
        data.describe("digits:big")


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="digits, fake, imagefolder"):
        data.describe("cifar")
