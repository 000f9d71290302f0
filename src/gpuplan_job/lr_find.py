"""The LR range test as a job: `python -m gpuplan_job.lr_find INPUT OUTPUT_DIR` on one device, in its own process.

Started by the launcher. It measures, decides and writes `lr_result.json`; whoever reads it decides again from the
curves and must come to the same. It must not write checkpoints nor use more than one device.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from gpuplan_job import loaders, machine_probe, network_loss, noise, optim, process_tree, runtime
from gpuplan_job.atomic import write_atomic
from gpuplan_job.batch_growth import TrainingLayout
from gpuplan_job.contract import LR_RESULT_FILE, UNDECIDED, BatchSweeps, JobInput, LrResult, NoiseScale
from gpuplan_job.decision import decide
from gpuplan_job.document import sha256_hex
from gpuplan_job.failures import JobError, report
from gpuplan_job.finder.feed import samples_in
from gpuplan_job.learner import Batch, Learner
from gpuplan_job.pace import Pace
from gpuplan_job.process import Process
from gpuplan_job.sampling import EpochLayout
from gpuplan_job.sweep import Sweeper
from gpuplan_job.workload_subject import WorkloadSubject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from gpuplan_job.contract import Curve, Progress, SweepAt, SweepSpec, WorkloadSpec
    from gpuplan_job.loaders import DataSets


def main(arguments: list[str]) -> int:
    """Run the job that a file describes and write its result or its failure; return the exit code."""
    input_path, folder = Path(arguments[0]), Path(arguments[1])
    job_input: JobInput | None = None
    try:
        text = input_path.read_bytes()
        job_input = JobInput.from_json(text)
        machine_probe.check(job_input, folder, Process.from_environment({}))
        device = runtime.device(job_input.device, 0)
        subject = WorkloadSubject(job_input.workload, folder)
        check = subject.data_check(job_input, folder, of_all=True)
        try:
            result = range_test(job_input, sha256_hex(text), subject.network, subject.sets, device, _print_progress)
        finally:
            check.stop()
        write_atomic(folder / LR_RESULT_FILE, result.to_json())
    except Exception as error:  # noqa: BLE001 - whatever went wrong is recorded for the client
        report(folder, job_input, error, rank=0)
        return 1
    return 0


def range_test(
    job_input: JobInput,
    input_sha256: str,
    network_factory: Callable[[], nn.Module],
    sets: DataSets,
    device: torch.device,
    on_progress: Callable[[Progress], None],
) -> LrResult:
    """Measure the gradient noise scale once, where the data suffices, then run every sweep from its own fresh weights.

    Run r draws weights, order and augmentation from `workload.seed + r`. The noise is measured on the initial weights
    of run 0, in a network of its own: the sweeps are the same with and without it.

    Raises:
        JobError: the input is not for a range test on one device, or the data does not fill one optimizer step.
    """
    spec = _checked(job_input, loaders.sample_count(sets.train))
    workload, batch = job_input.workload, job_input.batch
    pace = Pace(job_input.step, spec.optimizer_steps, batch.global_batch, time.perf_counter, on_progress)
    noise_scale = None
    single = EpochLayout(loaders.sample_count(sets.train), batch.per_gpu, 1, 1)
    if (count := noise.micro_batches(spec.noise_micro_batches, single)) > 0:
        pace.begin("noise scale", 0)
        sampler = loaders.EpochBatches(TrainingLayout((single,)), workload.seed, 0)
        noise_scale = _measure_noise(job_input, count, network_factory, (sets, sampler), device)

    sweeps = _Sweeps(workload, spec, network_factory, sets, device, pace)
    curves = sweeps.run("sweep", spec.own(batch))
    measured = pace.measured(runtime.peak_gib(device), runtime.device_name(device))
    check = None
    if spec.check is not None:
        check = BatchSweeps(
            spec.check, sweeps.run(f"check at batch {spec.check.batch.global_batch}, sweep", spec.check)
        )
    result = LrResult(
        run_id=job_input.run_id,
        step=job_input.step,
        attempt=job_input.attempt,
        input_sha256=input_sha256,
        workload=workload,
        sweep=spec,
        batch=batch,
        precision=runtime.effective_precision(workload.precision, device),
        curves=curves,
        noise_scale=noise_scale,
        check=check,
        compared=[BatchSweeps(at, sweeps.run(f"batch {at.batch.global_batch}, sweep", at)) for at in spec.compare],
        decision=UNDECIDED,
        measured=measured,
        versions=runtime.versions(),
        chance_loss=optim.chance_loss(sweeps.targets_seen, workload.label_smoothing),
        own_optimizer=sweeps.own_optimizer,
    )
    return replace(result, decision=decide(result))


class _Sweeps:
    """Runs the sweeps of one job, each from fresh weights."""

    def __init__(
        self,
        workload: WorkloadSpec,
        spec: SweepSpec,
        network_factory: Callable[[], nn.Module],
        sets: DataSets,
        device: torch.device,
        pace: Pace,
    ) -> None:
        self.workload, self.spec, self.network_factory = workload, spec, network_factory
        self.sets, self.device, self.pace = sets, device, pace
        self.own_done = 0
        self.targets_seen: Counter[int] = Counter()
        """How often each class was a target; empty where the targets are no classes."""
        self.own_optimizer: Literal["sgd", "adamw"] | None = None
        """What the optimizer is that the module configures itself."""

    def run(self, phase: str, at: SweepAt) -> list[Curve]:
        """Return the curves of all sweeps at one batch; only those of the range test's own batch are timed."""
        layout = EpochLayout(loaders.sample_count(self.sets.train), at.batch.per_gpu, 1, at.batch.accumulation)
        sweeper = Sweeper(replace(self.spec, iterations=at.iterations), self.pace)
        first = self.own_done
        curves = []
        for run in range(at.runs):
            seed = self.workload.seed + run
            self.pace.begin(f"{phase} {run + 1} of {at.runs}", first + run * at.iterations, timed=first == 0)
            runtime.seed_everything(seed)
            learner = Learner.of(self.network_factory(), self.workload, self.device)
            steps = _optimizer_steps(
                self.sets,
                loaders.EpochBatches(TrainingLayout((layout,)), seed, 0),
                self.workload.workers,
                self.device,
            )
            with learner.attached(self.spec.reference_steps):  # a module may ask how long the training is
                optimizer = learner.optimizer(self.spec.lr_min)
            scaler = runtime.grad_scaler(self.workload.precision, self.device)
            curves.append(sweeper.sweep(learner, optimizer, scaler, self._counted(steps, learner.network), seed))
            self.own_optimizer = learner.own_optimizer
        self.own_done = first + at.runs * at.iterations
        return curves

    def _counted(self, steps: Iterator[list[Batch]], network: nn.Module) -> Iterator[list[Batch]]:
        for batches in steps:
            for batch in batches:
                targets = network_loss.class_targets(network, batch)
                if targets is not None:
                    self.targets_seen.update(targets[targets >= 0].tolist())
            yield batches


