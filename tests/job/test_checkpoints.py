"""Checkpoints that survive: what was cut off goes on to the same bits, and no damaged or hostile file is trusted."""

from __future__ import annotations

import os
import pickle
import random
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import Dataset

from gpuplan_job import checkpoint_io, loaders, manifest, train
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.checkpoints import CheckpointKeeper
from gpuplan_job.contract import BatchSpec, JobInput, Progress, TrainResult, TrainSpec
from gpuplan_job.document import sha256_hex
from gpuplan_job.failures import JobError
from gpuplan_job.figures import EpochFigures
from gpuplan_job.lightning_subject import module_of
from gpuplan_job.loop_state import Place
from gpuplan_job.manifest import Manifest, Owner
from gpuplan_job.process import Process
from gpuplan_job.sampling import EpochLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALONE = Process(rank=0, local_rank=0, world_size=1, local_world_size=1)
SAMPLES, STEPS, EPOCHS = 50, 7, 3
"""Seven steps of eight samples, the last of two."""
STILL = TrainSpec(1e-30)
"""With a plain network all epochs are equal, so that the first is the best."""


class CutOffError(Exception):
    """Stands for whatever ends a training in its midst."""


class Augmented(Dataset[tuple[Tensor, int]]):
    """Two clouds of points, shaken anew each time by torch's and Python's own generators if they are to train on."""

    def __init__(self, samples: int, *, shaken: bool = True) -> None:
        self.samples = samples
        self.shaken = shaken
        self.asked = 0

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.asked += 1
        centre = torch.randn(3, generator=torch.Generator().manual_seed(index)) + 1.0 * (index % 2)
        if self.shaken:
            centre += 0.3 * torch.randn(3) + 0.1 * random.random()  # noqa: S311 - an augmentation
        return centre, index % 2

    def __len__(self) -> int:
        return self.samples


class Cut(nn.Module):
    """A network with dropout and BatchNorm, or else a plain one, that is cut off in a training step."""

    def __init__(self, after_steps: int | None, *, plain: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        deep = (nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))
        self.layers = nn.Linear(3, 2) if plain else nn.Sequential(*deep)
        self.left = after_steps

    def forward(self, points: Tensor) -> Tensor:
        if self.training and self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise CutOffError
        logits: Tensor = self.layers(points)
        return logits


@pytest.fixture
def job_input(train_input: JobInput) -> JobInput:
    workload = replace(train_input.workload, epochs=EPOCHS, label_smoothing=0.1)
    return replace(train_input, workload=workload, batch=BatchSpec(8, 1, 1))


def fit(
    job_input: JobInput, folder: Path, after_steps: int | None = None, data: Augmented | None = None
) -> TrainResult:
    sets = loaders.DataSets(data or Augmented(SAMPLES), Augmented(20, shaken=False))
    # What a process has drawn before must not matter.
    torch.manual_seed(random.SystemRandom().getrandbits(31))
    plain = job_input.train == STILL
    return train.fit(job_input, "0" * 64, Cut(after_steps, plain=plain), sets, folder, ALONE)


def cut_off(job_input: JobInput, folder: Path, after_epochs: int) -> None:
    with pytest.raises(CutOffError):
        fit(job_input, folder, after_steps=after_epochs * STEPS + 3)


def figures(result: TrainResult) -> list[dict[str, object]]:
    return [asdict(replace(metrics, seconds=0.0)) for metrics in result.epochs]


