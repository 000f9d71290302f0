"""Folders of images: counted as they are loaded, split for good, and every fault in them named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from gpuplan_job import data, loaders
from gpuplan_job.data import DataError, imagefolder

if TYPE_CHECKING:
    from pathlib import Path


def fill(folder: Path, classes: dict[str, int], side: int = 20) -> None:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", (side, side + 4), (number, 0, 0)).save(folder / name / f"{number}.png")


def test_train_and_val_folders_are_used_as_they_are(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 3, "dog": 4})
    fill(tmp_path / "val", {"cat": 1, "dog": 2})
    spec = f"imagefolder:{tmp_path}"
    description = data.describe(spec)
    train, val = data.load(spec, 32)
    assert (description.train_samples, description.val_samples, description.classes) == (7, 3, 2)
    assert (loaders.sample_count(train), loaders.sample_count(val)) == (7, 3)
    assert (description.channels, description.height, description.width) == (3, 224, 224)
    assert description.bytes_per_sample == pytest.approx(
        sum(path.stat().st_size for path in (tmp_path / "train").rglob("*.png")) / 7
    )
    assert [train[index][1] for index in range(7)] == [0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("side", [None, 64, 32])
def test_images_come_in_the_size_asked_for(tmp_path: Path, side: int | None) -> None:
    fill(tmp_path, {"cat": 4, "dog": 4})
    for part in data.load(f"imagefolder:{tmp_path}", side):
        assert part[0][0].shape == (3, side or 224, side or 224)


def test_bare_class_folders_are_split_by_class_and_the_split_survives_new_images(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 40, "dog": 20})
    before = imagefolder.scan(str(tmp_path))
    assert (len(before.train), len(before.val)) == (54, 6)
    assert not {path for path, _ in before.train} & {path for path, _ in before.val}
    assert before == imagefolder.scan(str(tmp_path))
    fill(tmp_path / "cat", {"more": 5})
    after = {path for path, _ in imagefolder.scan(str(tmp_path)).val}
    assert len(after & {path for path, _ in before.val}) >= 5


def test_hidden_folders_and_other_files_do_not_count(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 3, "dog": 3, ".cache": 2})
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "labels.csv").write_text("no class")
    assert data.describe(f"imagefolder:{tmp_path}").train_samples == 4


def test_a_missing_folder_an_empty_one_and_one_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        data.describe(f"imagefolder:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="holds 0 class folders"):
        data.describe(f"imagefolder:{tmp_path}")
    fill(tmp_path, {"cat": 3})
    with pytest.raises(DataError, match="holds 1 class folders"):
        data.describe(f"imagefolder:{tmp_path}")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"dog holds no image"):
        data.describe(f"imagefolder:{tmp_path}")
    fill(tmp_path, {"dog": 1})
    with pytest.raises(DataError, match="class 'dog' has a single image"):
        data.describe(f"imagefolder:{tmp_path}")


def test_a_path_that_is_a_file_and_no_path_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Not a directory"):
        data.describe(f"imagefolder:{tmp_path / 'file'}")
    with pytest.raises(DataError, match="needs a path"):
        data.describe("imagefolder")


def test_train_without_val_and_unequal_classes_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 3, "dog": 4})
    with pytest.raises(DataError, match="val is missing"):
        data.describe(f"imagefolder:{tmp_path}")
    fill(tmp_path / "val", {"cat": 3, "doge": 4})
    with pytest.raises(DataError, match="only in one: dog, doge"):
        data.describe(f"imagefolder:{tmp_path}")


def test_s3_is_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match="use a local path"):
        data.describe("imagefolder:s3://bucket/images")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_a_damaged_image_is_named(tmp_path: Path, content: bytes) -> None:
    fill(tmp_path, {"cat": 3, "dog": 3})
    for damaged in (tmp_path / "cat").iterdir():
        damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read the image .*cat.*\.png.*replace or remove"):
        data.load(f"imagefolder:{tmp_path}", 32)[0][0]
