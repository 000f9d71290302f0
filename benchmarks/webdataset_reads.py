"""What reading WebDataset shards in a permutation over all samples costs, beside the package's own reader.

    python benchmarks/webdataset_reads.py        # the peer, if it is installed (see README.md)
    python benchmarks/webdataset_reads.py --markdown > benchmarks/results/webdataset-reads-$(date -u +%F).md

It writes shards of its own into a temporary folder. Prints figures and judges nothing: seconds are the machine's.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import platform
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from gpuplan_job import data, loaders
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.data import _tar_index
from gpuplan_job.sampling import EpochLayout

SHARDS, SAMPLES, SIDE, CLASSES = 7, 300, 300, 10
RANKS = 3
BATCH = 16
BUFFER = 1000
"""Samples that the peer shuffles among; its documentation's example."""
METHOD = f"""\
{SHARDS} shards of {SAMPLES} JPEG images of {SIDE} px (noise on a gradient), on this machine's disk, in its page cache.
One process, no data-loading processes. A round runs every way once over all samples, in turn; shown are the medians of
{{rounds}} rounds, of the process's CPU time, which other processes hardly touch, and of wall time.

- `read`: bytes and label alone. `prepare`: decoded, cropped to 224 px, flipped, normalised, by gpuplan's transform.
- `gpuplan, permutation`: as in a training. `gpuplan, in order`: the same by ascending offset: what locality would save.
- `image files`: the same images as an `imagefolder`, in a permutation.
- `webdataset`: WebDataset(shards, shardshuffle), shuffle({BUFFER}), which is near-sequential reading and a buffer."""
Way = Callable[[], int]


def write(folder: Path) -> tuple[list[Path], Path]:
    """Write the shards, and the same images as files; return the shards and the folder of files."""
    draws = np.random.default_rng(0)
    gradient = np.linspace(0, 200, SIDE)[None, :, None]
    shards, files = [], folder / "files"
    for shard in range(SHARDS):
        path = folder / "shards" / f"data-{shard:03}.tar"
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for number in range(SAMPLES):
                pixels = (gradient + draws.integers(0, 55, (SIDE, SIDE, 3))).astype(np.uint8)
                content, label = io.BytesIO(), number % CLASSES
                Image.fromarray(pixels).save(content, "JPEG", quality=85)
                for suffix, part in (("jpg", content.getvalue()), ("cls", str(label).encode())):
                    entry = tarfile.TarInfo(f"{shard:03}{number:05}.{suffix}")
                    entry.size = len(part)
                    archive.addfile(entry, io.BytesIO(part))
                image = files / str(label) / f"{shard:03}{number:05}.jpg"
                image.parent.mkdir(parents=True, exist_ok=True)
                image.write_bytes(content.getvalue())
        shards.append(path)
    return shards, files


def taken(samples: Iterable[object]) -> int:
    """Take every sample and count them."""
    return sum(1 for _ in samples)


def by_offset(shards: list[Path], *, in_order: bool) -> Way:
    """Return what reads the bytes of every sample by its offset, as `webdataset:` does."""
    places = [(str(shard), *sample[1:]) for shard in shards for sample in _tar_index.index(shard)]

    def read(place: tuple[str, int, int, int]) -> tuple[bytes, int]:
        with open(place[0], "rb", buffering=0) as file:  # noqa: PTH123 - as the data set opens it
            file.seek(place[1])
            return file.read(place[2]), place[3]

    def way() -> int:
        order = range(len(places)) if in_order else loaders.permutation(len(places), 0, 0).tolist()
        return taken(read(places[index]) for index in order)

    return way


def prepared(spec: str) -> Way:
    """Return what prepares all training and validation samples of a spec as a job does, in a permutation."""
    sets = data.load(spec, None)
    joined: torch.utils.data.Dataset[tuple[torch.Tensor, int]] = torch.utils.data.ConcatDataset(sets)
    count = sum(map(loaders.sample_count, sets))
    return lambda: taken(joined[index] for index in loaders.permutation(count, 0, 0).tolist())


