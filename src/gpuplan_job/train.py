"""Trains on all GPUs of a job: `python -m gpuplan_job.train INPUT OUTPUT_DIR`, alone or in each torchrun worker.

Started by `launch`; `fit` takes network and data as arguments, so that tests pass tiny ones. It must not choose a
learning rate, a batch or a device that its input does not state.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job import process_tree
from gpuplan_job.atomic import write_atomic
from gpuplan_job.contract import TRAIN_RESULT_FILE, JobInput, Progress, TrainResult
from gpuplan_job.document import ContractError, sha256_hex
from gpuplan_job.failures import JobError
from gpuplan_job.process import Process
from gpuplan_job.sampling import EpochLayout

if TYPE_CHECKING:
    import pytorch_lightning as pl
    import torch
    from lightning_fabric.plugins import CheckpointIO
    from torch import nn

    from gpuplan_job.contract import BatchSpec
    from gpuplan_job.data import Samples


def main(arguments: list[str]) -> int:
    """Train as the file `arguments[0]` says, write into the folder `arguments[1]`; return the exit code."""
    source, folder = map(Path, arguments)
    process = Process.from_environment(os.environ)
    job_input: JobInput | None = None
    try:
        text = source.read_bytes()
        job_input = JobInput.from_json(text)
        result = _train(job_input, sha256_hex(text), folder, process)
        if process.rank == 0:
            write_atomic(folder / TRAIN_RESULT_FILE, result.to_json())
    except Exception as error:  # noqa: BLE001 - every failure is reported in the job's folder
        from gpuplan_job import fail_fast

        fail_fast.report(folder, job_input, error, process.rank)
        if process.world_size > 1:
            fail_fast.leave()
        return 1
    return 0


def fit(
    job_input: JobInput,
    input_sha256: str,
    network: nn.Module,
    data: tuple[Samples, Samples],
    folder: Path,
    process: Process,
) -> TrainResult:
    """Train `network` on (training, validation) data in this process, one of `process.world_size`; every rank calls it.

    Checkpoints are written below `folder`; where it holds one of this very job that verifies, training goes on from
    it. The result counts all epochs. It is the same on every rank, but for what each measured itself, and for the best
    epoch where a checkpoint was lost; rank 0's is the one that counts.

    Raises:
        JobError: the input does not fit the processes or the data, or the training diverged.
    """
    from gpuplan_job import checkpoint_io, checkpoints, loaders, runtime
    from gpuplan_job.classifier import Classifier
    from gpuplan_job.fail_fast import FailFast
    from gpuplan_job.logged import Logged
    from gpuplan_job.manifest import Owner
    from gpuplan_job.measuring import Measuring
    from gpuplan_job.training_progress import TrainingProgress

    workload, batch = job_input.workload, job_input.batch
    if job_input.train is None:
        raise ContractError("JobInput: this is not a training")
    if process.world_size != batch.world_size:
        problem = f"{process.world_size} processes run, the plan says {batch.world_size}"
        raise JobError("internal", problem, "start the job with gpuplan_job.launch")
    device = runtime.device(job_input.device, process.local_rank, process.local_world_size)
    train_set, val_set = data
    layout = _layout(loaders.sample_count(train_set), loaders.sample_count(val_set), batch)
    batches = loaders.EpochBatches(layout, workload.seed, process.rank)
    shard = loaders.RankShard(loaders.sample_count(val_set), process.rank, process.world_size)
    classifier = Classifier(network, workload, batches, job_input.train)
    measuring = Measuring(device, layout.global_batch)
    keeper = checkpoints.CheckpointKeeper(folder, Owner.of(job_input))
    logged = Logged(job_input, folder, process.rank, _say_of_logger)
    progress = TrainingProgress(job_input.step, logged.and_log(_print))
    files = checkpoint_io.CheckpointFiles()
    # The keeper before the progress: an epoch that is reported is one that is kept.
    callbacks = [measuring, keeper, logged, progress, FailFast(folder, job_input, process)]
    trainer = _trainer(job_input, folder, (device, process), callbacks, files)
    trainer.loggers = [*logged.loggers]
    # The ranks must agree on a checkpoint before Lightning asks for it; its own set-up finds this done.
    trainer.strategy.setup_environment()
    files.resumed = checkpoint_io.shared(keeper.find(_say) if process.rank == 0 else None, process)
    trainer.fit(
        classifier,
        loaders.training_loader(train_set, batches, workload.workers, device),
        loaders.validation_loader(val_set, shard, batch.per_gpu, workload.workers, device),
        ckpt_path=None if files.resumed is None else checkpoint_io.RESUME,
    )
    best_epoch = keeper.best_epoch(classifier.epochs)
    if process.rank == 0:
        keeper.finish(classifier.epochs)
    return TrainResult(
        run_id=job_input.run_id,
        step=job_input.step,
        attempt=job_input.attempt,
        input_sha256=input_sha256,
        world_size=process.world_size,
        learning_rate=job_input.train.learning_rate,
        epochs=classifier.epochs,
        best_epoch=best_epoch,
        best_checkpoint=checkpoints.BEST,
        last_checkpoint=checkpoints.LAST,
        optimizer_steps=trainer.global_step,
        measured=measuring.measured(),
        versions=runtime.versions(),
    )


def _train(job_input: JobInput, input_sha256: str, folder: Path, process: Process) -> TrainResult:
    from gpuplan_job import data, model, runtime

    workload = job_input.workload
    runtime.device(job_input.device, process.local_rank, process.local_world_size)  # fails before the data is read
    description = data.describe(workload.data)
    sets = data.load(workload.data, workload.image_size)
    runtime.seed_everything(workload.seed)
    network = model.build(workload.model, description, workload.image_size)
    return fit(job_input, input_sha256, network, sets, folder, process)


def _layout(train_samples: int, val_samples: int, batch: BatchSpec) -> EpochLayout:
    if val_samples < batch.world_size:
        problem = f"{val_samples} validation samples do not reach {batch.world_size} processes"
        raise JobError("data", problem, "validate with at least one sample per GPU")
    try:
        return EpochLayout(train_samples, batch.per_gpu, batch.world_size, batch.accumulation)
    except ValueError as error:
        raise JobError("usage", str(error), "use a smaller --per-gpu-batch or --accumulate, or more data") from error


def _trainer(
    job_input: JobInput,
    folder: Path,
    place: tuple[torch.device, Process],
    callbacks: list[pl.Callback],
    files: CheckpointIO,
) -> pl.Trainer:
    import pytorch_lightning as pl
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from pytorch_lightning.strategies import DDPStrategy

    from gpuplan_job.runtime import lightning_precision

    _quieten()
    device, process = place
    distributed = process.world_size > 1
    backend = "nccl" if device.type == "cuda" else "gloo"
    # Without buffer broadcasts a forward pass holds no collective, so ranks may validate unequal numbers of batches;
    # the classifier broadcasts the buffers itself when they matter.
    ddp = DDPStrategy(process_group_backend=backend, broadcast_buffers=False)
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=process.local_world_size,
        num_nodes=process.nodes,
        strategy=ddp if distributed else "auto",
        # Named, so that Lightning does not take a scheduler's variables in the environment for its own.
        plugins=[TorchElasticEnvironment() if distributed else LightningEnvironment(), files],
        precision=lightning_precision(job_input.workload.precision, device),
        max_epochs=job_input.workload.epochs,
        accumulate_grad_batches=job_input.batch.accumulation,
        callbacks=callbacks,
        default_root_dir=folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _quieten() -> None:
    """Silence Lightning's tips and its advice on loaders; errors still come through."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\..*")


def _say(text: str) -> None:
    sys.stderr.write(f"checkpoints: {text}\n")


def _say_of_logger(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _print(progress: Progress) -> None:
    sys.stdout.write(progress.to_line() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    process_tree.die_with_parent()
    sys.exit(main(sys.argv[1:]))
