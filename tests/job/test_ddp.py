"""Two processes against one: the same training to rounding, each sample once, the accuracy that of the checkpoint."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from gpuplan_job import loaders, optim
from gpuplan_job.contract import TrainResult, TrainSpec
from gpuplan_job.sampling import EpochLayout
from gpuplan_job.torchrun import Nodes, environment

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("ddp_worker.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return the folders of the run with one and with two processes, both trained side by side."""
    folders = {count: tmp_path_factory.mktemp(f"processes{count}") for count in (1, 2)}
    started = []
    for count, folder in folders.items():
        arguments = [sys.executable, *(TORCHRUN if count > 1 else []), str(WORKER), str(folder)]
        (folder / "tmp").mkdir()
        settings = environment({**os.environ, "OMP_NUM_THREADS": "1"}, folder, count, cpus=2, nodes=Nodes())
        started.append(subprocess.Popen(arguments, env=settings, stdout=subprocess.DEVNULL))
    assert [process.wait(timeout=240) for process in started] == [0, 0]
    return folders


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ddp_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(folder: Path) -> TrainResult:
    return TrainResult.from_json((folder / "result.json").read_bytes())


def weights(folder: Path, checkpoint: str) -> dict[str, torch.Tensor]:
    state = torch.load(folder / checkpoint, weights_only=True)["state_dict"]
    return {key.removeprefix("network."): value for key, value in state.items()}


@pytest.mark.parametrize("scenario", ["plain", "accumulated"])
def test_two_processes_train_as_one_with_the_double_batch(runs: dict[int, Path], scenario: str) -> None:
    one, two = (result(runs[count] / scenario) for count in (1, 2))
    assert one.optimizer_steps == two.optimizer_steps
    for alone, together in zip(one.epochs, two.epochs, strict=True):
        assert together.train_loss == pytest.approx(alone.train_loss, rel=1e-5)
        assert together.val_loss == pytest.approx(alone.val_loss, rel=1e-5)
        assert together.val_accuracy == alone.val_accuracy
        assert together.learning_rate == alone.learning_rate
    alone_weights = weights(runs[1] / scenario, one.last_checkpoint)
    together_weights = weights(runs[2] / scenario, two.last_checkpoint)
    for key, value in alone_weights.items():
        torch.testing.assert_close(together_weights[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scenario", ["plain", "accumulated"])
def test_two_processes_train_as_a_plain_loop_over_whole_batches(
    runs: dict[int, Path], worker: ModuleType, scenario: str
) -> None:
    reached = result(runs[2] / scenario)
    workload, train_set = worker.workload(scenario), worker.data()[0]
    micro, accumulation = worker.GLOBAL[scenario]
    layout = EpochLayout(worker.TRAIN_SAMPLES, micro, 1, accumulation)
    network = worker.network(scenario)
    weights_alone = [p for name, p in network.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
    groups: list[dict[str, Any]] = [{"params": weights_alone, "weight_decay": 1e-3}, {"params": biases}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    schedule = optim.schedule(workload, optimizer, TrainSpec(worker.LEARNING_RATE), layout.steps * worker.EPOCHS)
    for epoch in range(worker.EPOCHS):
        order = loaders.permutation(worker.TRAIN_SAMPLES, workload.seed, epoch)
        losses = []
        for chosen in torch.split(order, layout.global_batch):
            targets = torch.tensor(train_set.labels)[chosen]
            loss = torch.nn.functional.cross_entropy(network(train_set.images[chosen]), targets, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
            optimizer.step()
            schedule.step()
            losses.append(loss.item() * len(chosen))
        assert reached.epochs[epoch].train_loss == pytest.approx(sum(losses) / worker.TRAIN_SAMPLES, rel=1e-5)
    for key, value in weights(runs[2] / scenario, reached.last_checkpoint).items():
        torch.testing.assert_close(network.state_dict()[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scenario", ["plain", "accumulated", "batchnorm"])
def test_both_ranks_see_each_sample_once_an_epoch_in_a_new_order(
    runs: dict[int, Path], worker: ModuleType, scenario: str
) -> None:
    seen = [json.loads((runs[2] / scenario / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    epochs = []
    for epoch in range(worker.EPOCHS):
        parts = []
        for rank in seen:
            share = len(rank["train"]) // worker.EPOCHS
            parts.append(rank["train"][epoch * share : (epoch + 1) * share])
        assert sorted(parts[0] + parts[1]) == list(range(worker.TRAIN_SAMPLES))
        epochs.append(parts)
    assert epochs[0] != epochs[1] != epochs[2]
    once = sorted(index for rank in seen for index in rank["val"][: len(rank["val"]) // worker.EPOCHS])
    assert once == list(range(worker.VAL_SAMPLES))


def test_the_accuracy_is_exactly_that_of_the_saved_best_checkpoint(runs: dict[int, Path], worker: ModuleType) -> None:
    folder = runs[2] / "batchnorm"
    reached = result(folder)
    best = reached.best
    assert best.score == max(epoch.score for epoch in reached.epochs)
    network = worker.network("batchnorm")
    network.load_state_dict(weights(folder, reached.best_checkpoint))
    _, val = worker.data()
    with torch.inference_mode():
        logits = network.eval()(val.images)
    labels = torch.tensor(val.labels)
    correct = int((logits.argmax(1) == labels).sum())
    assert best.val_accuracy == correct / worker.VAL_SAMPLES
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert best.val_loss == pytest.approx(loss, rel=1e-5)
    assert best.score > 0.4


def test_last_and_best_and_their_manifests_are_all_that_is_left(runs: dict[int, Path]) -> None:
    kept = ["best.ckpt", "best.ckpt.json", "last.ckpt", "last.ckpt.json"]
    assert sorted(path.name for path in (runs[2] / "plain" / "checkpoints").iterdir()) == kept
