"""Time of a training or an LR range test: seconds a step, what bounds it, hours p50 and p90.

Called by plans. Pure arithmetic on the trace of a step, on hardware and data; a measured step time replaces it.
Formulas, sources and measured errors: docs/estimates-time.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.core.units import SECONDS_PER_HOUR
from gpuplan.planning.speed import communication, roofline
from gpuplan.planning.speed.data_loading import loading
from gpuplan.planning.speed.machine import Hardware, StepLoad

if TYPE_CHECKING:
    from gpuplan_job.step_trace import StepTrace

__all__ = [
    "Bound",
    "Hardware",
    "Hours",
    "StepLoad",
    "StepTime",
    "TimeEstimate",
    "find_batch",
    "from_measured",
    "lr_find",
    "measured_step",
    "step_time",
    "train",
]

Bound = Literal["compute", "memory bandwidth", "launch", "all-reduce", "data loading", "start-up", "measured"]

_TRAIN_FORWARDS = 3.0
"""A training step costs about three forward passes: the gradients of inputs and of weights are two."""
_LAUNCH_FORWARD_SECONDS = 30e-6
"""CPU time of a kernel through Python: 20 to 47 us in published latencies of one image."""
_LAUNCH_BACKWARD_SECONDS = 12e-6
"""The same from autograd's C++ thread: an assumption. Both decide for tiny inputs only."""
_ACCESSES = {"sgd": 6.0, "adam": 21.0, "adamw": 20.0, "rmsprop": 16.0, "adagrad": 16.0, "lamb": 26.0, "own": 20.0}
"""How often PyTorch's foreach optimizers read or write each parameter's bytes, weight decay included. LAMB also
takes two norms and scales its update; one of the user's own that is none of these is taken for AdamW."""
_MOMENTUM_ACCESSES = {"sgd": 5.0, "rmsprop": 5.0}
"""Those that keep a momentum only where it is asked for: they scale it, add to it, and step by it."""
_UNSCALE_ACCESSES = 2.0
"""GradScaler divides the gradients by its scale."""
_BUCKET_ACCESSES = 4.0
"""DDP copies gradients into its buckets and back."""
_AVERAGE_ACCESSES = 3.0
"""A moving average reads the weights and itself, and writes itself."""
_CLIP_ACCESSES = 3.0
"""Clipping reads the gradients for their norm, then reads and writes them."""
SEVERAL_GPUS = 1.035
"""Waiting for the slowest of several GPUs: median of published pairs of one and several GPUs."""
SEEN = ("V100", "A100", "H100")
"""GPUs of AWS with published rows, by the beginning of their name."""
SPREAD_SEEN = 1.3
"""p90 / p50 of a step on them: nine in ten published speeds of held-out models stay within."""
SPREAD_UNSEEN = 1.4
"""On other GPUs: more than the published rows show, because none is of a card with 70 W like T4 and L4."""
_CPU_GFLOPS = 40.0
"""A vCPU in training, fp32; 18 to 108 measured on one Xeon core over nine models and sizes."""
_CPU_LAUNCH_SECONDS = 10e-6
_CPU_SPREAD = 3.0
_MEASURED_SPREAD = 1.15
"""Machines of one type differ, validation and checkpoints come on top: an assumption."""
_GIGA = 1e9
_SECONDS_PER_MINUTE = 60


class Hours(Frozen):
    """Hours that half (p50) and nine in ten (p90) of such runs stay within."""

    p50: float
    p90: float


class StepTime(Frozen):
    """Seconds of one optimizer step and what decides them."""

    seconds: float
    bound: Bound
    spread: float
    """p90 / p50 of the seconds."""
    how: str
    computing: float = 0.0
    """Seconds that the GPUs take, all-reduce included; data loading that goes on beside them is not."""
    loading: float = 0.0
    """Seconds that loading the data takes beside them."""


class TimeEstimate(Frozen):
    """How long a step of a pipeline takes, start-up included."""

    hours: Hours
    samples_per_second: float
    """Over all GPUs, in training."""
    bound: Bound
    how: str


