"""Training jobs that run for real: folders, network, hosts, checkpoints, stops, interruptions, and what is left."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from gpuplan.testing import EmulatorError

if TYPE_CHECKING:
    from gpuplan.testing import Emulator
    from testing.conftest import MakeRequest, Wait

pytestmark = pytest.mark.slow

BUCKET = "gpuplan-test"
GROUP = "/aws/sagemaker/TrainingJobs"
SPOT = {"EnableManagedSpotTraining": True, "StoppingCondition.MaxWaitTimeInSeconds": 600}


class Start(Protocol):
    """Start a job that runs a Python program, with changes to its request."""

    def __call__(self, name: str, program: str, changes: dict[str, Any] | None = None) -> None: ...


@pytest.fixture
def start(running: Emulator, make_request: MakeRequest) -> Start:
    def create(name: str, program: str, changes: dict[str, Any] | None = None) -> None:
        running.client("s3").put_object(Bucket=BUCKET, Key=f"{name}/code/main.py", Body=program.encode())
        body = make_request(name, changes)
        body["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = f"s3://{BUCKET}/{name}/code/"
        running.client("sagemaker").create_training_job(**body)

    return create


def lines(aws: Emulator, job: str, host: str = "algo-1") -> list[str]:
    logs = aws.client("logs")
    (stream,) = logs.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix=f"{job}/{host}-")["logStreams"]
    events = logs.get_log_events(logGroupName=GROUP, logStreamName=stream["logStreamName"], startFromHead=True)
    return [event["message"] for event in events["events"]]


def wait_for_object(aws: Emulator, key: str) -> bytes:
    s3, deadline = aws.client("s3"), time.monotonic() + 20
    while True:
        try:
            return bytes(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        except s3.exceptions.NoSuchKey:
            assert time.monotonic() < deadline, key
            time.sleep(0.02)


INSPECT = """
import json, os, socket
from pathlib import Path
ml = Path('/opt/ml')
conf = {p.stem: json.loads(p.read_text()) for p in (ml / 'input/config').iterdir()}
(ml / 'model/weights').write_text('w')
(ml / 'output/data/notes').write_text('n')
(ml / 'checkpoints/sub').mkdir()
(ml / 'checkpoints/sub/c').write_text('c')
try:
    socket.create_connection(('192.0.2.1', 80), 1)
    reached = 0
except OSError as e:
    reached = e.errno
with socket.create_server(('127.0.0.1', 0)) as server:
    socket.create_connection(server.getsockname(), 1).close()
print(json.dumps(dict(conf=conf, reached=reached, pid=os.getpid(), env=dict(os.environ),
    processes=sum(n.isdigit() for n in os.listdir('/proc')), networks=[n for _, n in socket.if_nameindex()],
    channel=os.listdir(ml / 'input/data/code'))))
