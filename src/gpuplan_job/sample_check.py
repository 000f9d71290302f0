"""What can be wrong with data before a model sees them: labels, classes, samples that do not open or differ in shape.

Called by `data_check`, in a process of its own. It trains nothing and changes nothing; it must not use a GPU.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

from gpuplan_job import loaders
from gpuplan_job.data import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Size

    from gpuplan_job.data import Samples

    Place = tuple[int, int]
    """Which data set, 0 training or 1 validation, and the position in it."""

_NAMES = ("training", "validation")
_THREADS = 4
"""Images decode outside of Python's lock, and of those on S3 each waits for its own answer."""
_CHUNK = 8 * _THREADS
_MOST_MISSING = 5
"""Classes that a message lists."""


def labels_of(samples: Samples) -> Sequence[int] | None:
    """Return the class of each sample if the data set tells them without reading it."""
    found: Sequence[int] | None = getattr(samples, "labels", None)
    return found


def refuse_labels(sets: tuple[Samples, Samples], classes: int) -> None:
    """Return if all labels that are known without reading are of one of the model's classes, and each is trained on.

    Raises:
        DataError: one is not.
    """
    for name, samples in zip(_NAMES, sets, strict=True):
        labels = labels_of(samples)
        if labels is None:
            continue
        seen = set(labels)
        strange = sorted(label for label in seen if not 0 <= label < classes)
        if strange:
            raise DataError(f"the {name} data have label {strange[0]}: the model has the classes 0 to {classes - 1}")
        missing = sorted(set(range(classes)) - seen) if name == "training" else []
        if missing:
            more = f" and {len(missing) - _MOST_MISSING} more" if len(missing) > _MOST_MISSING else ""
            shown = ", ".join(map(str, missing[:_MOST_MISSING]))
            raise DataError(f"no {name} sample is of class {shown}{more}, of {classes} classes")


class SampleCheck:
    """Opens samples as a training would and counts those that are bad; `clock` tells seconds."""

    def __init__(self, sets: tuple[Samples, Samples], classes: int, clock: Callable[[], float]) -> None:
        self.sets = sets
        self.classes = classes
        self.clock = clock
        self.total = sum(map(loaders.sample_count, sets))
        self.looked = 0
        self.bad = 0
        self.first = ""
        """What is wrong with the first bad sample, in the order they were looked at."""
        self._seen: set[Place] = set()
        self._shape: Size | None = None

    def some(self, most: int, seconds: float, after_bad: float) -> None:
        """Look at the first sample of each class, then at others by chance: at `most` so many, for about `seconds`.

        Once one is bad only `after_bad` seconds more are spent on how many others are.
        """
        end = self.clock() + seconds
        with ThreadPoolExecutor(_THREADS) as pool:
            places = islice(self._chosen(most), most)
            while chunk := list(islice(places, _CHUNK)):
                found_before = self.bad
                for problem in pool.map(self._problem, chunk):
                    self._count(problem)
                if self.bad and not found_before:
                    end = min(end, self.clock() + after_bad)
                if self.clock() >= end:
                    return

    def rest(self) -> None:
        """Look at all other samples in order, up to the first bad one."""
        for place in self._in_order():
            if self.bad:
                return
            if place not in self._seen:
                self._count(self._problem(place))

    def error(self) -> DataError | None:
        """Return what is bad so far, in words that name the first sample; None if nothing is."""
        if not self.bad:
            return None
        others = f"{self.bad - 1:,} others of them bad too" if self.bad > 1 else "no other of them bad"
        return DataError(f"{self.first} ({self.so_far()}, {others})")

    def so_far(self) -> str:
        """Return how far the look has come, in words."""
        return f"{self.looked:,} of {self.total:,} samples opened"

    def _count(self, problem: str | None) -> None:
        self.looked += 1
        if problem is not None:
            self.bad += 1
            self.first = self.first or problem

    def _problem(self, place: Place) -> str | None:
        part, index = place
        named = f"sample {index} of the {_NAMES[part]} data"
        try:
            image, label = self.sets[part][index]
        except DataError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - whatever a data set of a user's own raises is what the user must see
            return f"{named} cannot be read: {type(error).__name__}: {error}"
        if not 0 <= int(label) < self.classes:
            return f"{named} has label {int(label)}: the model has the classes 0 to {self.classes - 1}"
        self._shape = self._shape or image.shape
        if image.shape != self._shape:
            return f"{named} is {list(image.shape)}, others are {list(self._shape)}: a batch holds one shape"
        return None

    def _chosen(self, most: int) -> Iterator[Place]:
        """Yield each place once: the first of every class, then `most` by chance, the same each time."""
        for place in (*self._firsts(), *self._by_chance(most)):
            if place not in self._seen:
                self._seen.add(place)
                yield place

    def _firsts(self) -> Iterator[Place]:
        for part, samples in enumerate(self.sets):
            known: set[int] = set()
            for index, label in enumerate(labels_of(samples) or ()):
                if label not in known:
                    known.add(label)
                    yield part, index

    def _by_chance(self, most: int) -> Iterator[Place]:
        draws = random.Random(0)  # noqa: S311 - the same places each time, no secret
        counts = [loaders.sample_count(samples) for samples in self.sets]
        for number in draws.sample(range(self.total), min(self.total, most)):
            yield (0, number) if number < counts[0] else (1, number - counts[0])

    def _in_order(self) -> Iterable[Place]:
        for part, samples in enumerate(self.sets):
            for index in range(loaders.sample_count(samples)):
                yield part, index
