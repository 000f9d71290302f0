"""What a step runs on: the GPU, the instance's shape around it, and the EC2 quotas it counts against.

Built as part of a profile (`profiles.schema`); read by planning and reports. Values only, no look at the machine.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gpuplan.core.frozen import Frozen

SAGEMAKER_PREFIX = "ml."

Accelerator = Literal["cuda", "mps", "cpu"]
Interconnect = Literal["single-gpu", "pcie", "nvlink", "nvswitch", "host"]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonEmpty = Annotated[str, Field(min_length=1)]


def _refuse_sagemaker_name(instance_type: str) -> str:
    if instance_type.startswith(SAGEMAKER_PREFIX):
        raise ValueError(f"write {instance_type.removeprefix(SAGEMAKER_PREFIX)!r}, EC2's name, for SageMaker too")
    return instance_type


QUOTA_NAMES = {
    "L-DB2E81BA": "Running On-Demand G and VT instances",
    "L-417A185B": "Running On-Demand P instances",
    "L-3819A6DF": "All G and VT Spot Instance Requests",
    "L-7212CCBC": "All P4, P3 and P2 Spot Instance Requests",
    "L-C4BD4855": "All P5 Spot Instance Requests",
}
"""What EC2 calls the quotas of its GPU instances (AWS General Reference, Amazon EC2 service quotas)."""

InstanceType = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$"), AfterValidator(_refuse_sagemaker_name)]


class Gpu(Frozen):
    """One accelerator as one training process sees it; a CPU process is described by the same fields."""

    model: NonEmpty
    """Short name, such as `A10G`; `CPU` where processes run on the CPU."""
    memory_mib: PositiveInt
    """Usable memory in MiB: the smaller of the figures of EC2's API and of nvidia-smi."""
    accelerator: Accelerator = "cuda"
    """Kind of device that PyTorch opens."""
    nvidia_smi_name: NonEmpty | None = None
    """Name nvidia-smi prints, such as `NVIDIA A10G`; absent for what is no NVIDIA GPU."""
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")] | None = None
    """CUDA compute capability, such as `8.6`; absent for what is no NVIDIA GPU."""
    bf16: bool
    """Whether bf16 runs natively (tensor cores), so that bf16-mixed is faster than fp32."""
    peak_tflops: PositiveFloat | None = None
    """Peak dense fp16/bf16 tensor throughput in TFLOPS (no sparsity); absent where not known."""
    fp32_tflops: PositiveFloat | None = None
    """Peak fp32 throughput outside tensor cores in TFLOPS; absent where no source was found."""
    bandwidth_gbs: PositiveFloat | None = None
    """Peak memory bandwidth in GB/s (10^9 bytes); absent where not known."""


class Quota(Frozen):
    """EC2 service quota codes (unit: vCPUs) that a launch of this family counts against."""

    on_demand: Annotated[str, Field(pattern=r"^L-[0-9A-F]{8}$")]
    """Code of the on-demand quota."""
    spot: Annotated[str, Field(pattern=r"^L-[0-9A-F]{8}$")] | None = None
    """Code of the spot quota."""


class Shape(Frozen):
    """One instance type that a step may run on."""

    instance_type: InstanceType
    """EC2 name, without SageMaker's `ml.`; `local` for this machine."""
    gpus: PositiveInt
    """Number of GPUs; on a CPU, the number of processes."""
    vcpus: PositiveInt
    """Number of virtual CPUs of the whole instance."""
    ram_gib: PositiveFloat
    """Nominal main memory in GiB; the operating system sees about 97 % of it."""
    interconnect: Interconnect
    """How gradients travel between the GPUs; `host` is through main memory, for CPU processes."""
    interconnect_gbs_per_gpu: PositiveFloat | None = None
    """Bandwidth between GPUs per GPU, both directions together, in GB/s; absent where no source was found."""
    network_gbps: PositiveFloat | None = None
    """Baseline network bandwidth of the instance in Gbit/s; absent where no source was found."""
    local_storage_gb: PositiveInt | None = None
    """NVMe storage of the instance in GB, which SageMaker uses instead of a volume; absent where it has none."""
    gpu: Gpu | None = None
    """The GPU, only where it is another one than the profile's."""
    quota: Quota | None = None
    """EC2's quotas, only where they are other ones than the profile's."""

    @model_validator(mode="after")
    def _one_gpu_needs_no_interconnect(self) -> Self:
        if self.interconnect != "host" and (self.gpus == 1) != (self.interconnect == "single-gpu"):
            raise ValueError(f"interconnect {self.interconnect!r} does not go with {self.gpus} GPU(s)")
        return self