def peer(shards: list[Path], *, prepare: bool) -> Way:
    """Return what the package's own reader takes for the same."""
    import webdataset

    from gpuplan_job.data._image_files import decoded, training_transform

    transform = training_transform(224)

    def way() -> int:
        reader = webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=SHARDS).shuffle(BUFFER)
        if not prepare:
            return taken((sample["jpg"], int(sample["cls"])) for sample in reader)
        return taken((transform(decoded(io.BytesIO(one["jpg"]), "")), int(one["cls"])) for one in reader)

    return way


def shares(shards: list[Path]) -> list[tuple[str, list[int]]]:
    """Return how many samples each rank gets in an epoch, by either way."""
    total = SHARDS * SAMPLES
    layout = EpochLayout(total, BATCH, RANKS, 1)
    own = [sum(map(len, loaders.EpochBatches(TrainingLayout((layout,)), 0, rank))) for rank in range(RANKS)]
    found = [("gpuplan", own)]
    if importlib.util.find_spec("webdataset"):
        import webdataset

        counts = []
        for rank in range(RANKS):
            os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(RANKS)})
            urls = [str(shard) for shard in shards]
            reader = webdataset.WebDataset(urls, nodesplitter=webdataset.split_by_node, shardshuffle=False)
            counts.append(taken(reader))
        del os.environ["RANK"], os.environ["WORLD_SIZE"]
        found.append(("webdataset, split_by_node", counts))
    return found


def timed(ways: dict[str, Way], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median CPU and wall seconds of each way, run in turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            if way() != SHARDS * SAMPLES:
                raise SystemExit(f"{name} did not bring every sample once")
            found[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: (median(cpu for cpu, _ in each), median(wall for _, wall in each)) for name, each in found.items()}


def main() -> None:
    """Write the shards, run every way, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--markdown", action="store_true", help="print the method too, for benchmarks/results")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        shards, files = write(Path(folder))
        cpu = time.process_time()
        taken(_tar_index.index(shard) for shard in shards)
        indexing = SHARDS * SAMPLES / (time.process_time() - cpu)
        ways: dict[str, Way] = {
            "read: gpuplan, permutation": by_offset(shards, in_order=False),
            "read: gpuplan, in order": by_offset(shards, in_order=True),
            "prepare: gpuplan, permutation": prepared(f"webdataset:{folder}/shards"),
            "prepare: image files": prepared(f"imagefolder:{files}"),
        }
        if importlib.util.find_spec("webdataset"):
            ways |= {f"{what}: webdataset": peer(shards, prepare=what == "prepare") for what in ("read", "prepare")}
        found = timed(ways, arguments.rounds)
        split = shares(shards)
    if arguments.markdown:
        print(f"# Reading WebDataset shards, {datetime.now(UTC):%Y-%m-%d}\n")
        print(METHOD.format(rounds=arguments.rounds) + "\n")
        print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}. {arguments.note}\n")
    print("| way | samples a CPU second | samples a wall second |\n|---|---|---|")
    for name, (cpu, wall) in sorted(found.items()):
        print(f"| {name} | {SHARDS * SAMPLES / cpu:,.0f} | {SHARDS * SAMPLES / wall:,.0f} |")
    print(f"\nIndexing, once a shard: {indexing:,.0f} samples a CPU second.\n")
    print(f"An epoch of {SHARDS * SAMPLES} samples on {RANKS} ranks, where DDP needs equal numbers of batches:\n")
    print("| way | samples of each rank | of all, if the ranks stop with the first |\n|---|---|---|")
    for name, counts in split:
        kept = sum(counts) if max(counts) - min(counts) < BATCH else min(counts) * RANKS
        print(f"| {name} | {', '.join(map(str, counts))} | {kept} |")
    print(
        "\nOn S3 each read of the permutation would be a request: at the plan's 50 ms, 20 samples a second and process."
    )
    print("So gpuplan copies shards to the instance first, for lr-find too, and the plan has the time.")


if __name__ == "__main__":
    main()