print('loss=0.5')
print('loss=0.25')
"""


@pytest.mark.parametrize("mode", ["File", "FastFile"])
def test_a_channel_is_a_folder_of_the_objects_in_either_mode_and_the_job_is_told_which(
    running: Emulator, make_request: MakeRequest, wait: Wait, mode: str
) -> None:
    name = f"channel-{mode.lower()}"
    s3 = running.client("s3")
    s3.put_object(Bucket=BUCKET, Key=f"{name}/code/main.py", Body=INSPECT.encode())
    body = make_request(name)
    body["InputDataConfig"][0] |= {"InputMode": mode}
    body["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = f"s3://{BUCKET}/{name}/code/"
    running.client("sagemaker").create_training_job(**body)
    assert wait(running, name).status == "Completed"
    seen = json.loads(lines(running, name)[0])
    assert seen["channel"] == ["main.py"]
    assert seen["conf"]["inputdataconfig"]["code"]["TrainingInputMode"] == mode


def test_a_job_sees_sagemakers_folders_and_nothing_but_loopback(running: Emulator, start: Start, wait: Wait) -> None:
    opt_before = sorted(Path("/opt").iterdir())
    changes = {
        "HyperParameters": {"a": "1"},
        "Environment": {"B": "2"},
        "AlgorithmSpecification.MetricDefinitions": [{"Name": "loss", "Regex": "loss=(.*)"}],
    }
    start("layout", INSPECT, changes)
    job = wait(running, "layout")
    assert job.path == ("Starting", "Downloading", "Training", "Uploading", "Completed"), job
    seen = json.loads(lines(running, "layout")[0])
    assert seen["conf"]["hyperparameters"] == {"a": "1"}
    assert seen["conf"]["inputdataconfig"]["code"]["TrainingInputMode"] == "File"
    assert seen["conf"]["resourceconfig"]["hosts"] == ["algo-1"]
    assert seen["conf"]["resourceconfig"]["network_interface_name"] == "lo"
    assert seen["networks"] == ["lo"]
    assert seen["reached"] == 101  # ENETUNREACH
    assert (seen["pid"], seen["processes"]) == (1, 1)
    assert seen["env"]["B"] == "2"
    assert seen["env"]["TRAINING_JOB_NAME"] == "layout"
    assert seen["env"]["GPUPLAN_EMULATED_PROCESSES"] == "2"
    assert not [name for name in seen["env"] if "CREDENTIALS" in name or "ACCESS_KEY" in name]
    assert seen["channel"] == ["main.py"]
    shown = running.client("sagemaker").describe_training_job(TrainingJobName="layout")
    assert shown["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/layout/output/layout/output/model.tar.gz"
    assert [(each["MetricName"], each["Value"]) for each in shown["FinalMetricDataList"]] == [("loss", 0.25)]
    assert wait_for_object(running, "layout/checkpoints/sub/c") == b"c"
    for name, inside in (("model", "weights"), ("output", "notes")):
        packed = wait_for_object(running, f"layout/output/layout/output/{name}.tar.gz")
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            assert tar.getnames() == [inside]
    assert sorted(Path("/opt").iterdir()) == opt_before


def test_a_container_is_told_of_credentials_only_without_isolation(running: Emulator, start: Start, wait: Wait) -> None:
    program = "import os; print(os.environ['AWS_CONTAINER_CREDENTIALS_RELATIVE_URI'])"
    start("credentials", program, {"EnableNetworkIsolation": False})
    assert wait(running, "credentials").status == "Completed"
    assert lines(running, "credentials") == ["/v2/credentials/credentials"]


def test_a_failure_is_told_in_aws_words(running: Emulator, start: Start, wait: Wait) -> None:
    program = "open('/opt/ml/output/failure', 'w').write('no data. ' + 'x' * 2000); raise SystemExit(3)"
    start("failing", program)
    job = wait(running, "failing")
    assert job.path[-2:] == ("Uploading", "Failed")
    assert job.failure_reason.startswith("AlgorithmError: no data. xxx")
    assert job.failure_reason.endswith("xxx, exit code: 3")
    assert len(job.failure_reason) == 1024


def test_a_program_that_is_not_there_is_exit_code_127(running: Emulator, start: Start, wait: Wait) -> None:
    start("absent", "", {"AlgorithmSpecification.ContainerEntrypoint": ["/no/such/program"]})
    assert wait(running, "absent").failure_reason == "AlgorithmError: , exit code: 127"


def test_objects_that_go_away_before_the_download_fail_the_job(running: Emulator, start: Start, wait: Wait) -> None:
    running.hold = True
    start("gone", "print()")
    running.hold = False
    running.client("s3").delete_object(Bucket=BUCKET, Key="gone/code/main.py")
    running._executor.start(running._jobs.named("gone"))
    reason = wait(running, "gone").failure_reason
    assert reason.startswith(
        'ClientError: Data download failed:No S3 objects found under S3 URL "s3://gpuplan-test/gone'
    )


HOSTS = """
import json, socket, time
conf = json.load(open('/opt/ml/input/config/resourceconfig.json'))
me, hosts = conf['current_host'], conf['hosts']
assert socket.gethostbyname(hosts[1]) == '127.0.0.1'
if me == hosts[0]:
    with socket.create_server((me, 29500)) as server:
        peer, _ = server.accept()
        print('heard', peer.recv(99).decode())
else:
    for _ in range(200):
        try:
            peer = socket.create_connection((hosts[0], 29500))
            break
        except OSError:
            time.sleep(0.05)
    peer.sendall(me.encode())
