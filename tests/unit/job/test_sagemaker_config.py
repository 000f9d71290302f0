"""What SageMaker tells a container: the same job text as the client's, and every damaged file refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuplan_job import sagemaker_config
from gpuplan_job.contract import BatchSpec, JobInput, SweepSpec, TrainSpec, WorkloadSpec
from gpuplan_job.document import canonical_json
from gpuplan_job.failures import JobError
from gpuplan_job.torchrun import Nodes

if TYPE_CHECKING:
    from pathlib import Path

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(-(2**70), 2**70)
WORKLOADS = st.builds(
    WorkloadSpec,
    model=TEXT,
    data=TEXT,
    optimizer=st.sampled_from(["sgd", "adamw"]),
    momentum=NUMBER,
    weight_decay=NUMBER,
    schedule=st.sampled_from(["onecycle", "constant"]),
    label_smoothing=NUMBER,
    epochs=COUNT,
    precision=st.sampled_from(["fp32", "16-mixed", "bf16-mixed"]),
    seed=COUNT,
    workers=COUNT,
    image_size=st.none() | COUNT,
)
SWEEPS = st.builds(SweepSpec, COUNT, COUNT, NUMBER, NUMBER, COUNT, COUNT)
TASKS = st.one_of(st.tuples(st.none(), st.builds(TrainSpec, NUMBER)), st.tuples(SWEEPS, st.none()))
BATCHES = st.builds(BatchSpec, COUNT, COUNT, COUNT)


def write(root: Path, name: str, content: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    folder = root / "input" / "config"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def resources(**changes: object) -> dict[str, object]:
    return {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"} | changes


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORKLOADS, BATCHES, TASKS, TEXT, st.sampled_from([json.dumps, canonical_json]))
def test_the_jobs_text_is_byte_for_byte_what_the_client_wrote(
    tmp_path: Path,
    workload: WorkloadSpec,
    batch: BatchSpec,
    task: tuple[SweepSpec | None, TrainSpec | None],
    name: str,
    encode: Any,  # noqa: ANN401 - either encoder a client may use
) -> None:
    job_input = JobInput(name, "train", 3, "plan", workload, batch, "cpu", *task)
    document = json.loads(job_input.to_json())
    write(tmp_path, "hyperparameters.json", {key: encode(value) for key, value in document.items()})
    assert sagemaker_config.job_text(tmp_path) == job_input.to_json()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, r"hyperparameters\.json cannot be used: No such file"),
        ("", "not JSON"),
        ("[]", "no JSON object"),
        ({"run_id": 5}, "run_id is no text"),
        ({"run_id": "word"}, "run_id: not JSON"),
        ({"train": '{"learning_rate":NaN}'}, "train: NaN"),
        ({"train": '{"learning_rate":1,"learning_rate":2}'}, "train: a key stands twice"),
        ('{"a":"1","a":"2"}', "a key stands twice"),
    ],
)
def test_hyperparameters_that_are_no_job_are_refused(tmp_path: Path, content: object, complaint: str) -> None:
    if content is not None:
        write(tmp_path, "hyperparameters.json", content)
    with pytest.raises(JobError, match=complaint) as caught:
        sagemaker_config.job_text(tmp_path)
    assert caught.value.kind == "usage"


def test_one_host_needs_no_network(tmp_path: Path) -> None:
    write(tmp_path, "resourceconfig.json", resources())
    found = sagemaker_config.cluster(tmp_path, {"GPUPLAN_GPUS": "4"})
    assert (found.first, found.world_size, found.nodes) == (True, 4, Nodes())


def test_several_hosts_agree_on_their_order(tmp_path: Path) -> None:
    write(tmp_path, "resourceconfig.json", resources(hosts=["algo-2", "algo-1"], current_host="algo-2"))
    found = sagemaker_config.cluster(tmp_path, {"GPUPLAN_GPUS": "8"})
    assert (found.first, found.world_size) == (False, 16)
    assert found.nodes == Nodes(2, 1, "algo-1", 29500, "eth0")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (None, r"resourceconfig\.json cannot be used: No such file"),
        ("{", "not JSON"),
        (resources(hosts="algo-1"), "hosts are"),
        (resources(hosts=[]), "current_host 'algo-1' is not one"),
        (resources(hosts=["algo-1", "../etc"]), "hosts are"),
        (resources(hosts=["algo-1", "algo-1"]), "is not one of the hosts"),
        (resources(current_host="algo-3"), "current_host 'algo-3'"),
        (resources(current_host=None), "current_host None"),
        (resources(network_interface_name="eth0; rm"), "network_interface_name"),
    ],
)
def test_damaged_hosts_are_refused(tmp_path: Path, config: object, complaint: str) -> None:
    if config is not None:
        write(tmp_path, "resourceconfig.json", config)
    with pytest.raises(JobError, match=complaint):
        sagemaker_config.cluster(tmp_path, {"GPUPLAN_GPUS": "1"})


@pytest.mark.parametrize("processes", [None, "", "0", "-1", "all", "1.0", "99999", "\u0664"])
def test_processes_that_are_no_number_are_refused(tmp_path: Path, processes: str | None) -> None:
    write(tmp_path, "resourceconfig.json", resources())
    with pytest.raises(JobError, match="GPUPLAN_GPUS is"):
        sagemaker_config.cluster(tmp_path, {} if processes is None else {"GPUPLAN_GPUS": processes})


def test_the_training_channel_is_known_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, "inputdataconfig.json", {"code": {}})
    assert sagemaker_config.training_channel(tmp_path) is None
    write(tmp_path, "inputdataconfig.json", {"code": {}, "training": {"TrainingInputMode": "File"}})
    assert sagemaker_config.training_channel(tmp_path) == tmp_path / "input" / "data" / "training"
