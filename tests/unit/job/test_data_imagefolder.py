"""Folders of images: counted as they are loaded, split for good, and every fault in them named."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gpuplan_job import data, loaders
from gpuplan_job.data import DataError, _image_listing


def fill(folder: Path, classes: dict[str, int], side: int = 20) -> None:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", (side, side + 4), (number % 256, 0, 0)).save(folder / name / f"{number}.png")


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


def test_bare_class_folders_hold_about_a_tenth_out_and_new_images_move_no_old_one(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 200, "dog": 100}, side=1)
    before = _image_listing.scan(str(tmp_path))
    assert len(before.train) + len(before.val) == 300
    assert 15 <= len(before.val) <= 45
    assert not set(before.train) & set(before.val)
    assert before == _image_listing.scan(str(tmp_path))
    fill(tmp_path / "cat", {"more": 300}, side=1)
    after = _image_listing.scan(str(tmp_path))
    assert set(before.train) < set(after.train)
    assert set(before.val) < set(after.val)


def test_the_split_does_not_depend_on_where_the_folder_is(tmp_path: Path) -> None:
    for root in (tmp_path / "here", tmp_path / "over" / "there"):
        fill(root, {"cat": 60, "dog": 20}, side=1)
    here, there = (
        [Path(path).relative_to(root) for path, _ in _image_listing.scan(str(root)).val]
        for root in (tmp_path / "here", tmp_path / "over" / "there")
    )
    assert here == there


@settings(max_examples=25)
@given(st.integers(2, 12), st.integers(2, 12))
def test_every_class_is_both_trained_on_and_validated_with(cats: int, dogs: int) -> None:
    with TemporaryDirectory() as folder:
        for name, count in (("cat", cats), ("dog", dogs)):
            (Path(folder) / name).mkdir()
            for number in range(count):
                (Path(folder) / name / f"{number}.jpg").touch()
        found = _image_listing.scan(folder)
        assert {label for _, label in found.train} == {label for _, label in found.val} == {0, 1}
        described = data.describe(f"imagefolder:{folder}")
        loaded = data.load(f"imagefolder:{folder}", 32)
        assert [loaders.sample_count(part) for part in loaded] == [described.train_samples, described.val_samples]


def test_a_load_takes_the_listing_just_described_and_the_next_one_looks_again(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 3, "dog": 3})
    fill(tmp_path / "val", {"cat": 1, "dog": 1})
    spec = f"imagefolder:{tmp_path}"
    described = data.describe(spec)
    fill(tmp_path / "train", {"cat": 5})
    counts = [loaders.sample_count(data.load(spec, 32)[0]) for _ in range(2)]
    assert counts == [described.train_samples, 8]
    assert data.describe(spec).train_samples == 8


def test_of_many_files_the_sizes_of_some_stand_for_all(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(1200):
            (tmp_path / name / f"{number:04}.jpg").write_bytes(b"1234")
    train = [path for path, _ in _image_listing.scan(str(tmp_path)).train]
    assert len(train) > 2000
    # The second of the listing lies between two that are sized; the first is always among them.
    Path(train[1]).write_bytes(b"1" * 10**6)
    assert data.describe(f"imagefolder:{tmp_path}").bytes_per_sample == 4
    Path(train[0]).write_bytes(b"1" * 10**6)
    assert data.describe(f"imagefolder:{tmp_path}").bytes_per_sample > 4


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS allows UTF-8 names alone")
def test_names_that_are_not_utf_8_count_like_any_other(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 3, "dog": 3})
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / os.fsdecode(b"caf\xe9.png"))
    described = data.describe(f"imagefolder:{tmp_path}")
    assert (described.train_samples, described.val_samples) == (4, 2)
    train, val = data.load(f"imagefolder:{tmp_path}", 32)
    assert all(part[index][0].shape == (3, 32, 32) for part in (train, val) for index in range(2))


def test_hidden_files_and_macos_leavings_do_not_count_at_any_depth(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 3, "dog": 3, "__MACOSX": 2})
    fill(tmp_path / "cat", {".ipynb_checkpoints": 2, "young": 2})
    fill(tmp_path / "cat" / "young", {".thumbnails": 2})
    (tmp_path / "dog" / "._0.png").write_bytes(b"AppleDouble")
    found = _image_listing.scan(str(tmp_path))
    assert found.classes == ["cat", "dog"]
    assert len(found.train) + len(found.val) == 8


@pytest.mark.parametrize("name", ["grey.png", "little.tif", "big.tif"])
def test_16_bit_images_keep_their_greys(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "train", {"cat": 1, "dog": 1})
    fill(tmp_path / "val", {"cat": 1, "dog": 1})
    (tmp_path / "val" / "cat" / "0.png").unlink()
    mode = "I;16B" if name == "big.tif" else "I;16"
    pixel = (100 * 257).to_bytes(2, "big" if mode == "I;16B" else "little")
    Image.frombytes(mode, (32, 32), pixel * 32 * 32).save(tmp_path / "val" / "cat" / name)
    image, label = data.load(f"imagefolder:{tmp_path}", 32)[1][0]
    # Undo the normalization of the red channel.
    assert label == 0
    assert image[0] * 0.229 + 0.485 == pytest.approx(100 / 255, abs=1e-5)


@pytest.mark.parametrize(("mode", "value"), [("I", 70_000), ("F", 0.5)])
def test_images_whose_white_is_not_known_are_refused(tmp_path: Path, mode: str, value: float) -> None:
    fill(tmp_path / "train", {"cat": 1, "dog": 1})
    fill(tmp_path / "val", {"cat": 1, "dog": 1})
    Image.new(mode, (32, 32), value).save(tmp_path / "val" / "cat" / "0.tif")
    with pytest.raises(DataError, match=rf"cat.0\.tif .* mode {mode}: convert it to 8 bits"):
        data.load(f"imagefolder:{tmp_path}", 32)[1][1]


def test_a_link_to_nowhere_is_refused_in_words(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"cat": 1, "dog": 1})
    fill(tmp_path / "val", {"cat": 1, "dog": 1})
    (tmp_path / "train" / "cat" / "9.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"cannot read .*9\.png: No such file"):
        data.describe(f"imagefolder:{tmp_path}")


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


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_a_damaged_image_is_named(tmp_path: Path, content: bytes) -> None:
    fill(tmp_path, {"cat": 3, "dog": 3})
    for damaged in (tmp_path / "cat").iterdir():
        damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read the image .*cat.*\.png.*replace or remove"):
        data.load(f"imagefolder:{tmp_path}", 32)[0][0]
