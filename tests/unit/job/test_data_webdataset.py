"""WebDataset shards: every sample found once by its offset, and every fault in them named by shard and member."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tars
from gpuplan_job import data, loaders
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.data import TRAINING_CHANNEL_VARIABLE, DataError, _shards, _tar_index, webdataset
from gpuplan_job.sampling import EpochLayout

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache of a user who has none yet."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def fill(root: Path, train: int = 12, val: int = 4, shards: int = 2) -> str:
    """Write shards train-N and val-N with so many samples in each; return the spec of the folder."""
    for name, count in (("train", train), ("val", val)):
        for shard in range(shards if count else 0):
            tars.write(root / f"{name}-{shard:02}.tar", tars.samples(range(shard * count, (shard + 1) * count)))
    return f"webdataset:{root}"


def greys(spec: str) -> Iterator[list[tuple[int, int]]]:
    """Yield (grey, class) of each sample of training and validation, from the pixels that a job sees."""
    for part in data.load(spec, 8):
        pairs = [part[index] for index in range(loaders.sample_count(part))]
        # A black border may be shifted in while training: the brightest pixel of the red channel tells.
        yield [(round(float(image[0].max() * 0.229 + 0.485) * 255), label) for image, label in pairs]


def test_shards_named_train_and_val_are_used_as_they_are(tmp_path: Path) -> None:
    spec = fill(tmp_path)
    described = data.describe(spec)
    train, val = greys(spec)
    assert (described.train_samples, described.val_samples, described.classes) == (24, 8, 2)
    assert train == [(number, number % 2) for number in range(24)]
    assert val == [(number, number % 2) for number in range(8)]
    assert described.bytes_per_sample == pytest.approx(sum(len(tars.png(grey)) for grey in range(24)) / 24)
    assert (described.files, described.storage) == (4, "jpeg")


@pytest.mark.parametrize(
    "names", [("train/0.tar", "val/0.tar"), ("x-training-0.tar", "x-validation-0.tar"), ("a/train0.tar", "a/val0.tar")]
)
def test_folders_and_words_in_names_tell_what_is_validated_with(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, count in zip(names, (6, 4), strict=True):
        tars.write(tmp_path / name, tars.samples(range(count)))
    described = data.describe(f"webdataset:{tmp_path}")
    assert (described.train_samples, described.val_samples) == (6, 4)


def test_shards_of_one_kind_hold_about_a_tenth_of_each_class_out_for_good(tmp_path: Path) -> None:
    tars.write(tmp_path / "data-0.tar", tars.samples(range(200)))
    before = data.describe(f"webdataset:{tmp_path}")
    train, val = (set(part) for part in greys(f"webdataset:{tmp_path}"))
    assert before.train_samples + before.val_samples == 200
    assert 8 <= before.val_samples <= 35
    assert not train & val
    assert {label for _, label in val} == {0, 1}
    tars.write(tmp_path / "data-1.tar", tars.samples(range(200, 240)))
    later_train, later_val = (set(part) for part in greys(f"webdataset:{tmp_path}"))
    assert train < later_train
    assert val < later_val


def test_a_pattern_a_single_shard_and_a_folder_name_the_same_samples(tmp_path: Path) -> None:
    fill(tmp_path)
    pattern = f"webdataset:{tmp_path}/{{train-{{00..01}},val-{{00..01}}}}.tar"
    assert [*greys(pattern)] == [*greys(f"webdataset:{tmp_path}")]
    assert data.pinned(pattern) == pattern
    alone = data.describe(f"webdataset:{tmp_path}/train-00.tar")
    assert alone.train_samples + alone.val_samples == 12


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 3))
def test_ranks_share_out_every_sample_of_every_shard_once(counts: list[int], world_size: int, per_gpu: int) -> None:
    with TemporaryDirectory() as folder:
        first = 0
        for shard, count in enumerate(counts):
            tars.write(Path(folder, f"train-{shard}.tar"), tars.samples(range(first, first + 2 * count)))
            first += 2 * count
        tars.write(Path(folder, "val.tar"), tars.samples(range(4)))
        train, _ = data.load(f"webdataset:{folder}", 8)
        if first < per_gpu * world_size:
            return
        layout = TrainingLayout((EpochLayout(first, per_gpu, world_size, 1),))
        seen = [
            index for rank in range(world_size) for batch in loaders.EpochBatches(layout, 0, rank) for index in batch
        ]
        assert sorted(round(float(train[index][0][0].max() * 0.229 + 0.485) * 255) for index in seen) == list(
            range(first)
        )


def test_metadata_hidden_files_and_folders_are_nobodys_sample(tmp_path: Path) -> None:
    more = [("000000.json", b"{}"), ("._000001.png", b"AppleDouble"), ("README", b"text"), (".cache/7.png", b"")]
    tars.write(tmp_path / "train.tar", [*more, *tars.samples(range(4))])
    tars.write(tmp_path / "val.tar", tars.samples(range(4)))
    assert data.describe(f"webdataset:{tmp_path}").train_samples == 4


def test_members_of_a_sample_need_not_be_neighbours_and_long_names_are_whole(tmp_path: Path) -> None:
    long = "folder/" * 30 + "n"
    images = [(f"./{long}{number}.left.PNG", tars.png(number)) for number in range(4)]
    labels = [(f"{long}{number}.cls", b"%d\n" % (number % 2)) for number in range(4)]
    tars.write(tmp_path / "train.tar", [*images, *labels])
    tars.write(tmp_path / "val.tar", tars.samples(range(4)))
    assert next(greys(f"webdataset:{tmp_path}")) == [(0, 0), (1, 1), (2, 0), (3, 1)]


def refused(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    tars.write(tmp_path / "train.tar", [*tars.samples(range(2)), *members])
    tars.write(tmp_path / "val.tar", tars.samples(range(2)))
    with pytest.raises(DataError, match=message):
        data.describe(f"webdataset:{tmp_path}")


def test_a_sample_without_its_label_or_image_is_named(tmp_path: Path) -> None:
    refused(tmp_path, [("a/7.png", b"")], r"a/7\.png in the shard .*train\.tar has no label: 7\.cls is missing")
    refused(tmp_path, [("7.cls", b"0")], r"7\.cls in the shard .*train\.tar has no image beside it")


def test_a_key_that_comes_twice_is_named(tmp_path: Path) -> None:
    refused(tmp_path, tars.samples([1]), r"000001 has two images in the shard .*train\.tar: 000001\.png")
    refused(tmp_path, [("7.png", b""), ("7.seg.png", b"")], r"7 has two images .*: 7\.png and 7\.seg\.png")
    refused(tmp_path, [("000001.cls", b"1")], r"000001 has two labels")


@pytest.mark.parametrize("label", [b"", b"cat", b"-1", b"1.0", b"1" * 10, b" " * 99 + b"1"])
def test_a_label_that_is_no_class_number_is_named(tmp_path: Path, label: bytes) -> None:
    refused(tmp_path, [("7.png", b""), ("7.cls", label)], r"7\.cls in the shard .*train\.tar holds .*number of a class")


def test_a_class_that_is_skipped_or_only_validated_with_is_named(tmp_path: Path) -> None:
    refused(tmp_path, [("7.png", b""), ("7.cls", b"3")], r"no training sample is of class 2: labels count from 0 to 3")
    tars.write(tmp_path / "train.tar", tars.samples(range(2)))
    tars.write(tmp_path / "val.tar", tars.samples(range(3), classes=3))
    with pytest.raises(DataError, match=r"of class 2 \(validation has it\)"):
        data.describe(f"webdataset:{tmp_path}")
    for name in ("train", "val"):
        tars.write(tmp_path / f"{name}.tar", tars.samples(range(3), classes=1))
    with pytest.raises(DataError, match="hold 1 class: at least 2"):
        data.describe(f"webdataset:{tmp_path}")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12 * 1024 + 511))
def test_a_shard_that_is_cut_off_anywhere_before_its_end_mark_is_named(length: int) -> None:
    with TemporaryDirectory() as folder:
        shard = tars.write(Path(folder, "train.tar"), tars.samples(range(6)))
        whole = shard.read_bytes()
        # 6 samples, each two members of a header and a block of content: the end mark follows.
        assert not any(whole[12 * 1024 :])
        shard.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"shard .*train\.tar is (damaged|cut off)"):
            _tar_index.index(shard)


def test_a_shard_that_is_empty_or_no_tar_or_damaged_in_a_header_is_named(tmp_path: Path) -> None:
    shard = tars.write(tmp_path / "train.tar", tars.samples(range(6)))
    whole = shard.read_bytes()
    for content in (b"", b"no tar" * 999, whole[: 4 * 1024] + b"\xff" * 512 + whole[4 * 1024 + 512 :]):
        shard.write_bytes(content)
        with pytest.raises(DataError, match=r"shard .*train\.tar is (damaged|cut off)"):
            _tar_index.index(shard)


def test_a_compressed_shard_is_refused_by_name(tmp_path: Path) -> None:
    shard = tars.write(tmp_path / "train.tar", tars.samples(range(6)))
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    with pytest.raises(DataError, match=r"train\.tar is compressed \(gzip\).*unpack"):
        _tar_index.index(shard)


def test_a_link_in_a_shard_is_refused_by_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        link = tarfile.TarInfo("7.png")
        link.type, link.linkname = tarfile.LNKTYPE, "6.png"
        archive.addfile(link, io.BytesIO())
    with pytest.raises(DataError, match=r"7\.png in the shard .*train\.tar is no plain file"):
        _tar_index.index(tmp_path / "train.tar")


def test_a_damaged_image_is_named_by_shard_and_member(tmp_path: Path) -> None:
    tars.write(tmp_path / "train.tar", [("dir/7.png", tars.png(7)[:40]), ("dir/7.cls", b"0"), *tars.samples([1])])
    tars.write(tmp_path / "val.tar", tars.samples(range(2)))
    train, _ = data.load(f"webdataset:{tmp_path}", 8)
    with pytest.raises(DataError, match=r"cannot read the image dir/7\.png in the shard .*train\.tar: .*replace"):
        train[0]


def test_a_shard_that_goes_away_while_a_job_runs_is_named(tmp_path: Path) -> None:
    train, _ = data.load(fill(tmp_path), 8)
    (tmp_path / "train-01.tar").unlink()
    assert train[0][1] == 0
    with pytest.raises(DataError, match=r"cannot read the shard .*train-01\.tar: No such file"):
        train[12]


def test_an_index_is_kept_and_made_anew_where_the_shard_or_the_index_changes(tmp_path: Path, cache: Path) -> None:
    shard = tars.write(tmp_path / "train.tar", tars.samples(range(2)))
    found = _tar_index.index(shard)
    (kept,) = cache.rglob("*.json")
    assert _tar_index.index(shard) == found
    stamp, rows = json.loads(kept.read_text())
    kept.write_text(json.dumps([stamp, [[*row[:3], 7] for row in rows]]))
    assert [sample.label for sample in _tar_index.index(shard)] == [7, 7], "the second look is at the index"
    for damage in ("", "{}", '[["x"], [[1]]]'):
        kept.write_text(damage)
        assert _tar_index.index(shard) == found
    tars.write(shard, tars.samples(range(3)))
    assert len(_tar_index.index(shard)) == 3


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = tars.write(tmp_path / "train.tar", tars.samples(range(2)))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(_tar_index.index(shard)) == 2


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{a,b}-{0..1}", ["a-0", "a-1", "b-0", "b-1"]),
        ("{train-{0..1},val-{3..3}}.tar", ["train-0.tar", "train-1.tar", "val-3.tar"]),
        ("{a,{b,c}d}", ["a", "bd", "cd"]),
        ("x}y", ["x}y"]),
    ],
)
def test_braces_mean_what_a_shell_makes_of_them(pattern: str, names: list[str]) -> None:
    assert _shards.expand(pattern) == names


@pytest.mark.parametrize("pattern", ["{0..1", "a{b{c}", "{3..1}.tar", "{0..999999999}", "{0..999}" * 4])
def test_braces_that_mean_nothing_or_too_much_are_refused(pattern: str) -> None:
    with pytest.raises(DataError, match=r"brace is not closed|must count upwards|names more than 100,000"):
        _shards.expand(pattern)


def test_shards_that_are_missing_or_named_twice_or_of_neither_part_are_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    for rest, message in (
        ("train-{00..09}.tar", r"8 of the 10 shards are not there, the first is .*train-02\.tar"),
        ("train-{00,00}.tar", "names a shard twice"),
        ("{val-00,val-01}.tar", "none is trained on"),
        ("nothing", "No such file"),
    ):
        with pytest.raises(DataError, match=message):
            data.describe(f"webdataset:{tmp_path}/{rest}")
    tars.write(tmp_path / "test-00.tar", tars.samples(range(2)))
    with pytest.raises(DataError, match=r"test-00\.tar is named neither for training nor for validation"):
        data.describe(f"webdataset:{tmp_path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no shard"):
        data.describe(f"webdataset:{tmp_path / 'empty'}")
    with pytest.raises(DataError, match="begin with the folder"):
        data.pinned("webdataset:{a,b}.tar")


@pytest.mark.parametrize("rank", range(3))
def test_ranks_that_begin_at_different_shards_count_alike(
    tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, shards=4)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    train, _ = greys(f"webdataset:{tmp_path}")
    assert train == [(number, number % 2) for number in range(48)]


STATED = "train=24&val=8&classes=2&bytes=100&shards=4"


def test_a_job_reads_its_training_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    spec = f"webdataset:s3://bucket/flowers?{STATED}"
    described = data.describe(spec)
    assert (described.train_samples, described.val_samples, described.classes, described.files) == (24, 8, 2, 4)
    assert data.s3_location(spec) == "s3://bucket/flowers/"
    with pytest.raises(DataError, match="shards must be stated"):
        data.describe("webdataset:s3://bucket/flowers?train=24&val=8&classes=2&bytes=100")
    with pytest.raises(DataError, match="was not brought to this machine"):
        data.load(spec, 8)
    monkeypatch.setenv(TRAINING_CHANNEL_VARIABLE, str(tmp_path))
    assert loaders.sample_count(data.load(spec, 8)[0]) == 24
    with pytest.raises(DataError, match="train=24 instead of 25"):
        data.load(spec.replace("train=24", "train=25"), 8)


def test_only_samples_that_are_objects_of_their_own_are_streamed() -> None:
    assert data.streams("imagefolder:s3://bucket/x?train=1&val=1&classes=2&bytes=1")
    assert not data.streams(f"webdataset:s3://bucket/x?{STATED}")


def test_a_million_samples_are_some_tens_of_megabytes() -> None:
    columns = webdataset.ShardedSamples([])
    columns.add(0, 2**40, 2**30, 999)
    assert sum(column.itemsize for column in (columns.shard, columns.offset, columns.size, columns.label)) <= 24


def test_labels_are_told_without_reading(tmp_path: Path) -> None:
    train, val = data.load(fill(tmp_path), 8)
    for path in tmp_path.glob("*.tar"):
        os.truncate(path, 0)
    assert list(getattr(train, "labels")) == [number % 2 for number in range(24)]  # noqa: B009 - not every kind has them
    assert len(getattr(val, "labels")) == 8  # noqa: B009 - as above