open('/opt/ml/checkpoints/' + me, 'w').write('x')
"""


def test_hosts_find_each_other_by_name_and_share_the_checkpoint_prefix(
    running: Emulator, start: Start, wait: Wait
) -> None:
    start("hosts", HOSTS, {"ResourceConfig.InstanceCount": 2})
    job = wait(running, "hosts")
    assert job.status == "Completed", (job, lines(running, "hosts"))
    assert lines(running, "hosts") == ["heard algo-2"]
    for host in ("algo-1", "algo-2"):
        assert wait_for_object(running, f"hosts/checkpoints/{host}") == b"x"


def test_one_failing_host_fails_the_job_at_once(running: Emulator, start: Start, wait: Wait) -> None:
    program = (
        "import json, time; me = json.load(open('/opt/ml/input/config/resourceconfig.json'))['current_host']\n"
        "if me == 'algo-2': raise SystemExit(5)\n"
        "time.sleep(60)"
    )
    start("one-host", program, {"ResourceConfig.InstanceCount": 2})
    assert wait(running, "one-host").failure_reason == "AlgorithmError: , exit code: 5"


COUNT = """
import signal, sys, time
from pathlib import Path
folder = Path('/opt/ml/checkpoints')
signal.signal(signal.SIGTERM, lambda *_: ((folder / 'notice').write_text('x'), sys.exit(0)))
if list(folder.glob('step-*')):
    sys.exit(0)
(folder / 'part').write_text('x')
(folder / 'part').rename(folder / 'step-1')
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["with-notice", "without-notice"])
def test_an_interrupted_spot_job_starts_again_from_its_mirrored_checkpoints(
    running: Emulator, start: Start, wait: Wait, how: str
) -> None:
    start(how, COUNT, SPOT)
    wait_for_object(running, f"{how}/checkpoints/step-1")
    running.interrupt(how, notice=how == "with-notice")
    assert wait(running, how).path == (
        *("Starting", "Downloading", "Training", "Interrupted"),
        *("Restarting", "Downloading", "Training", "Uploading", "Completed"),
    )
    listed = running.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"{how}/checkpoints/")["Contents"]
    kept = f"{how}/checkpoints/notice" in {each["Key"] for each in listed}
    assert kept is (how == "with-notice")


def test_machines_may_be_taken_before_the_program_starts(running: Emulator, start: Start, wait: Wait) -> None:
    start("early", "print()", SPOT)
    running.interrupt("early")
    assert wait(running, "early").path.count("Interrupted") == 1
    assert running.job("early").status == "Completed"
    with pytest.raises(EmulatorError, match="has no machines"):
        running.interrupt("early")


def test_a_stopped_job_is_asked_to_end_and_its_work_is_kept(running: Emulator, start: Start, wait: Wait) -> None:
    start("asked", COUNT)
    wait_for_object(running, "asked/checkpoints/step-1")
    with pytest.raises(EmulatorError, match="not run on spot"):
        running.interrupt("asked")
    running.client("sagemaker").stop_training_job(TrainingJobName="asked")
    job = wait(running, "asked")
    assert job.path == ("Starting", "Downloading", "Training", "Stopping", "Uploading", "Stopped")
    assert wait_for_object(running, "asked/checkpoints/notice") == b"x"


def test_a_job_that_does_not_listen_is_killed_after_the_grace(running: Emulator, start: Start, wait: Wait) -> None:
    start("deaf", "import time; time.sleep(60)", {"StoppingCondition.MaxRuntimeInSeconds": 1})
    job = wait(running, "deaf")
    assert job.path == ("Starting", "Downloading", "Training", "Stopping", "Uploading", "MaxRuntimeExceeded")
    assert job.status == "Stopped"
    stopping = job.transitions[3]
    assert stopping.ended_at is not None
    assert 1.0 <= (stopping.ended_at - stopping.started_at).total_seconds() < 10


def test_a_spot_job_takes_no_longer_than_it_may(running: Emulator, start: Start, wait: Wait) -> None:
    limits = {"MaxRuntimeInSeconds": 1, "MaxWaitTimeInSeconds": 1}
    start("waited", COUNT, {**SPOT, "StoppingCondition": limits})
    job = wait(running, "waited")
    assert (job.status, job.secondary_status) == ("Stopped", "MaxWaitTimeExceeded")
