"""What a job's processes are started with: the task alone, torchrun on one machine, torchrun on several."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gpuplan_job import torchrun
from gpuplan_job.contract import BatchSpec, JobInput, LrTarget, SweepSpec, TrainSpec, WorkloadSpec
from gpuplan_job.torchrun import Nodes

SOURCE, FOLDER = Path("/in.json"), Path("/out")
WATCHED = ["-m", "gpuplan_job.rank", "/out/ranks"]
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
SECOND_OF_TWO = Nodes(2, 1, "algo-1", interface="eth0")


@pytest.fixture
def train_input() -> JobInput:
    workload = WorkloadSpec("resnet18", "digits", "sgd", 0.9, 5e-4, "onecycle", 0.0, 2, "fp32", 0, 0)
    return JobInput("run-1", "train", 1, "plan", workload, BatchSpec(32, 1, 1), "cpu", train=TrainSpec(0.05))


def environment(base: dict[str, str], processes: int = 1, cpus: int = 2, nodes: Nodes | None = None) -> dict[str, str]:
    return torchrun.environment(base, FOLDER, processes, cpus, nodes or Nodes())


def test_one_process_is_started_directly_and_several_by_this_pythons_torchrun(train_input: JobInput) -> None:
    alone = torchrun.command(train_input, SOURCE, FOLDER, Nodes())
    assert alone == [sys.executable, *WATCHED, "gpuplan_job.train", "/in.json", "/out"]
    several = torchrun.command(replace(train_input, batch=BatchSpec(8, 4, 1)), SOURCE, FOLDER, Nodes())
    assert several[:4] == [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    assert "--nproc-per-node=4" in several
    assert several[-6:] == [*WATCHED, "gpuplan_job.train", "/in.json", "/out"]
    sweep = replace(
        train_input, train=None, sweep=SweepSpec(1, 10, 1e-4, 1.0, 100, 0, LrTarget("edge", "noise-scale", 256, 100))
    )
    assert torchrun.command(sweep, SOURCE, FOLDER, Nodes())[1:5] == [*WATCHED, "gpuplan_job.lr_find"]


def test_each_machine_knows_which_ranks_are_its_own() -> None:
    assert list(Nodes().ranks_here(4)) == [0, 1, 2, 3]
    assert list(SECOND_OF_TWO.ranks_here(4)) == [2, 3]


def test_each_of_several_machines_starts_its_share_and_meets_at_the_first(train_input: JobInput) -> None:
    found = torchrun.command(replace(train_input, batch=BatchSpec(8, 16, 1)), SOURCE, FOLDER, SECOND_OF_TWO)
    assert "--standalone" not in found
    assert found[3:8] == [
        "--nnodes=2",
        "--node-rank=1",
        "--master-addr=algo-1",
        "--master-port=29500",
        "--nproc-per-node=8",
    ]


def test_two_machines_of_one_process_each_still_need_torchrun(train_input: JobInput) -> None:
    found = torchrun.command(replace(train_input, batch=BatchSpec(8, 2, 1)), SOURCE, FOLDER, SECOND_OF_TWO)
    assert {"torch.distributed.run", "--nproc-per-node=1"} <= set(found)


def test_threads_are_shared_out_unless_the_user_chose() -> None:
    assert environment({}, processes=2, cpus=8)["OMP_NUM_THREADS"] == "4"
    assert environment({}, processes=4, cpus=2)["OMP_NUM_THREADS"] == "1"
    assert environment({"OMP_NUM_THREADS": "3"}, 2, 8)["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("name", ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"])
def test_processes_talk_over_loopback_or_over_the_network_between_machines(name: str) -> None:
    assert environment({})[name] == LOOPBACK
    assert environment({name: "eth9"})[name] == "eth9"
    assert environment({name: "^lo,docker0"}, nodes=SECOND_OF_TWO)[name] == "eth0"


def test_variables_of_an_outer_torchrun_do_not_reach_the_job() -> None:
    outer = {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "10.0.0.1", "PET_NNODES": "4", "TORCHELASTIC_RUN_ID": "x"}
    found = environment(outer | {"PATH": "/bin"})
    assert not outer.keys() & found.keys()
    assert found["PATH"] == "/bin"