def _checked(job_input: JobInput, samples: int) -> SweepSpec:
    spec, batch = job_input.sweep, job_input.batch
    if spec is None or batch.world_size != 1:
        raise JobError("usage", "an LR range test runs on one device", "start it from a plan with one GPU in this step")
    if spec.runs < 1 or spec.iterations <= 1 or not 0 < spec.lr_min < spec.lr_max:
        raise JobError("usage", f"not a sweep: {spec}", "set runs, two or more iterations and a rising LR range")
    for at in spec.others:
        if at.runs < 1 or at.iterations <= 1 or at.batch.world_size != 1:
            raise JobError("usage", f"not a sweep on one device: {at}", "set runs and two or more iterations")
        if samples < at.batch.global_batch:
            raise JobError(
                "data",
                f"{samples} training samples do not fill one batch of {at.batch.global_batch}",
                "leave out --lr-check, or that batch of --compare-batches",
            )
    if samples < batch.global_batch:
        raise JobError(
            "data",
            f"{samples} training samples do not fill one batch of {batch.global_batch}",
            f"use a --per-gpu-batch of at most {max(1, samples // batch.accumulation)}",
        )
    return spec


def _measure_noise(
    job_input: JobInput,
    micro_batches: int,
    network_factory: Callable[[], nn.Module],
    source: tuple[DataSets, loaders.EpochBatches],
    device: torch.device,
) -> NoiseScale | None:
    workload = job_input.workload
    runtime.seed_everything(workload.seed)
    learner = Learner.of(network_factory(), workload, device)
    steps = _optimizer_steps(*source, workload.workers, device)
    losses = (
        (samples_in(batches[0]) or 1, partial(learner.loss, batches[0])) for batches in islice(steps, micro_batches)
    )
    with learner.attached(micro_batches):
        measured = noise.measure_losses(learner.network, losses, workload.precision, device)
    if device.type == "cuda":
        # The sum of gradients is no part of a training: keep it out of the peak that the training is planned with.
        del learner
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return measured


def _optimizer_steps(
    sets: DataSets, sampler: loaders.EpochBatches, workers: int, device: torch.device
) -> Iterator[list[Batch]]:
    """Yield the micro-batches of one optimizer step after the other, epoch after epoch, without end.

    An epoch's ragged last step is left out: its loss scatters more than its neighbours' and would count the same.
    """
    layout = sampler.layout
    loader = loaders.training_loader(sets, sampler, workers, device)
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        step: list[Batch] = []
        for batch, cut in zip(loader, sampler.micro_batches, strict=True):
            step.append(batch)
            if cut.last_of_step:
                if cut.step_samples == layout.global_batch or layout.steps == 1:
                    yield step
                step = []
        epoch += 1


def _print_progress(progress: Progress) -> None:
    print(progress.to_line(), flush=True)  # noqa: T201 - the log is how progress leaves a job


if __name__ == "__main__":
    process_tree.die_with_parent()
    sys.exit(main(sys.argv[1:]))