class _Micro(NamedTuple):
    """One micro-batch: forward and backward pass."""

    seconds: float
    backward: float
    bound: Bound


def step_time(trace: StepTrace | Unknown, load: StepLoad, hardware: Hardware) -> StepTime | Unknown:
    """Return the seconds of one optimizer step over `gpus` processes, or why they are not known.

    step = max(accumulation x micro-batch + optimizer + all-reduce that backward does not hide, data loading)
    """
    if isinstance(trace, Unknown):
        return trace
    micro = _micro_batch(trace, load, hardware)
    if isinstance(micro, Unknown):
        return micro
    if hardware.nodes > 1 and hardware.network_gbps is None:
        return Unknown(unknown="the network bandwidth between the instances is not known")
    gradients = float(sum(trace.trainable))
    compute = load.accumulation * micro.seconds * _waiting(hardware) + _optimizer_seconds(gradients, load, hardware)
    reduce = communication.exposed_seconds(gradients, micro.backward, hardware)
    data = loading(load, hardware)
    if not data.beside:
        compute += data.seconds
    beside = data.seconds if data.beside else 0.0
    return StepTime(
        seconds=max(compute + reduce, beside),
        bound=_bound(micro.bound, compute, reduce, beside),
        spread=_spread(hardware),
        how=f"compute {compute:.3g} s, all-reduce not hidden {reduce:.2g} s, "
        f"data loading {data.seconds:.3g} s by {data.processes} processes a step",
        computing=compute + reduce,
        loading=beside,
    )


def measured_step(step_seconds: float) -> StepTime:
    """Return a step time that was measured on the same GPU, to pass to `train` in place of the rough one."""
    return StepTime(seconds=step_seconds, bound="measured", spread=_MEASURED_SPREAD, how="measured by lr-find")


def train(
    step: StepTime | Unknown, load: StepLoad, hardware: Hardware, *, steps: int, val_samples: int
) -> TimeEstimate | Unknown:
    """Return the time of `steps` optimizer steps and of `val_samples` forward passes, both over all epochs."""
    if isinstance(step, Unknown):
        return step
    batch = load.per_gpu_batch * hardware.gpus * load.accumulation
    # Reading a validation sample costs what reading a training sample does; computing it costs the forward pass.
    share = 1.0 if step.bound == "data loading" else 1 / _TRAIN_FORWARDS
    validation = share * val_samples * step.seconds / batch
    return _estimate(step, steps * step.seconds + validation, batch, hardware.startup_minutes)


def lr_find(
    step: StepTime | Unknown, load: StepLoad, hardware: Hardware, *, steps: float, noise_micro_batches: int
) -> TimeEstimate | Unknown:
    """Return the time of an LR range test: `steps` optimizer steps over all sweeps, and the noise micro-batches."""
    if isinstance(step, Unknown):
        return step
    noise = noise_micro_batches * step.seconds / load.accumulation
    batch = load.per_gpu_batch * hardware.gpus * load.accumulation
    return _estimate(step, steps * step.seconds + noise, batch, hardware.startup_minutes)


def find_batch(step: StepTime | Unknown, hardware: Hardware, *, seconds: float, samples: int) -> TimeEstimate | Unknown:
    """Return the time of a batch search whose tries take `seconds`; `step` is one of `samples`, its largest try's."""
    if isinstance(step, Unknown):
        return step
    return _estimate(step, seconds, samples, hardware.startup_minutes)


def from_measured(
    step_seconds: float, steps: int, startup_minutes: tuple[float, float], samples_per_step: int
) -> TimeEstimate:
    """Return the time of `steps` steps at a measured `step_seconds`, with the narrower band a measurement earns."""
    return _estimate(measured_step(step_seconds), steps * step_seconds, samples_per_step, startup_minutes)


def _estimate(step: StepTime, seconds: float, batch: int, startup_minutes: tuple[float, float]) -> TimeEstimate:
    startup = tuple(minutes * _SECONDS_PER_MINUTE for minutes in startup_minutes)
    return TimeEstimate(
        hours=Hours(
            p50=(seconds + startup[0]) / SECONDS_PER_HOUR, p90=(seconds * step.spread + startup[1]) / SECONDS_PER_HOUR
        ),
        samples_per_second=batch / step.seconds,
        bound="start-up" if startup[0] > seconds else step.bound,
        how=step.how,
    )


