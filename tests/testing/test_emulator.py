"""The emulator as a whole: what it starts with, what it leaves, what it says where it cannot run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from gpuplan.testing import Emulator, EmulatorError

if TYPE_CHECKING:
    from testing.conftest import MakeRequest


def test_an_emulator_starts_empty_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    for _ in range(2):
        with Emulator(execute=False) as aws:
            assert not aws.client("s3").list_buckets()["Buckets"]
            aws.prepare()
            with pytest.raises(EmulatorError, match="another emulator runs in this process"):
                Emulator(execute=False).__enter__()
    assert set(threading.enumerate()) <= before


def test_without_moto_the_error_names_the_extra() -> None:
    script = """
import importlib.machinery, sys
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "moto" else super().find_spec(name, path, target)
sys.meta_path[:] = [Hidden if each is importlib.machinery.PathFinder else each for each in sys.meta_path]
from gpuplan.testing import Emulator, EmulatorError
try:
    Emulator(execute=False).__enter__()
except EmulatorError as error:
    print(error, error.fix)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "the emulator needs moto's server pip install 'gpuplan[testing]'\n", done.stderr


def test_importing_the_package_loads_neither_moto_nor_botocore() -> None:
    script = (
        "import sys, gpuplan.testing; print([n for n in ('moto', 'botocore', 'boto3', 'flask') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_running_jobs_without_root_is_refused_with_the_way_out(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        with pytest.raises(EmulatorError, match="needs root"):
            Emulator().__enter__()
        return
    script = """
import os
import gpuplan.testing.sandbox, gpuplan.testing.errors
os.setuid(65534)
try:
    gpuplan.testing.sandbox.check()
except gpuplan.testing.errors.EmulatorError as error:
    print(error, "|", error.fix)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.startswith("running training jobs needs root | "), done.stderr
    assert "execute=False" in done.stdout


LIVES = """
import json, sys, time
from gpuplan.testing import Emulator
with Emulator() as aws:
    aws.prepare()
    aws.client("s3").put_object(Bucket="gpuplan-test", Key="code/x", Body=b"")
    aws.client("sagemaker").create_training_job(**json.loads(sys.argv[1]))
    while not aws.client("s3").list_objects_v2(Bucket="gpuplan-test", Prefix=aws.jobs()[0].name)["KeyCount"]:
        time.sleep(0.02)
    print("training", flush=True)
    sys.stdin.read()
"""


FOREVER = {"AlgorithmSpecification.ContainerEntrypoint": ["sh", "-c", "echo > /opt/ml/checkpoints/up; sleep 3600.25"]}
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="running training jobs needs root")


@pytest.mark.slow
@NEEDS_ROOT
def test_no_container_outlives_an_emulator_that_is_killed(make_request: MakeRequest, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LIVES, json.dumps(make_request("killed", FOREVER))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"training\n"
        family = containers(process.pid)
        process.send_signal(signal.SIGKILL)
        process.stdin.close()
        process.wait(timeout=20)
    assert not psutil.wait_procs(family, timeout=5)[1]


@NEEDS_ROOT
def test_no_container_and_no_folder_outlives_an_emulator_that_is_closed(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    others = psutil.Process().children(recursive=True)  # of tests before this one
    with Emulator() as aws:
        bucket, _ = aws.prepare()
        s3 = aws.client("s3")
        s3.put_object(Bucket=bucket, Key="code/x", Body=b"")
        aws.client("sagemaker").create_training_job(**make_request("closed", FOREVER))
        while not s3.list_objects_v2(Bucket=bucket, Prefix="closed")["KeyCount"]:
            time.sleep(0.02)
        family = [each for each in containers(os.getpid()) if each not in others]
        assert list(tmp_path.iterdir())
    assert not psutil.wait_procs(family, timeout=5)[1]
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def containers(pid: int) -> list[psutil.Process]:
    """Return the processes that a process has started, a container's among them."""
    family: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    assert any("3600.25" in each.cmdline() for each in family)
    return family
