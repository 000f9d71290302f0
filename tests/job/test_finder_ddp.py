"""`FindLearningRate` on two processes: one decision, the curve of the double batch, and no rank left waiting."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpuplan_job.finder import find_lr
from gpuplan_job.torchrun import Nodes, environment

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("finder_worker.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each of two processes saw."""
    folder = tmp_path_factory.mktemp("finder")
    (folder / "tmp").mkdir()
    settings = environment({**os.environ, "OMP_NUM_THREADS": "1"}, folder, 2, cpus=2, nodes=Nodes())
    done = subprocess.run(
        [sys.executable, *TORCHRUN, str(WORKER), str(folder)],
        env=settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(folder.rglob("*.ckpt"))
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("finder_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_ranks_decide_alike_and_train_with_it_from_the_weights_they_had(ranks: list[dict[str, Any]]) -> None:
    first, second = ranks
    assert first["result"] == second["result"]
    assert first["result"]["decision"]["verdict"] == "ok"
    assert first["lr"] == second["lr"] == first["optimizer_lr"] == first["result"]["decision"]["training_learning_rate"]
    assert first["fresh"] == first["at_start"] == second["at_start"]
    assert first["at_end"] == second["at_end"] != first["fresh"]
    assert first["steps"] == 20


def test_the_curve_is_that_of_one_process_with_the_double_batch(
    ranks: list[dict[str, Any]], worker: ModuleType
) -> None:
    batch = ranks[0]["result"]["batch"]
    assert batch == {"per_gpu": worker.BATCH, "world_size": 2, "accumulation": 1}
    assert ranks[0]["result"]["sweep"]["target"]["global_batch"] == 2 * worker.BATCH
    loader = worker.data(2 * worker.BATCH)
    alone = find_lr(worker.Lit(), loader, steps=worker.STEPS, runs=1, iterations=worker.ITERATIONS).result.curves[0]
    together = ranks[0]["together"]
    # Before the sweep runs into chaos, where rounding grows.
    count = next(i for i, rate in enumerate(alone.learning_rates) if rate > 0.1)
    assert together["losses"][:count] == pytest.approx(alone.losses[:count], rel=1e-3)


def test_nan_on_one_rank_stops_all_at_the_same_step(ranks: list[dict[str, Any]], worker: ModuleType) -> None:
    for told in ranks:
        assert told["broken"]["stop_reason"] == "non-finite"
        assert len(told["broken"]["losses"]) == worker.NAN_FROM
        assert told["broken_calls"] == worker.NAN_FROM + 1
