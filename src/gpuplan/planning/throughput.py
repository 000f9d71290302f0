"""Rough time of a training or an LR range test: seconds a step, what bounds it, hours p50 and p90.

Called by plans. Pure arithmetic on facts of model, hardware and data; a measured step time replaces the guess.
Formulas, sources and measured errors: docs/estimates.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gpuplan.core.frozen import Frozen, Unknown
from gpuplan.core.units import SECONDS_PER_HOUR
from gpuplan_job.contract import Precision

if TYPE_CHECKING:
    from gpuplan.planning.models import ModelFacts

Bound = Literal["compute", "data loading", "all-reduce", "start-up", "measured"]

_TRAIN_FORWARDS = 3.0
"""A backward pass costs two forward passes: the gradients of inputs and of weights."""
_ARITHMETIC_EFFICIENCY = 0.8
"""Of the tensor peak, in time that is not memory traffic; fitted with the next two on benchmarks/data."""
_TRAFFIC = 15.5
"""Bytes moved to and from GPU memory for each byte kept for the backward pass."""
_FP32_SHARE = 0.3
"""fp32 speed over the half-precision tensor peak: TF32 convolutions have 1/2, V100 and T4 without TF32 1/8."""
_LAUNCH_SECONDS = 10e-6
"""Of a kernel from Python; an assumption that counts for tiny inputs only."""
_OPTIMIZER_BYTES = 20.0
"""Read and written a parameter by SGD with momentum."""
_GPU_SPREAD = 1.6
"""Nine in ten published speeds are no slower than this times the estimate."""
_SEVERAL_GPUS = 1.1
"""Waiting for the slowest of several GPUs."""
_RING_GBS = {"pcie": 5.0, "nvlink": 50.0, "nvswitch": 100.0}
"""All-reduce bandwidth a GPU in one direction, where the profile has no figure: assumptions."""
_RING_SHARE = 1 / 3
"""Of a published bidirectional bandwidth, what a ring reaches in one direction."""
_NETWORK_SHARE = 0.7
"""Of an instance's baseline network bandwidth, what gradients reach: an assumption."""
_BITS = 8
_OVERLAP = 0.5
"""Share of a micro-batch's time behind which DDP hides the all-reduce; backward takes two thirds."""
_CPU_GFLOPS = 40.0
"""A vCPU in training, fp32; 18 to 108 measured on one Xeon core over nine models and sizes."""
_CPU_LAUNCH_SECONDS = 10e-6
_CPU_SPREAD = 3.0
_JPEG_PER_VCPU = 100.0
"""ImageNet-sized JPEG decoded, cropped and normalised a second: an assumption, see docs/estimates.md."""
_TENSORS_PER_VCPU = 5000.0
"""Samples that lie in memory as tensors, collated a second: an assumption."""
_MEASURED_SPREAD = 1.15
"""Machines of one type differ, validation and checkpoints come on top: an assumption."""
_MIB = 1024**2
_GIGA = 1e9
_TERA = 1e12
_FP32_BYTES = 4
_SECONDS_PER_MINUTE = 60


class Hours(Frozen):
    """Hours that half (p50) and nine in ten (p90) of such runs stay within."""

    p50: float
    p90: float


class Hardware(Frozen):
    """The machine of one step; figures are of one GPU, `vcpus` of the whole machine."""

    device: Literal["cuda", "mps", "cpu"]
    gpus: int
    """Processes of the step on all its machines: GPUs used, or CPU processes."""
    vcpus: int
    """Of all its machines together."""
    nodes: int = 1
    network_gbps: float | None = None
    """Of one machine, Gbit/s; counts where there are several."""
    peak_tflops: float | None = None
    """Dense fp16 or bf16 tensor peak of a GPU."""
    fp32_tflops: float | None = None
    bandwidth_gbs: float | None = None
    """Of GPU memory, GB/s."""
    interconnect: Literal["single-gpu", "pcie", "nvlink", "nvswitch"] = "single-gpu"
    interconnect_gbs_per_gpu: float | None = None
    """Both directions together."""
    startup_minutes: tuple[float, float] = (0.0, 0.0)
    """Billed minutes before the first step, p50 and p90."""


class StepLoad(Frozen):
    """What one optimizer step has to do."""

    per_gpu_batch: int
    accumulation: int
    precision: Precision
    jpeg: bool
    """Samples are JPEG files to decode and augment, not tensors in memory."""


class StepTime(Frozen):
    """Seconds of one optimizer step and what decides them."""

    seconds: float
    bound: Bound
    spread: float
    """p90 / p50 of the seconds."""
    how: str


class TimeEstimate(Frozen):
    """How long a step of a pipeline takes, start-up included."""

    hours: Hours
    samples_per_second: float
    """Over all GPUs, in training."""
    bound: Bound
    how: str


