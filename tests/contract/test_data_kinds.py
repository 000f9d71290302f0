"""Laws that every kind of data in `gpuplan_job/data` keeps: described without torch, the same every time."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tars
from gpuplan_job import data, discover
from gpuplan_job.contract import DataDescription
from gpuplan_job.document import canonical_json

if TYPE_CHECKING:
    from pathlib import Path

KINDS = discover.names(data)
EXAMPLES = (
    "digits",
    "fake:3x32x32:10:1000",
    "fake:1x1x1:2:4",
    "imagenet",
    "imagenet:s3://bucket/imagenet",
    "imagefolder",
    "imagefolder:s3://bucket/flowers?train=900&val=100&classes=5&bytes=50000",
    "webdataset",
    "webdataset:s3://bucket/flowers?train=900&val=100&classes=5&bytes=50000&shards=9",
)
NAMES = st.characters(exclude_characters="/.")
"""Letters that cannot make imagefolder walk through this machine's own folders."""


@pytest.fixture
def spec(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an example's spec, with files of two classes behind imagefolder and webdataset."""
    if request.param == "webdataset":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        for split, images in (("train", 12), ("val", 4)):
            tars.write(tmp_path / f"{split}.tar", tars.samples(range(images)))
        return f"webdataset:{tmp_path}"
    if request.param != "imagefolder":
        return str(request.param)
    for split, images in (("train", 6), ("val", 2)):
        for label in ("cat", "dog"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for number in range(images):
                (folder / f"{number}.png").write_bytes(b"not read" * (number + 1))
    return f"imagefolder:{tmp_path}"


EVERY_EXAMPLE = pytest.mark.parametrize("spec", EXAMPLES, indirect=True)


def test_every_kind_has_an_example() -> None:
    assert {example.partition(":")[0] for example in EXAMPLES} == set(KINDS)


@EVERY_EXAMPLE
def test_a_description_has_all_that_a_plan_needs(spec: str) -> None:
    described = data.describe(spec)
    sizes = (described.train_samples, described.val_samples, described.channels, described.height, described.width)
    assert min(sizes) >= 1
    assert described.classes >= 2
    assert described.bytes_per_sample >= 0
    assert described.source


@EVERY_EXAMPLE
def test_describing_is_pure(spec: str) -> None:
    assert data.describe(spec) == data.describe(spec)


@EVERY_EXAMPLE
def test_a_description_survives_canonical_json(spec: str) -> None:
    assert canonical_json(asdict(data.describe(spec))) == canonical_json(asdict(data.describe(spec)))
    assert DataDescription(**asdict(data.describe(spec))) == data.describe(spec)


@EVERY_EXAMPLE
def test_a_location_on_s3_is_told_without_looking(spec: str) -> None:
    located = data.s3_location(spec)
    assert located == (f"s3://bucket/{spec.partition('/bucket/')[2].partition('?')[0]}/" if "s3:" in spec else None)
    assert data.pinned(spec) == spec


@EVERY_EXAMPLE
def test_describing_loads_no_framework(spec: str) -> None:
    code = (
        "import sys; from gpuplan_job import data; data.describe(sys.argv[1]);"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'pytorch_lightning'} & sys.modules.keys();"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, spec], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_image_folder_is_counted_without_opening_an_image(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "val" / label).mkdir(parents=True)
        (tmp_path / "train" / label / "x.jpg").write_bytes(b"12345678")
        (tmp_path / "val" / label / "y.jpg").write_bytes(b"")
    described = data.describe(f"imagefolder:{tmp_path}")
    assert (described.train_samples, described.val_samples, described.classes) == (2, 2, 2)
    assert described.bytes_per_sample == 8


@given(st.text(NAMES, max_size=40))
def test_any_text_is_described_or_refused_in_words(text: str) -> None:
    try:
        described = data.describe(text)
    except data.DataError as error:
        assert str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert described.train_samples >= 1


@pytest.mark.parametrize("kind", KINDS)
@given(rest=st.text(max_size=30))
def test_any_location_on_s3_is_whole_or_refused_in_words(kind: str, rest: str) -> None:
    try:
        located = data.s3_location(f"{kind}:s3://{rest}")
    except data.DataError as error:
        assert str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert located is None or re.fullmatch(r"s3://[a-z0-9.-]{3,63}/([!-~]+/)?", located)


@pytest.mark.parametrize("kind", KINDS)
@given(argument=st.text(NAMES, max_size=30))
def test_any_argument_of_a_kind_is_described_or_refused_in_words(kind: str, argument: str) -> None:
    try:
        described = data.describe(f"{kind}:{argument}")
    except data.DataError as error:
        assert str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert described.train_samples >= 1
