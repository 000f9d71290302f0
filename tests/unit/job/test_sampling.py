"""The cut of an epoch: each sample once, ranks in step, as even as can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuplan_job.sampling import EpochLayout


@st.composite
def layouts(draw: st.DrawFn) -> EpochLayout:
    per_gpu, world_size, accumulation = draw(st.integers(1, 9)), draw(st.integers(1, 8)), draw(st.integers(1, 4))
    samples = draw(st.integers(per_gpu * world_size * accumulation, 900))
    return EpochLayout(samples, per_gpu, world_size, accumulation)


@given(layouts())
def test_every_position_belongs_to_exactly_one_micro_batch(layout: EpochLayout) -> None:
    positions = [
        position
        for rank in range(layout.world_size)
        for batch in layout.micro_batches(rank)
        for position in range(batch.start, batch.stop)
    ]
    assert sorted(positions) == list(range(layout.samples))


@given(layouts())
def test_ranks_have_the_same_micro_batches_but_for_one_sample(layout: EpochLayout) -> None:
    ranks = [layout.micro_batches(rank) for rank in range(layout.world_size)]
    for together in zip(*ranks, strict=True):
        sizes = [batch.stop - batch.start for batch in together]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(2, layout.per_gpu)
        assert len({(batch.step_samples, batch.last_of_step) for batch in together}) == 1


@given(layouts())
def test_step_samples_are_the_samples_of_the_step_over_all_ranks(layout: EpochLayout) -> None:
    sizes = [0] * layout.steps
    stated: list[set[int]] = [set() for _ in sizes]
    for rank in range(layout.world_size):
        step = 0
        for batch in layout.micro_batches(rank):
            sizes[step] += batch.stop - batch.start
            stated[step].add(batch.step_samples)
            step += batch.last_of_step
        assert step == layout.steps
    assert stated == [{size} for size in sizes]


@given(layouts())
def test_every_step_but_the_last_is_full(layout: EpochLayout) -> None:
    batches = layout.micro_batches(0)
    before_last_step = (layout.steps - 1) * layout.accumulation
    assert all(batch.stop - batch.start == layout.per_gpu for batch in batches[:before_last_step])
    assert 1 <= len(batches) - before_last_step <= layout.accumulation
    assert [batch.last_of_step for batch in batches[:before_last_step]] == (
        [False] * (layout.accumulation - 1) + [True]
    ) * (layout.steps - 1)


def test_a_rest_too_small_for_batchnorm_joins_the_step_before() -> None:
    assert EpochLayout(67, per_gpu=32, world_size=2, accumulation=1).steps == 1
    assert EpochLayout(68, per_gpu=32, world_size=2, accumulation=1).steps == 2


@pytest.mark.parametrize(("samples", "per_gpu", "world", "accumulation"), [(7, 4, 2, 1), (0, 1, 1, 1), (9, 0, 1, 1)])
def test_an_epoch_without_a_full_step_is_refused(samples: int, per_gpu: int, world: int, accumulation: int) -> None:
    with pytest.raises(ValueError, match=r"at least 1|do not fill"):
        EpochLayout(samples, per_gpu, world, accumulation)
