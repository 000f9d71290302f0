"""Data of the user's own: what is taken from a LightningDataModule, what is refused, and that it is prepared once."""

from __future__ import annotations

import multiprocessing
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from gpuplan_job import own, own_data, own_description, user_code
from gpuplan_job.failures import JobError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CODE = """
import torch
import pytorch_lightning as pl
from torch.utils.data import (
    BatchSampler, ConcatDataset, DataLoader, Dataset, IterableDataset, RandomSampler, Subset, TensorDataset,
    WeightedRandomSampler,
)

IMAGES, CLASSES = torch.arange(10 * 2 * 3 * 4).float().view(10, 2, 3, 4), torch.arange(10) % 7
SET = TensorDataset(IMAGES, CLASSES)

class Stream(IterableDataset):
    def __iter__(self): return iter([1, 2])

class Base(pl.LightningDataModule):
    def __init__(self, size=10, log=None):
        super().__init__()
        self.size, self.log = size, log
    def prepare_data(self):
        if self.log:
            with open(self.log, "a") as out:
                out.write("prepared\\n")
    def setup(self, stage):
        assert stage == "fit"
        self.data = Subset(SET, range(self.size))
    def loader(self):
        return DataLoader(self.data, batch_size=4, shuffle=True)
    def train_dataloader(self): return self.loader()
    def val_dataloader(self): return DataLoader(Subset(SET, [1]), collate_fn=lambda samples: samples)

class Weighted(Base):
    def loader(self): return DataLoader(self.data, sampler=WeightedRandomSampler([1.0] * 10, 10))
class Batched(Base):
    def loader(self):
        class Mine(BatchSampler): pass
        return DataLoader(self.data, batch_sampler=Mine(RandomSampler(self.data), 2, False))
class Streamed(Base):
    def loader(self): return DataLoader(Stream(), batch_size=2)
class Whole(Base):
    def loader(self): return DataLoader(self.data, batch_size=None)
class Several(Base):
    def loader(self): return {"a": DataLoader(self.data), "b": DataLoader(self.data)}
class NoLoader(Base):
    def loader(self): return self.data
class NoVal(pl.LightningDataModule):
    def train_dataloader(self): return DataLoader(SET, shuffle=True)
class Hooked(Base):
    def on_after_batch_transfer(self, batch, dataloader_idx): return batch
class Fails(Base):
    def setup(self, stage): raise FileNotFoundError("photos/train")
class Seeded(Base):
    def loader(self): return DataLoader(self.data, worker_init_fn=print)

def pair(size): return TensorDataset(IMAGES[:size], CLASSES[:size]), SET
def number(): return 3
def rows():
    data = [{"tokens": torch.tensor([1, 2, 3]), "label": 4.5}] * 5
    return data, data
def ragged(): return [torch.zeros(n) for n in (1, 2, 3)], [torch.zeros(1)]
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "data_of_mine.py").write_text(CODE)
    monkeypatch.setenv(user_code.FOLDER_VARIABLE, str(tmp_path))
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("data_of_mine", None)


def load(name: str, **arguments: object) -> own_data.OwnData:
    return own_data.load(f"data_of_mine:{name}", arguments)


@pytest.mark.usefixtures("mine")
def test_data_sets_and_collate_functions_are_those_of_the_loaders() -> None:
    found = load("Base", size=8)
    assert (own_data.count(found.train), own_data.count(found.val)) == (8, 1)
    images, classes = own_data.batch("data_of_mine:Base", found, 2)
    assert images.shape == (2, 2, 3, 4)
    assert classes.tolist() == [0, 4], "spread over the set"
    assert found.val_collate([1, 2]) == [1, 2]
    assert found.notes == []


@pytest.mark.usefixtures("mine")
def test_a_function_may_return_the_pair_of_data_sets() -> None:
    found = load("pair", size=4)
    assert (own_data.count(found.train), own_data.count(found.val)) == (4, 10)


@pytest.mark.usefixtures("mine")
def test_a_description_states_counts_shape_and_classes() -> None:
    described = own_description.describe("data_of_mine:Base", load("Base"))
    assert (described.train_samples, described.val_samples, described.classes) == (10, 1, 7)
    assert (described.channels, described.height, described.width, described.sample) == (2, 3, 4, "")


@pytest.mark.usefixtures("mine")
def test_samples_that_are_no_images_and_targets_that_are_no_classes_are_described_as_what_they_are() -> None:
    described = own_description.describe("data_of_mine:rows", load("rows"))
    assert described.sample == "int64 [3]"
    assert (described.channels, described.height, described.width, described.classes) == (1, 1, 3, 0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Weighted", "train_dataloader draws with a WeightedRandomSampler"),
        ("Batched", "train_dataloader draws with a Mine"),
        ("Streamed", "are an IterableDataset, Stream: a stream cannot be shared out exactly"),
        ("Whole", "has batch_size=None"),
        ("Several", "gives several loaders"),
        ("NoLoader", "gives a Subset, no DataLoader"),
        ("NoVal", "has no val_dataloader"),
        ("Hooked", "has on_after_batch_transfer of its own"),
        ("number", "gives a int: neither a LightningDataModule nor a pair"),
        ("Nothing", "data_of_mine has no 'Nothing'"),
    ],
)
@pytest.mark.usefixtures("mine")
def test_what_cannot_be_shared_out_exactly_is_refused_in_words(name: str, said: str) -> None:
    with pytest.raises(JobError) as caught:
        load(name)
    assert said in caught.value.message
    assert caught.value.fix


@pytest.mark.usefixtures("mine")
def test_an_empty_set_is_refused() -> None:
    with pytest.raises(JobError, match="its training data are empty"):
        load("pair", size=0)


@pytest.mark.usefixtures("mine")
def test_a_failure_names_file_and_line() -> None:
    with pytest.raises(
        JobError, match=r"setup failed: data_of_mine\.py:\d+, in setup: FileNotFoundError: photos/train"
    ):
        load("Fails")


@pytest.mark.usefixtures("mine")
def test_samples_that_make_no_batch_are_met_with_what_to_do() -> None:
    found = load("ragged")
    with pytest.raises(JobError, match="no batch can be made of 2 samples") as caught:
        own_data.batch("data_of_mine:ragged", found, 2)
    assert "collate_fn" in caught.value.fix


@pytest.mark.usefixtures("mine")
def test_what_is_done_in_another_way_is_noted() -> None:
    assert len(load("Seeded").notes) == 1


def _prepare(folder: str) -> None:
    from pathlib import Path

    own_data.load("data_of_mine:Base", {"log": f"{folder}/log"}, Path(folder))


@pytest.mark.usefixtures("mine")
def test_data_are_prepared_once_by_the_processes_of_a_machine(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=_prepare, args=(str(tmp_path),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "prepared\n"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("net:Net", True),
        ("a.b:C.d", True),
        ("resnet50", False),
        ("digits", False),
        ("fake:3x32x32:10:1000", False),
        ("imagefolder:Flowers", False),
        ("net:", False),
        ("1net:Net", False),
        ("net:Net:more", False),
    ],
)
def test_what_is_code_of_the_users_own(spec: str, expected: bool) -> None:  # noqa: FBT001 - a parameter
    assert own.is_own(spec) is expected


def test_torch_reads_no_targets_where_there_are_none() -> None:
    assert list(own_description.tensors({"a": [torch.zeros(1)], "b": ("x", torch.ones(2))}))[1].tolist() == [1.0, 1.0]