def step_time(facts: ModelFacts | Unknown, load: StepLoad, hardware: Hardware) -> StepTime | Unknown:
    """Return the seconds of one optimizer step over `gpus` processes, or why they are not known.

    step = max(accumulation x micro-batch + optimizer + all-reduce that backward does not hide, data loading)
    """
    if isinstance(facts, Unknown):
        return facts
    micro = _micro_batch_seconds(facts, load, hardware)
    if isinstance(micro, Unknown):
        return micro
    if hardware.nodes > 1 and hardware.network_gbps is None:
        return Unknown(unknown="the network bandwidth between the instances is not known")
    several = _SEVERAL_GPUS if hardware.gpus > 1 and hardware.device == "cuda" else 1.0
    compute = load.accumulation * micro * several + _optimizer_seconds(facts, hardware)
    reduce = max(0.0, _all_reduce_seconds(facts, hardware) - _OVERLAP * micro)
    data = _data_seconds(load, hardware)
    if hardware.device == "cpu":
        # Training and loading share the cores, so their times add up.
        compute, data = compute + data, 0.0
    spread = _CPU_SPREAD if hardware.device == "cpu" else _GPU_SPREAD
    bound: Bound = "all-reduce" if reduce > compute else "compute"
    if data > compute + reduce:
        bound = "data loading"
    how = f"compute {compute:.3g} s, all-reduce not hidden {reduce:.2g} s, data loading {data:.3g} s a step"
    return StepTime(seconds=max(compute + reduce, data), bound=bound, spread=spread, how=how)


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
    step: StepTime | Unknown, load: StepLoad, hardware: Hardware, *, steps: int, noise_micro_batches: int
) -> TimeEstimate | Unknown:
    """Return the time of an LR range test: `steps` = runs x iterations optimizer steps, and the noise micro-batches."""
    if isinstance(step, Unknown):
        return step
    noise = noise_micro_batches * step.seconds / load.accumulation
    batch = load.per_gpu_batch * hardware.gpus * load.accumulation
    return _estimate(step, steps * step.seconds + noise, batch, hardware.startup_minutes)


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


def _micro_batch_seconds(facts: ModelFacts, load: StepLoad, hardware: Hardware) -> float | Unknown:
    """Return the seconds of a micro-batch's forward and backward pass: arithmetic + memory traffic, or launches."""
    gflop = _TRAIN_FORWARDS * facts.forward_gflop * load.per_gpu_batch
    if hardware.device == "cpu":
        cores = hardware.vcpus / hardware.gpus  # both of all machines
        return gflop / (_CPU_GFLOPS * cores) + _TRAIN_FORWARDS * facts.operations * _CPU_LAUNCH_SECONDS
    if hardware.device == "mps":
        return Unknown(unknown="no speed is known of Apple GPUs: lr-find measures it")
    if hardware.peak_tflops is None or hardware.bandwidth_gbs is None:
        return Unknown(unknown="the GPU's peak TFLOPS or memory bandwidth is not known: lr-find measures the speed")
    peak, saved = hardware.peak_tflops, facts.saved_mib_mixed
    if load.precision == "fp32":
        peak, saved = max(hardware.fp32_tflops or 0.0, _FP32_SHARE * peak), facts.saved_mib
    arithmetic = gflop * _GIGA / (_ARITHMETIC_EFFICIENCY * peak * _TERA)
    traffic = _TRAFFIC * saved * _MIB * load.per_gpu_batch / (hardware.bandwidth_gbs * _GIGA)
    return max(arithmetic + traffic, _TRAIN_FORWARDS * facts.operations * _LAUNCH_SECONDS)


def _optimizer_seconds(facts: ModelFacts, hardware: Hardware) -> float:
    """Return the seconds the optimizer takes to read and write weights, gradients and state; 0 where unknown."""
    if hardware.bandwidth_gbs is None:
        return 0.0
    return facts.parameters * _OPTIMIZER_BYTES / (hardware.bandwidth_gbs * _GIGA)


def _all_reduce_seconds(facts: ModelFacts, hardware: Hardware) -> float:
    """Return the seconds of a ring all-reduce of fp32 gradients: each GPU sends and receives 2 (n - 1) / n of them.

    Over several machines the slower of the two rings counts, the one between the GPUs of a machine or the one between
    the machines, whose bandwidth all GPUs of a machine share.
    """
    between = 0.0
    if hardware.nodes > 1 and hardware.network_gbps is not None:
        sent = 2 * (hardware.nodes - 1) / hardware.nodes * facts.parameters * _FP32_BYTES
        between = sent / (_NETWORK_SHARE * hardware.network_gbps / _BITS * _GIGA)
    return max(between, _within_machine_seconds(facts, hardware))


def _within_machine_seconds(facts: ModelFacts, hardware: Hardware) -> float:
    if hardware.gpus == 1 or hardware.interconnect == "single-gpu":
        return 0.0
    ring = _RING_GBS[hardware.interconnect]
    if hardware.interconnect_gbs_per_gpu is not None:
        ring = _RING_SHARE * hardware.interconnect_gbs_per_gpu
    sent = 2 * (hardware.gpus - 1) / hardware.gpus * facts.parameters * _FP32_BYTES
    return sent / (ring * _GIGA)


def _data_seconds(load: StepLoad, hardware: Hardware) -> float:
    """Return the seconds all vCPUs take to load a global batch."""
    samples = load.per_gpu_batch * load.accumulation * hardware.gpus
    return samples / (hardware.vcpus * (_JPEG_PER_VCPU if load.jpeg else _TENSORS_PER_VCPU))
