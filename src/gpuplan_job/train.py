"""Trains on all GPUs of a job: `python -m gpuplan_job.train INPUT OUTPUT_DIR`, alone or in each torchrun worker.

Started by `launch`; `fit` takes network and data as arguments, so that tests pass tiny ones. It must not choose a
learning rate, a batch or a device that its input does not state.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpuplan_job import oom_retry, process_tree
from gpuplan_job.atomic import write_atomic
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.contract import TRAIN_RESULT_FILE, JobInput, Progress, TrainResult
from gpuplan_job.document import ContractError, sha256_hex
from gpuplan_job.failures import JobError, report
from gpuplan_job.process import Process

if TYPE_CHECKING:
    import pytorch_lightning as pl
    import torch
    from lightning_fabric.plugins import CheckpointIO
    from torch import nn

    from gpuplan_job.loaders import DataSets, EpochBatches


def main(arguments: list[str]) -> int:
    """Train as the file `arguments[0]` says, write into the folder `arguments[1]`; return the exit code."""
    source, folder = map(Path, arguments)
    process = Process.from_environment(os.environ)
    job_input: JobInput | None = None
    try:
        text = source.read_bytes()
        job_input = oom_retry.applied(JobInput.from_json(text), folder)
        result = _train(job_input, sha256_hex(text), folder, process)
        if process.rank == 0:
            write_atomic(folder / TRAIN_RESULT_FILE, result.to_json())
    except Exception as error:  # noqa: BLE001 - every failure is reported in the job's folder
        from gpuplan_job import fail_fast

        report(folder, job_input, error, process.rank)
        if process.world_size > 1:
            fail_fast.leave(fail_fast.code(error))
        return fail_fast.code(error)
    return 0


def fit(
    job_input: JobInput,
    input_sha256: str,
    network: nn.Module,
    data: DataSets,
    folder: Path,
    process: Process,
) -> TrainResult:
    """Train `network`, or a LightningModule, in this process, one of `process.world_size`; every rank calls it.

    Checkpoints are written below `folder`; where it holds one of this very job that verifies, training goes on from
    it. The result counts all epochs. It is the same on every rank, but for what each measured itself, and for the best
    epoch where a checkpoint was lost; rank 0's is the one that counts.

    Raises:
        JobError: the input does not fit the processes, the data or the checkpoints, or the training diverged, or it was
            asked to stop.
    """
    from gpuplan_job import (
        agreement,
        checkpoint_folder,
        checkpoint_io,
        lightning_subject,
        loaders,
        network_options,
        regrouping,
        runtime,
    )
    from gpuplan_job.checkpoints import CheckpointKeeper
    from gpuplan_job.divergence import DivergenceGuard
    from gpuplan_job.ema import WeightAverage
    from gpuplan_job.epoch_draws import EpochDraws
    from gpuplan_job.fail_fast import FailFast
    from gpuplan_job.figures import EpochFigures
    from gpuplan_job.logged import Logged
    from gpuplan_job.measuring import Measuring
    from gpuplan_job.pulse import Pulse
    from gpuplan_job.training_progress import TrainingProgress

    workload, batch = job_input.workload, oom_retry.batch_of(job_input)
    if job_input.train is None:
        raise ContractError("JobInput: this is not a training")
    if process.world_size != batch.world_size:
        problem = f"{process.world_size} processes run, the plan says {batch.world_size}"
        fits = regrouping.fitting(batch.global_batch, replace(batch, world_size=process.world_size))
        raise JobError("internal", problem, f"start the job with gpuplan_job.launch; {fits}")
    device = runtime.device(job_input.device, process.local_rank, process.local_world_size)
    training = _layout(loaders.sample_count(data.train), loaders.sample_count(data.val), job_input)
    batches = loaders.EpochBatches(training, workload.seed, process.rank)
    shard = loaders.RankShard(loaders.sample_count(data.val), process.rank, process.world_size)
    network = network_options.apply(network, workload, device, world_size=process.world_size)
    module = lightning_subject.module_of(network, workload, job_input.train, training)
    figures = EpochFigures(batches, job_input.train.learning_rate)
    measuring = Measuring(device, batches)
    guarded = job_input.train.divergence_guard
    pulse = Pulse(folder, process.rank)
    keeper = CheckpointKeeper(folder, job_input, figures, before_save=pulse.saving, after_save=measuring.clock_restart)
    logged = Logged(job_input, folder, process.rank, _say_of_logger)
    files = checkpoint_io.CheckpointFiles()
    # The order counts: an epoch is drawn, then averaged and summed up, and one that is reported is one that is kept.
    callbacks = [
        pulse,
        EpochDraws(batches),
        *([WeightAverage(workload.ema_decay)] if workload.ema_decay is not None else []),
        figures,
        measuring,
        *([DivergenceGuard(figures, workload.label_smoothing, shard.samples)] if guarded else []),
        keeper,
        logged,
        TrainingProgress(job_input.step, figures, logged.and_log(_print)),
        FailFast(folder, job_input, process),
    ]
    trainer = _trainer(job_input, folder, (device, process), callbacks, (files, batches))
    trainer.loggers = [*logged.loggers]
    # The ranks must agree on a checkpoint before Lightning asks for it; its own set-up finds this done.
    trainer.strategy.setup_environment()
    group = agreement.gloo_group(process.world_size)
    keeper.agree_over(group, process.rank)
    files.resumed = checkpoint_io.shared(keeper.find(_say) if process.rank == 0 else None, group)
    trainer.fit(
        module,
        loaders.training_loader(data, batches, workload.workers, device, sets_draws=True),
        loaders.validation_loader(data, shard, batch.per_gpu, workload.workers, device),
        ckpt_path=None if files.resumed is None else checkpoint_io.RESUME,
    )
    best_epoch = keeper.files.best_epoch(figures.epochs)
    keeper.finish(figures.epochs)
    return TrainResult(
        run_id=job_input.run_id,
        step=job_input.step,
        attempt=job_input.attempt,
        input_sha256=input_sha256,
        world_size=process.world_size,
        learning_rate=job_input.train.learning_rate,
        epochs=figures.epochs,
        best_epoch=best_epoch,
        best_checkpoint=checkpoint_folder.BEST,
        last_checkpoint=checkpoint_folder.LAST,
        optimizer_steps=trainer.global_step,
        measured=measuring.measured(),
        versions=runtime.versions(),
        oom_retry=job_input.train.oom_retry,
    )


def _train(job_input: JobInput, input_sha256: str, folder: Path, process: Process) -> TrainResult:
    from gpuplan_job import machine_probe, runtime
    from gpuplan_job.workload_subject import WorkloadSubject

    workload = job_input.workload
    machine_probe.check(job_input, folder, process)
    runtime.device(job_input.device, process.local_rank, process.local_world_size)  # fails before the data is read
    subject = WorkloadSubject(workload, folder)
    runtime.seed_everything(workload.seed)
    network = subject.network()
    if process.rank != 0:
        return fit(job_input, input_sha256, network, subject.sets, folder, process)
    check = subject.data_check(job_input, folder, of_all=False)
    try:
        return fit(job_input, input_sha256, network, subject.sets, folder, process)
    finally:
        check.stop()


def _layout(train_samples: int, val_samples: int, job_input: JobInput) -> TrainingLayout:
    batch, workload = job_input.batch, job_input.workload
    if val_samples < batch.world_size:
        problem = f"{val_samples} validation samples do not reach {batch.world_size} processes"
        raise JobError("data", problem, "validate with at least one sample per GPU")
    try:
        retry = job_input.train.oom_retry if job_input.train else None
        parts = retry.parts if retry else 1
        return TrainingLayout.of(train_samples, batch, workload.batch_schedule, workload.epochs, parts)
    except ValueError as error:
        raise JobError("usage", str(error), "use a smaller --per-gpu-batch or --accumulate, or more data") from error


def _trainer(
    job_input: JobInput,
    folder: Path,
    place: tuple[torch.device, Process],
    callbacks: list[pl.Callback],
    sources: tuple[CheckpointIO, EpochBatches],
) -> pl.Trainer:
    import pytorch_lightning as pl
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    from gpuplan_job import weighting
    from gpuplan_job.runtime import lightning_precision

    _quieten()
    (device, process), (files, batches) = place, sources
    distributed = process.world_size > 1

    def current_weight() -> float:
        cut = batches.micro_batches[trainer.fit_loop.epoch_loop.batch_idx]
        return weighting.weight(cut, batches.layout)

    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=process.local_world_size,
        num_nodes=process.nodes,
        strategy=weighting.strategy(device, distributed=distributed, current_weight=current_weight),
        # Named, so that Lightning does not take a scheduler's variables in the environment for its own.
        plugins=[TorchElasticEnvironment() if distributed else LightningEnvironment(), files],
        precision=lightning_precision(job_input.workload.precision, device),
        max_epochs=job_input.workload.epochs,
        accumulate_grad_batches=batches.layout.accumulation,
        gradient_clip_val=job_input.workload.clip_norm,
        # An epoch's number of micro-batches is asked for anew where it changes.
        reload_dataloaders_every_n_epochs=1 if batches.training.grows else 0,
        callbacks=callbacks,
        default_root_dir=folder,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return trainer


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