def _bound(computing: Bound, compute: float, reduce: float, data: float) -> Bound:
    if data > compute + reduce:
        return "data loading"
    return "all-reduce" if reduce > compute else computing


def _waiting(hardware: Hardware) -> float:
    return SEVERAL_GPUS if hardware.gpus > 1 and hardware.device == "cuda" else 1.0


def _spread(hardware: Hardware) -> float:
    if hardware.device == "cpu":
        return _CPU_SPREAD
    return SPREAD_SEEN if (hardware.gpu or "").startswith(SEEN) else SPREAD_UNSEEN


def _micro_batch(trace: StepTrace, load: StepLoad, hardware: Hardware) -> _Micro | Unknown:
    """Return the time of a micro-batch's forward and backward pass: the GPU's, or that of launching its kernels."""
    if hardware.device == "cpu":
        return _on_cpu(trace, load, hardware)
    if hardware.device == "mps":
        return Unknown(unknown="no speed is known of Apple GPUs: lr-find measures it")
    if hardware.peak_tflops is None or hardware.bandwidth_gbs is None:
        return Unknown(unknown="the GPU's peak TFLOPS or memory bandwidth is not known: lr-find measures the speed")
    if hardware.fp32_tflops is None:
        return Unknown(unknown="the GPU's peak fp32 TFLOPS is not known: lr-find measures the speed")
    speeds = roofline.Speeds(
        half_tflops=hardware.peak_tflops,
        tf32_tflops=hardware.peak_tflops / 2 if hardware.tf32 else None,
        fp32_tflops=hardware.fp32_tflops,
        bandwidth_gbs=hardware.bandwidth_gbs,
        mixed=load.precision != "fp32",
    )
    gpu = roofline.gpu_time(trace, load.per_gpu_batch, speeds)
    launching_backward = gpu.backward_launches * _LAUNCH_BACKWARD_SECONDS
    launching = gpu.forward_launches * _LAUNCH_FORWARD_SECONDS + launching_backward
    if launching > gpu.seconds:
        return _Micro(launching, launching_backward, "launch")
    # No more than what the step is longer than its launches: a larger batch must not hide more than it adds.
    backward = min(gpu.backward, launching_backward + gpu.seconds - launching)
    return _Micro(gpu.seconds, backward, "compute" if gpu.computing > gpu.moving else "memory bandwidth")


def _on_cpu(trace: StepTrace, load: StepLoad, hardware: Hardware) -> _Micro:
    of = trace.operations
    flops = (
        c * (f + e * load.per_gpu_batch) for c, f, e in zip(of.count, of.flops_fixed, of.flops_per_sample, strict=True)
    )
    cores = hardware.vcpus / hardware.gpus  # both of all machines
    seconds = sum(flops) / (_CPU_GFLOPS * _GIGA * cores) + sum(of.count) * _CPU_LAUNCH_SECONDS
    return _Micro(seconds, seconds * (1 - 1 / _TRAIN_FORWARDS), "compute")


def _optimizer_seconds(parameter_bytes: float, load: StepLoad, hardware: Hardware) -> float:
    """Return the seconds in which the optimizer moves weights, gradients and state; 0 on a CPU, where they are few."""
    if hardware.bandwidth_gbs is None:
        return 0.0
    accesses = _ACCESSES[load.optimizer] + (_MOMENTUM_ACCESSES.get(load.optimizer, 0.0) if load.momentum else 0.0)
    if load.precision == "16-mixed":
        accesses += _UNSCALE_ACCESSES
    if hardware.gpus > 1:
        accesses += _BUCKET_ACCESSES
    if load.average:
        accesses += _AVERAGE_ACCESSES
    if load.clipped:
        accesses += _CLIP_ACCESSES
    return roofline.optimizer_seconds(parameter_bytes, accesses, hardware.bandwidth_gbs)
