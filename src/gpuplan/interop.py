"""A rendered training job as the SageMaker SDK's `ModelTrainer`, for those who start and watch their jobs with the SDK.

Called by users' own code; needs `pip install gpuplan[sagemaker]`. It builds the object and starts nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuplan.aws import request_check, training_job
from gpuplan.backends import sagemaker
from gpuplan.backends.base import JobSpec
from gpuplan.core.errors import UsageError
from gpuplan.core.names import owner
from gpuplan.planning.job_input import job_input

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from sagemaker.core.helper.session_helper import Session
    from sagemaker.core.shapes import Channel
    from sagemaker.train.model_trainer import ModelTrainer

    from gpuplan.planning.plan import LaunchPlan

_FIXES = {
    "HyperParameters.train": "gpuplan launch    finds the learning rate first",
    "RoleArn": "add --role ARN, or run: gpuplan infra deploy",
    "AlgorithmSpecification.TrainingImage": "add --image URI",
}
_NO_BUCKET_FIX = "add --bucket NAME, or run: gpuplan infra deploy"


def to_model_trainer(
    plan: LaunchPlan, step: str, run_id: str, *, learning_rate: float | None = None, session: Session | None = None
) -> ModelTrainer:
    """Return a trainer for a step of a SageMaker plan, as `gpuplan launch` would run it; uploads the step's code.

    `run_id` names the folder of its checkpoints in the bucket; make one with `gpuplan.core.names.run_id`.
    `learning_rate` is what the training runs with, where the plan does not give it. The rest is as in
    `model_trainer_from_request`.

    Raises:
        UsageError: the plan has no such step or is for another backend, or as `model_trainer_from_request`.
    """
    planned = plan.step(step)
    if planned is None or plan.backend != "sagemaker":
        raise UsageError(f"this plan has no step {step!r} on SageMaker", fix="gpuplan plan --backend sagemaker")
    rate = plan.lr.learning_rate or learning_rate
    if planned.name == "train" and rate is None:
        raise UsageError("the training's learning rate is not known", fix=_FIXES["HyperParameters.train"])
    job = job_input(plan, planned, run_id=run_id, attempt=1, learning_rate=rate)
    backend = sagemaker.create(Path(tempfile.gettempdir()) / "gpuplan", plan.provenance.settings.aws)
    request = backend.render(JobSpec.of(planned, job, owner=owner(), limits=planned.limits))
    trainer = model_trainer_from_request(request.body, session)
    backend.upload_code(request)
    return trainer


def model_trainer_from_request(request: Mapping[str, Any], session: Session | None = None) -> ModelTrainer:
    """Return a trainer that sends what a CreateTrainingJob request of gpuplan says, as far as the SDK can.

    Equal: role, image, input mode, hyperparameters, channels, output and checkpoint paths, instances, volume, limits,
    spot, network isolation, environment. The SDK always differs in three things. It names the job itself, so gpuplan
    neither finds nor resumes it. It starts the payload from a shell script of its own, which it uploads to the
    session's default bucket and adds as the channel `sm_drivers`. And it states the compression of the output. The tag
    with the request's fingerprint is left out, because this is another request.

    The checkpoints' path is that of gpuplan's own job: run one of the two. Give a `session` of the region that the
    request was made for, where the AWS configuration names another one.

    Raises:
        UsageError: a value of the request is not known, the SDK cannot carry it, or the SDK is not installed.
    """
    _check(request)
    try:
        from sagemaker.core.training import configs
        from sagemaker.train.model_trainer import ModelTrainer
    except ImportError as error:
        raise UsageError(
            "version 3 of the SageMaker SDK is not installed", fix="pip install 'gpuplan[sagemaker]'"
        ) from error
    algorithm, resources = request["AlgorithmSpecification"], request["ResourceConfig"]
    stopping, checkpoints = request["StoppingCondition"], request["CheckpointConfig"]
    return ModelTrainer(
        sagemaker_session=session,
        role=request["RoleArn"],
        base_job_name=request["TrainingJobName"],
        training_image=algorithm["TrainingImage"],
        training_input_mode=algorithm["TrainingInputMode"],
        # `exec`, so that a stop's SIGTERM reaches the payload and not the shell.
        source_code=configs.SourceCode(command=" ".join(["exec", *algorithm["ContainerEntrypoint"]])),
        hyperparameters=dict(request["HyperParameters"]),
        input_data_config=[_channel(configs, channel) for channel in request["InputDataConfig"]],
        output_data_config=configs.OutputDataConfig(s3_output_path=request["OutputDataConfig"]["S3OutputPath"]),
        checkpoint_config=configs.CheckpointConfig(s3_uri=checkpoints["S3Uri"], local_path=checkpoints["LocalPath"]),
        compute=configs.Compute(
            instance_type=resources["InstanceType"],
            instance_count=resources["InstanceCount"],
            volume_size_in_gb=resources["VolumeSizeInGB"],
            enable_managed_spot_training=request["EnableManagedSpotTraining"],
        ),
        stopping_condition=configs.StoppingCondition(
            max_runtime_in_seconds=stopping["MaxRuntimeInSeconds"],
            **({"max_wait_time_in_seconds": wait} if (wait := stopping.get("MaxWaitTimeInSeconds")) else {}),
        ),
        networking=configs.Networking(enable_network_isolation=request["EnableNetworkIsolation"]),
        environment=dict(request["Environment"]),
        tags=[
            configs.Tag(key=tag["Key"], value=tag["Value"])
            for tag in request.get("Tags", [])
            if tag["Key"] != training_job.FINGERPRINT_TAG and isinstance(tag["Value"], str)
        ],
    )


def _channel(configs: ModuleType, channel: Mapping[str, Any]) -> Channel:
    """Return a channel as it stands in the request: the SDK's own `InputData` has no input mode and sends File."""
    source = channel["DataSource"]["S3DataSource"]
    made: Channel = configs.Channel(
        channel_name=channel["ChannelName"],
        data_source=configs.DataSource(
            s3_data_source=configs.S3DataSource(
                s3_data_type=source["S3DataType"],
                s3_uri=source["S3Uri"],
                s3_data_distribution_type=source["S3DataDistributionType"],
            )
        ),
        input_mode=channel["InputMode"],
    )
    return made


def _check(request: Mapping[str, Any]) -> None:
    for path, reason in request_check.unknowns(request):
        if not path.startswith("Tags"):
            raise UsageError(f"{path} is not known: {reason}", fix=_FIXES.get(path, _NO_BUCKET_FIX))
    for key, value in request["HyperParameters"].items():
        if "'" in value:
            raise UsageError(
                f"the SageMaker SDK cannot carry the apostrophe in {key}: {value[:60]}",
                why="its start script writes each hyperparameter between apostrophes, and the job would die there",
                fix="rename what holds it, or start the job with: gpuplan launch",
            )
