"""Data on S3: located and stated by the client, found and counted in the job's training channel."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from gpuplan_job import data, loaders
from gpuplan_job.data import TRAINING_CHANNEL_VARIABLE, DataError

if TYPE_CHECKING:
    from pathlib import Path

STATED = "train=6&val=4&classes=2&bytes=110000"


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a training channel of 6 and 4 images in 2 classes, known to this process."""
    for split, images in (("train", 3), ("val", 2)):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(images):
                Image.new("RGB", (20, 20)).save(tmp_path / split / label / f"{number}.png")
    monkeypatch.setenv(TRAINING_CHANNEL_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("argument", "location"),
    [
        ("s3://bucket/flowers", "s3://bucket/flowers/"),
        ("s3://bucket/a/b/?train=1", "s3://bucket/a/b/"),
        ("s3://my-bucket.v2", "s3://my-bucket.v2/"),
        ("s3://bucket/", "s3://bucket/"),
        ("s3://bucket/year=2026/set-(1)", "s3://bucket/year=2026/set-(1)/"),
    ],
)
def test_a_location_ends_with_a_slash(argument: str, location: str) -> None:
    assert data.s3_location(f"imagefolder:{argument}") == location


@pytest.mark.parametrize("spec", ["digits", "fake:3x32x32:10:1000", "imagenet", "imagefolder:/data", "imagefolder"])
def test_other_data_lie_nowhere_on_s3(spec: str) -> None:
    assert data.s3_location(spec) is None


@pytest.mark.parametrize(
    ("rest", "complaint"),
    [
        ("", "names no bucket"),
        ("/flowers", "names no bucket"),
        ("ab/flowers", "cannot be an S3 bucket"),
        ("Bucket/flowers", "cannot be an S3 bucket"),
        ("bucket_1/flowers", "cannot be an S3 bucket"),
        ("a..b/flowers", "cannot be an S3 bucket"),
        ("10.0.0.1/flowers", "cannot be an S3 bucket"),
        ("b" * 64, "cannot be an S3 bucket"),
        ("bucket/my flowers", "not safe in S3 keys"),
        ("bucket/fl\u00f6wers", "not safe in S3 keys"),
        ("bucket/flo\nwers", "not safe in S3 keys"),
        ("bucket/" + "x" * 901, "more than 900"),
        ("bucket/a//b", "an empty part"),
        ("bucket//", "an empty part"),
        ("bucket/../other", "an empty part"),
    ],
)
@pytest.mark.parametrize("kind", ["imagefolder", "imagenet"])
def test_what_is_no_bucket_and_prefix_is_refused(kind: str, rest: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        data.s3_location(f"{kind}:s3://{rest}")
    with pytest.raises(DataError, match=complaint):
        data.describe(f"{kind}:s3://{rest}")


def test_stated_figures_are_what_the_plan_goes_by() -> None:
    described = data.describe(f"imagefolder:s3://bucket/flowers?{STATED}")
    assert (described.train_samples, described.val_samples, described.classes) == (6, 4, 2)
    assert (described.channels, described.height, described.width) == (3, 224, 224)
    assert (described.bytes_per_sample, described.storage) == (110000, "jpeg")
    assert not described.plan_only
    assert "stated for s3://bucket/flowers/" in described.source


def test_figures_that_are_not_stated_are_asked_for() -> None:
    with pytest.raises(DataError, match=r"val, bytes must be stated: s3://bucket/flowers/\?train="):
        data.describe("imagefolder:s3://bucket/flowers?train=6&classes=2")


@pytest.mark.parametrize(
    "query",
    ["train=0", "train=-1", "train=1e3", "train=", "classes=1", "colour=1", "train=1&train=2", "train", "val=\u0663"],
)
def test_figures_that_are_none_are_refused(query: str) -> None:
    with pytest.raises(DataError, match="is not one of train="):
        data.describe(f"imagefolder:s3://bucket/flowers?{query}")


def test_imagenet_with_a_location_can_be_launched_and_has_its_own_figures() -> None:
    described = data.describe("imagenet:s3://bucket/imagenet")
    assert (described.train_samples, described.plan_only) == (1_281_167, False)
    assert data.describe("imagenet").plan_only
    with pytest.raises(DataError, match="leave out what stands after"):
        data.describe("imagenet:s3://bucket/imagenet?train=5")
    with pytest.raises(DataError, match="location on S3 or nothing"):
        data.describe("imagenet:/data/imagenet")


def test_a_job_reads_its_training_channel(channel: Path) -> None:
    train, val = data.load(f"imagefolder:s3://bucket/flowers?{STATED}", 32)
    assert (loaders.sample_count(train), loaders.sample_count(val)) == (6, 4)
    assert train[0][0].shape == (3, 32, 32)
    (channel / "train" / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match="train=5 instead of 6"):
        data.load(f"imagefolder:s3://bucket/flowers?{STATED}", 32)


@pytest.mark.usefixtures("channel")
def test_other_images_than_imagenets_are_not_taken_for_it() -> None:
    with pytest.raises(DataError, match="train=6 instead of 1281167, val=4 instead of 50000, classes=2 instead of"):
        data.load("imagenet:s3://bucket/imagenet", None)


@pytest.mark.parametrize("spec", [f"imagefolder:s3://bucket/flowers?{STATED}", "imagenet:s3://bucket/imagenet"])
def test_nothing_is_read_where_nothing_was_brought(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRAINING_CHANNEL_VARIABLE, raising=False)
    with pytest.raises(DataError, match="was not brought to this machine"):
        data.load(spec, None)
    with pytest.raises(DataError, match="description for plans"):
        data.load("imagenet", None)


def test_a_channel_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRAINING_CHANNEL_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"cannot read .*gone"):
        data.load(f"imagefolder:s3://bucket/flowers?{STATED}", None)


WATCHED = """
import json, sys
from gpuplan_job import data
root, spec = sys.argv[1:]
seen = {"open": [], "os.scandir": [], "os.listdir": [], "written": []}
def watch(event, arguments):
    if event in seen and str(arguments[0]).startswith(root):
        seen[event].append(str(arguments[0]))
        if event == "open" and arguments[2] & 3:
            seen["written"].append(str(arguments[0]))
sys.addaudithook(watch)
training, _ = data.load(spec, 32)
by_load = list(seen["open"])
for index in (0, 5, 5):
    training[index]
print(json.dumps({"by_load": by_load, "taken": [training.listing[index][0] for index in (0, 5, 5)], **seen}))
"""
"""Loads a job's data and takes three samples; says which folders were listed, which files opened, which written."""


def test_a_job_lists_each_folder_once_and_opens_only_the_samples_it_takes(channel: Path) -> None:
    # Where data are read from S3 as they are opened, every look is a request.
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(channel), f"imagefolder:s3://bucket/flowers?{STATED}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    folders = [channel / split for split in ("train", "val")]
    folders += [folder / label for folder in folders for label in ("cat", "dog")]
    assert sorted(found["os.scandir"]) == sorted(map(str, folders))
    assert found["open"] == found["taken"]
    assert found["by_load"] == found["os.listdir"] == found["written"] == []
