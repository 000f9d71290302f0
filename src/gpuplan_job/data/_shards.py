"""The shards of a WebDataset by their names: braces expanded, and each told to be of training or of validation.

Used by the `webdataset` kind. It opens no shard. Standard library only.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gpuplan_job.data import DataError
from gpuplan_job.data._image_listing import left_behind, path_of

if TYPE_CHECKING:
    from collections.abc import Iterator

Part = Literal["train", "val"]

_SUFFIX = ".tar"
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})", re.ASCII)
_MOST_SHARDS = 100_000
_WORDS: dict[str, Part] = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}


def expand(pattern: str) -> list[str]:
    """Return what a shell makes of braces: `{000..099}` counts, with leading zeros as written, `{a,b}` lists.

    Raises:
        DataError: a brace is not closed, a range runs backwards, or there are more than 100,000 names.
    """
    names = [""]
    for part in _parts(pattern):
        choices = _choices(part, pattern) if part.startswith("{") else [part]
        if len(names) * len(choices) > _MOST_SHARDS:
            raise DataError(f"{pattern} names more than {_MOST_SHARDS:,} shards")
        names = [name + choice for name in names for choice in choices]
    return names


def _parts(pattern: str) -> Iterator[str]:
    """Yield the text between braces, and each pair of outermost braces with what is in it."""
    depth = start = 0
    for at, letter in enumerate(pattern):
        if letter == "{":
            if depth == 0:
                yield pattern[start:at]
                start = at
            depth += 1
        elif letter == "}" and depth > 0:
            depth -= 1
            if depth == 0:
                yield pattern[start : at + 1]
                start = at + 1
    if depth:
        raise DataError(f"{pattern}: a brace is not closed")
    yield pattern[start:]


def _choices(braces: str, pattern: str) -> list[str]:
    inside = braces[1:-1]
    counted = _RANGE.fullmatch(inside)
    if counted is None:
        return [name for choice in _listed(inside) for name in expand(choice)]
    first, last = counted.groups()
    if not 0 <= int(last) - int(first) < _MOST_SHARDS:
        raise DataError(f"{pattern}: {{{inside}}} must count upwards, to at most {_MOST_SHARDS:,} shards")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _listed(inside: str) -> list[str]:
    """Return what stands between the commas that are in no inner braces."""
    found, depth = [""], 0
    for letter in inside:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return found


def named(argument: str) -> list[Path]:
    """Return the shards that a pattern, a folder or a single tar names, in order.

    Raises:
        DataError: there are none, one is missing, or the pattern is none.
        OSError: a folder cannot be read.
    """
    if "{" not in argument:
        path = path_of(argument)
        return [path] if path.is_file() else below(path)
    found = [path_of(name) for name in expand(argument)]
    missing = [path for path in found if not path.is_file()]
    if missing:
        raise DataError(f"{len(missing)} of the {len(found)} shards are not there, the first is {missing[0]}")
    if len(set(found)) < len(found):
        raise DataError(f"{argument} names a shard twice")
    return found


def below(root: Path) -> list[Path]:
    """Return the shards in a folder, or in its folders, in order of their names.

    Raises:
        DataError: there are none.
        OSError: a folder cannot be read.
    """
    found = []
    for folder, folders, names in os.walk(root, onerror=_raise):
        folders[:] = sorted(name for name in folders if not left_behind(name))
        found += [Path(folder, name) for name in names if name.endswith(_SUFFIX) and not left_behind(name)]
    if not found:
        raise DataError(f"{root} holds no shard: files that end in {_SUFFIX}")
    return sorted(found)


def parts(shards: list[Path]) -> list[Part] | None:
    """Return which part each shard is of, by a word in its folder's name or in its own; None where no name says `val`.

    Raises:
        DataError: some are named and others not, or none is for training.
    """
    found = [_part(shard) for shard in shards]
    if "val" not in found:
        return None
    for shard, part in zip(shards, found, strict=True):
        if part is None:
            raise DataError(
                f"{shard} is named neither for training nor for validation, and other shards are: name it train or "
                "val, or leave it out by a pattern such as {train-{000..099},val-{00..09}}.tar"
            )
    if "train" not in found:
        raise DataError(f"all {len(shards)} shards are named for validation, such as {shards[0]}: none is trained on")
    return [part for part in found if part is not None]


def _part(shard: Path) -> Part | None:
    for name in (shard.stem, shard.parent.name):
        words = {_WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _WORDS}
        if len(words) == 1:
            return words.pop()
    return None


def _raise(error: OSError) -> None:
    raise error
