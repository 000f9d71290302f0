"""Samplers: the same permutation on every rank, each sample once, validation without padding."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from gpuplan_job import data, loaders
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.sampling import EpochLayout

LAYOUT = EpochLayout(103, per_gpu=4, world_size=3, accumulation=2)


def test_ranks_share_out_every_sample_once_each_epoch_in_another_order() -> None:
    samplers = [loaders.EpochBatches(TrainingLayout((LAYOUT,)), 7, rank) for rank in range(3)]
    orders = []
    for epoch in (0, 1):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        order = [index for sampler in samplers for batch in sampler for index in batch]
        assert sorted(order) == list(range(103))
        orders.append(order)
    assert orders[0] != orders[1]
    assert len({len(sampler) for sampler in samplers}) == 1


def test_an_epoch_can_be_drawn_again() -> None:
    sampler = loaders.EpochBatches(TrainingLayout((LAYOUT,)), 7, 0)
    assert list(sampler) == list(sampler)
    assert list(sampler) != list(loaders.EpochBatches(TrainingLayout((LAYOUT,)), 8, 0))


def test_a_permutation_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    assert sorted(loaders.permutation(9, 0, 0).tolist()) == list(range(9))
    assert torch.equal(before, torch.get_rng_state())


@given(st.integers(0, 200), st.integers(1, 9))
def test_validation_shards_hold_each_sample_once(samples: int, world_size: int) -> None:
    shards = [loaders.RankShard(samples, rank, world_size) for rank in range(world_size)]
    assert sorted(index for shard in shards for index in shard) == list(range(samples))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_workers_bring_the_same_batches_as_the_process_itself() -> None:
    train, val = data.load("digits", None)
    sets, cpu = loaders.DataSets(train, val), torch.device("cpu")
    layout = TrainingLayout((EpochLayout(loaders.sample_count(train), 500, 1, 1),))
    alone, helped = (
        [images for images, _ in loaders.training_loader(sets, loaders.EpochBatches(layout, 0, 0), workers, cpu)]
        for workers in (0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
    shard = loaders.RankShard(loaders.sample_count(val), 1, 2)
    batches = list(loaders.validation_loader(sets, shard, 100, 0, cpu))
    assert [len(labels) for _, labels in batches] == [100, 80]


class Shaken(Dataset[tuple[Tensor, int]]):
    """Samples that torch, Python and NumPy make up when they are asked for."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        drawn = torch.rand(1).item() + random.random() + np.random.rand()  # noqa: NPY002, S311 - as augmentations do
        return torch.tensor([index, drawn]), 0

    def __len__(self) -> int:
        return LAYOUT.samples


def shaken(rank: int, epoch: int, workers: int) -> Tensor:
    batches = loaders.EpochBatches(TrainingLayout((LAYOUT,)), 7, rank)
    batches.set_epoch(epoch)
    loader = loaders.training_loader(loaders.DataSets(Shaken(), Shaken()), batches, workers, torch.device("cpu"))
    return torch.cat([samples for samples, _ in loader])


def test_augmentation_follows_seed_and_epoch_whoever_loads_the_batch_and_whatever_came_before() -> None:
    first = shaken(rank=0, epoch=1, workers=0)
    shaken(rank=0, epoch=0, workers=0)
    assert torch.equal(first, shaken(rank=0, epoch=1, workers=2))
    others = [shaken(rank=1, epoch=1, workers=0), shaken(rank=0, epoch=2, workers=0)]
    drawn = [set(samples[:, 1].tolist()) for samples in (first, *others)]
    assert not drawn[0] & drawn[1]
    assert not drawn[0] & drawn[2]


def test_loading_leaves_the_generators_of_the_process_alone() -> None:
    before = torch.get_rng_state(), random.getstate()
    shaken(rank=0, epoch=0, workers=0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_only_the_training_keeps_its_workers_between_epochs() -> None:
    train, val = data.load("digits", None)
    batches = loaders.EpochBatches(TrainingLayout((EpochLayout(loaders.sample_count(train), 500, 1, 1),)), 0, 0)
    sets, cpu = loaders.DataSets(train, val), torch.device("cpu")
    assert loaders.training_loader(sets, batches, 1, cpu).persistent_workers
    assert not loaders.validation_loader(sets, loaders.RankShard(9, 0, 1), 3, 1, cpu).persistent_workers