def tensors(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield all that a checkpoint holds by path, but for times, memory and how Lightning counts epochs it resumed."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in ("Measuring", "seconds", "epoch_progress"):
                yield from tensors(part, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from tensors(part, f"{path}.{index}")
    else:
        yield path, value.tolist() if isinstance(value, Tensor) else value


def stored(folder: Path, name: str) -> dict[str, object]:
    return dict(tensors(torch.load(folder / "checkpoints" / name, weights_only=True)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("changes", "after_epochs"),
    [
        ({}, 1),
        ({"optimizer": "adamw"}, 2),
        ({"precision": "bf16-mixed"}, 1),
        ({"workers": 2}, 2),
        ({"schedule": "constant"}, 1),
    ],
    ids=str,
)
def test_a_training_that_was_cut_off_goes_on_to_the_same_bits(
    tmp_path: Path, job_input: JobInput, changes: dict[str, Any], after_epochs: int
) -> None:
    # The constant schedule is cut off in the middle of its warm-up.
    warming = TrainSpec(0.05, 2 * STEPS - 2, 0.25)
    job_input = replace(job_input, workload=replace(job_input.workload, **changes), train=warming)
    whole = fit(job_input, tmp_path / "whole")
    cut_off(job_input, tmp_path / "cut", after_epochs)
    resumed = fit(replace(job_input, attempt=2), tmp_path / "cut")
    assert figures(resumed) == figures(whole)
    assert (resumed.best_epoch, resumed.optimizer_steps) == (whole.best_epoch, whole.optimizer_steps)
    for name in ("last.ckpt", "best.ckpt"):
        assert stored(tmp_path / "cut", name) == stored(tmp_path / "whole", name)
    assert names(tmp_path / "cut") == ["best.ckpt", "best.ckpt.json", "last.ckpt", "last.ckpt.json"]


def test_only_the_steps_that_are_left_are_taken_and_counted_on_from_there(
    tmp_path: Path, job_input: JobInput, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_off(job_input, tmp_path, after_epochs=2)
    capsys.readouterr()
    data = Augmented(SAMPLES)
    assert fit(job_input, tmp_path, data=data).optimizer_steps == EPOCHS * STEPS
    assert data.asked == SAMPLES
    progress = [found for line in capsys.readouterr().out.splitlines() if (found := Progress.from_line(line))]
    assert progress[0].phase == "epoch 3 of 3"
    assert 2 * STEPS < progress[0].done <= progress[-1].done == progress[-1].total == EPOCHS * STEPS


def test_a_training_that_is_complete_ends_at_once_with_its_whole_result(tmp_path: Path, job_input: JobInput) -> None:
    first = fit(job_input, tmp_path)
    data = Augmented(SAMPLES)
    again = fit(job_input, tmp_path, data=data)
    assert data.asked == 0
    assert again.epochs == first.epochs
    assert replace(again, measured=first.measured) == first
    assert again.measured.step_seconds > 0
    assert names(tmp_path) == ["best.ckpt", "best.ckpt.json", "last.ckpt", "last.ckpt.json"]


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("last-*.ckpt"))


def tear(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    # As a new file: the best checkpoint may share the old one's bytes on disk.
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip_a_bit, "not used: last-0002.ckpt: its sha256"),
        (lambda path: path.unlink(), "not used: last-0002.ckpt: [Errno 2]"),
        (lambda path: manifest.beside(path).unlink(), "from best-0001.ckpt"),
    ],
)
def test_from_a_damaged_checkpoint_training_falls_back_and_reaches_the_same(
    tmp_path: Path, job_input: JobInput, damage: Callable[[Path], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job_input = replace(job_input, train=STILL)
    whole = fit(job_input, tmp_path / "whole")
    cut_off(job_input, tmp_path / "cut", after_epochs=2)
    damage(newest(tmp_path / "cut"))
    assert figures(fit(job_input, tmp_path / "cut")) == figures(whole)
    assert said in capsys.readouterr().err


def test_where_every_checkpoint_is_torn_training_starts_again(
    tmp_path: Path, job_input: JobInput, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = fit(job_input, tmp_path / "whole")
    cut_off(job_input, tmp_path / "cut", after_epochs=2)
    for path in (tmp_path / "cut" / "checkpoints").glob("*.ckpt"):
        tear(path)
    assert figures(fit(job_input, tmp_path / "cut")) == figures(whole)
    said = capsys.readouterr().err
    assert "not used" in said
    assert "going on" not in said


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def adopted(folder: Path, name: str, epoch: int, owner: Owner, content: bytes) -> None:
    """Put a file among a job's checkpoints with a manifest that verifies."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    temporary = folder / "checkpoints" / f".{name}.tmp"
    temporary.write_bytes(content)
    found = Manifest(name, sha256_hex(content), 0, epoch, 0, BatchSpec(8, 1, 1), owner)
    manifest.adopt(temporary, temporary.with_name(name), found)


def as_pickle(canary: Path, path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Hostile(canary)}, protocol=2))


def as_archive(canary: Path, path: Path) -> None:
    torch.save({"state_dict": {}, "callbacks": Hostile(canary)}, path)


@pytest.mark.parametrize("save", [as_pickle, as_archive])
def test_a_hostile_pickle_is_refused_and_never_run(
    tmp_path: Path, job_input: JobInput, save: Callable[[Path, Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    canary, hostile = tmp_path / "canary", tmp_path / "hostile.ckpt"
    save(canary, hostile)
    adopted(tmp_path, "last-0003.ckpt", 3, Owner.of(job_input), hostile.read_bytes())
    assert fit(job_input, tmp_path).optimizer_steps == EPOCHS * STEPS
    assert not canary.exists()
    assert "not used: last-0003.ckpt: it cannot be loaded" in capsys.readouterr().err
    with suppress(RuntimeError):  # what follows the command is no checkpoint
        torch.load(hostile, weights_only=False)
    assert canary.exists(), "the file does run where it is trusted"


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"\x80\x02.", b"\x80\x02}q\x00.", bytes(999)])
def test_a_file_that_is_no_checkpoint_is_refused_though_its_digest_may_fit(content: bytes) -> None:
    assert (checkpoint_io.problem(content, Place(3, 0)) or "").startswith("it cannot be loaded: ")


def test_a_checkpoint_of_fewer_epochs_than_its_manifest_says_is_refused(tmp_path: Path, job_input: JobInput) -> None:
    cut_off(job_input, tmp_path, after_epochs=1)
    content = newest(tmp_path).read_bytes()
    assert checkpoint_io.problem(content, Place(1, 0)) is None
    for place in (Place(2, 0), Place(1, 3)):
        assert (checkpoint_io.problem(content, place) or "").startswith("it holds 1 epochs and 0 steps, not the")


def test_a_checkpoint_of_an_older_format_is_refused_in_words(
    tmp_path: Path, job_input: JobInput, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_off(job_input, tmp_path, after_epochs=1)
    for path in (tmp_path / "checkpoints").glob("*.json"):
        path.write_text(path.read_text().replace("gpuplan.checkpoint/2", "gpuplan.checkpoint/1"))
    assert fit(job_input, tmp_path).optimizer_steps == EPOCHS * STEPS
    said = "another version of gpuplan wrote it: its format is gpuplan.checkpoint/1, this one's gpuplan.checkpoint/2"
    assert said in capsys.readouterr().err


def test_a_module_whose_checkpoint_could_not_be_loaded_safely_is_told_so_at_the_first(
    tmp_path: Path, job_input: JobInput
) -> None:
    class Careless(Cut):
        def get_extra_state(self) -> Path:
            return Path("somewhere")

        def set_extra_state(self, state: Path) -> None:
            del state

    sets = loaders.DataSets(Augmented(SAMPLES), Augmented(20, shaken=False))
    with pytest.raises(JobError, match="no training could go on from this checkpoint") as caught:
        train.fit(job_input, "0" * 64, Careless(None), sets, tmp_path, ALONE)
    assert caught.value.kind == "user-code"


def test_another_jobs_checkpoint_is_neither_used_nor_dropped(tmp_path: Path, job_input: JobInput) -> None:
    adopted(tmp_path, "last-0009.ckpt", 9, Owner("run-2", "train", "0" * 64), b"precious")
    assert fit(job_input, tmp_path).optimizer_steps == EPOCHS * STEPS
    assert {"last-0009.ckpt", "last-0009.ckpt.json"} < set(names(tmp_path))


def test_a_lost_best_checkpoint_is_replaced_by_the_best_that_is_there(tmp_path: Path, job_input: JobInput) -> None:
    job_input = replace(job_input, train=STILL)
    cut_off(job_input, tmp_path, after_epochs=2)
    (tmp_path / "checkpoints" / "best-0001.ckpt").unlink()
    assert fit(job_input, tmp_path).best_epoch == 2
    assert stored(tmp_path, "best.ckpt")[".gpuplan_epochs.1.epoch"] == 2


def test_names_that_the_last_epoch_gave_are_taken_up_where_more_epochs_are_due(
    tmp_path: Path, job_input: JobInput
) -> None:
    whole = fit(job_input, tmp_path / "whole")
    cut_off(job_input, tmp_path / "cut", after_epochs=2)
    folder = tmp_path / "cut" / "checkpoints"
    content = newest(tmp_path / "cut").read_bytes()
    for path in folder.iterdir():
        path.unlink()
    adopted(tmp_path / "cut", "best.ckpt", 2, Owner.of(job_input), content)
    assert figures(fit(job_input, tmp_path / "cut")) == figures(whole)
    assert names(tmp_path / "cut") == ["best.ckpt", "best.ckpt.json", "last.ckpt", "last.ckpt.json"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second filesystem")  # noqa: S108 - and it is one
def test_the_folder_may_be_a_link_to_another_filesystem(tmp_path: Path, job_input: JobInput) -> None:
    with TemporaryDirectory(dir="/dev/shm") as mount:
        folder = tmp_path / "job"
        folder.mkdir()
        (folder / "checkpoints").symlink_to(mount)
        cut_off(job_input, folder, after_epochs=2)
        whole = fit(job_input, tmp_path / "whole")
        assert figures(fit(job_input, folder)) == figures(whole)
        assert names(folder) == ["best.ckpt", "best.ckpt.json", "last.ckpt", "last.ckpt.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_takes_no_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".last-0001.ckpt.tmp"
    path.symlink_to("/dev/full")
    with pytest.raises(JobError, match=r"a checkpoint cannot be written: .* MiB are free") as caught:
        checkpoint_io.CheckpointFiles().save_checkpoint({"weights": torch.zeros(10**6)}, path)
    assert caught.value.kind == "disk"
    assert list(tmp_path.iterdir()) == []


def test_every_name_that_is_not_yet_whole_is_hidden(tmp_path: Path, job_input: JobInput) -> None:
    written: list[Path] = []

    class Watched(checkpoint_io.CheckpointFiles):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
            written.append(Path(path))
            super().save_checkpoint(checkpoint, path, storage_options)

    train_with(job_input, tmp_path, [Watched()])
    assert [path.name for path in written] == [".last-0001.ckpt.tmp", ".last-0002.ckpt.tmp"]


def train_with(job_input: JobInput, folder: Path, plugins: list[Any], resume: bytes | None = None) -> pl.Trainer:
    """Train two epochs with Lightning alone around the keeper."""
    layout = EpochLayout(SAMPLES, 8, 1, 1)
    training = TrainingLayout((layout, layout))
    batches = loaders.EpochBatches(training, 0, 0)
    figures = EpochFigures(batches, 0.05)
    sets = loaders.DataSets(Augmented(SAMPLES), Augmented(20, shaken=False))
    files = next(plugin for plugin in plugins if isinstance(plugin, checkpoint_io.CheckpointFiles))
    files.resumed = resume
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        plugins=plugins,
        callbacks=[figures, CheckpointKeeper(folder, job_input, figures)],
        default_root_dir=folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    cpu = torch.device("cpu")
    trainer.fit(
        module_of(Cut(None), replace(job_input.workload, epochs=2), TrainSpec(0.05), training),
        loaders.training_loader(sets, batches, 0, cpu),
        loaders.validation_loader(sets, loaders.RankShard(20, 0, 1), 8, 0, cpu),
        ckpt_path=checkpoint_io.RESUME if resume else None,
    )
    return trainer


def test_the_loss_scalers_state_is_kept_and_taken_up(tmp_path: Path, job_input: JobInput) -> None:
    def scaler(scale: float) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=5)

    def plugins(of: torch.amp.GradScaler) -> list[Any]:
        return [MixedPrecision("16-mixed", "cpu", of), checkpoint_io.CheckpointFiles()]

    first, second = scaler(1024.0), scaler(2.0)
    train_with(job_input, tmp_path, plugins(first))
    train_with(job_input, tmp_path, plugins(second), newest(tmp_path).read_bytes())
    assert first.get_scale() != 1024.0
    assert second.state_dict() == first.state_dict()
