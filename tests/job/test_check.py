"""The check of a user's own code: what it shows of code that is right, and its words for each way of being wrong."""

from __future__ import annotations

import itertools
import linecache
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpuplan_job import user_code
from gpuplan_job.check import reads
from gpuplan_job.check.steps import check
from gpuplan_job.code_check import CheckRequest, CodeCheck
from gpuplan_job.contract import DataDescription
from gpuplan_job.failures import JobError
from gpuplan_job.own_optimizer import configure_own, own_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NUMBERS = itertools.count()
DIGITS = DataDescription(100, 20, 1, 8, 8, 10, 64.0)
NET = """
import torch
import pytorch_lightning as pl
from torch import nn
from torch.nn import functional as F

class Base(pl.LightningModule):
    def __init__(self, width=8, learning_rate=0.1):
        super().__init__()
        self.learning_rate = learning_rate
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.body(x), y)
        self.log("train_loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=1e-4)
"""


class Folder:
    """A folder of a user's code; each check is of a module with a name of its own, because Python imports one once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = ""

    def check(self, code: str, model: str = "Net", data: str = "", **changes: object) -> CodeCheck:
        """Check the class `model` of a module, on the shipped digits or on the module's own `data`."""
        self.name = f"net_{next(NUMBERS)}"
        (self.path / f"{self.name}.py").write_text(NET + code)
        spec = model if ":" in model else f"{self.name}:{model}"
        request = CheckRequest(spec, {}, "digits", {}, None, DIGITS, here=True)
        if data:
            request = replace(request, data=f"{self.name}:{data}", described=None)
        return check(replace(request, **changes))  # type: ignore[arg-type] # fields of a request

    def refused(self, code: str, model: str = "Net", data: str = "", **changes: object) -> JobError:
        with pytest.raises(JobError) as caught:
            self.check(code, model, data, **changes)
        caught.value.message = caught.value.message.replace(self.name, "net")
        return caught.value


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(user_code.FOLDER_VARIABLE, str(tmp_path))
    path = list(sys.path)
    yield Folder(tmp_path)
    sys.path[:] = path


def test_a_module_that_is_right_is_described(own: Folder) -> None:
    found = own.check("class Net(Base): pass")
    assert (found.kind, found.unused, found.notes) == ("lightning", [], [])
    assert found.batch == ["float32 [2, 1, 8, 8]", "int64 [2]"]
    assert found.optimizer is not None
    assert (found.optimizer.name, found.optimizer.kind, found.optimizer.momentum) == ("SGD", "sgd", 0.9)
    assert (found.optimizer.rate_at, found.optimizer.follows) == ("learning_rate", True)
    assert found.optimizer_problem == ""
    assert found.reads == {}
    assert CodeCheck.from_json(found.to_json()) == found


def test_a_source_that_is_shown_in_a_trace_is_no_data(own: Folder) -> None:
    # Without a GPU torch keeps the trace of each seeding; Python reads the lines in it that it has no more.
    linecache.clearcache()
    assert own.check("class Net(Base): pass").reads == {}


def test_a_network_with_classes_or_a_loss_of_its_own_needs_no_lightning(own: Folder) -> None:
    code = """
def classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
class Own(nn.Sequential):
    def loss(self, outputs, targets):
        return (outputs ** 2).mean()
def regression():
    return Own(nn.Flatten(), nn.Linear(64, 1))
"""
    for name in ("classes", "regression"):
        found = own.check(code, name)
        assert (found.kind, found.optimizer, found.unused) == ("network", None, [])


def test_data_that_lie_elsewhere_are_stood_for_by_a_batch_of_their_shape(own: Folder) -> None:
    described = replace(DIGITS, channels=3, height=20, width=30, classes=4)
    found = own.check(
        "class Net(Base):\n    body = None\n    def training_step(self, batch, i):\n        return "
        "batch[0].mean() * self.w\n    def __init__(self):\n        super().__init__()\n        "
        "self.w = nn.Parameter(torch.ones(()))\n        del self.body",
        data="",
        here=False,
        described=described,
    )
    assert found.batch == ["float32 [2, 3, 20, 30]", "int64 [2]"]
    assert found.data == described


def test_a_learning_rate_among_the_hyperparameters_is_found_beside_a_schedule(own: Folder) -> None:
    code = """
class Net(Base):
    def __init__(self, lr=0.01):
        super().__init__()
        del self.learning_rate
        self.save_hyperparameters()
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        steps = self.trainer.estimated_stepping_batches
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams.lr, steps)]
"""
    found = own.check(code)
    assert found.optimizer is not None
    assert found.optimizer.name == "AdamW"
    assert found.optimizer.rate_at == "hparams.lr"
    assert found.optimizer_problem == ""


def test_a_rate_that_is_stated_twice_is_followed_wherever_the_optimizer_takes_it(own: Folder) -> None:
    code = """
class Net(Base):
    def __init__(self, learning_rate=0.01):
        super().__init__(learning_rate=learning_rate)
        self.save_hyperparameters()
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)
"""
    found = own.check(code)
    assert found.optimizer is not None
    assert found.optimizer.follows
    assert found.optimizer_problem == ""


def test_no_module(own: Folder) -> None:
    failure = own.refused("class Net(Base): pass", "netz:Net")
    assert failure.message == "--model netz:Net: there is no module netz in the shipped code"


def test_a_module_with_a_typo_is_told_the_nearest(own: Folder) -> None:
    own.check("class Net(Base): pass")
    name = own.name
    failure = own.refused("class Net(Base): pass", f"{name}x:Net")
    assert failure.fix == f"did you mean {name!r}?"


def test_an_import_that_fails(own: Folder) -> None:
    failure = own.refused("import lightning_boltz\nclass Net(Base): pass")
    line = len(NET.splitlines()) + 1
    assert failure.kind == "import"
    assert failure.message == (
        f"--model net:Net: net.py:{line}, in <module>: ModuleNotFoundError: No module named 'lightning_boltz'"
    )
    assert "install it here" in failure.fix


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import sys\nsys.exit(0)", "--model net:Net: importing it failed: net.py:{}, in <module>"),
        (
            "import sys\nclass Net(Base):\n    def training_step(self, batch): sys.exit(0)",
            (
                "--model net:Net: training_step failed, for a batch of float32 [2, 1, 8, 8], int64 [2]: "
                "net.py:{}, in training_step"
            ),
        ),
    ],
)
def test_code_that_ends_the_process_is_named_by_file_and_line(own: Folder, code: str, what: str) -> None:
    failure = own.refused(code)
    line = len(NET.splitlines()) + len(code.splitlines())
    assert failure.message == f"{what.format(line)}: it calls sys.exit(0), which would end the job"
    assert failure.fix == "keep what ends a program below `if __name__ == '__main__':`"


def test_a_syntax_error(own: Folder) -> None:
    failure = own.refused("class Net(Base:\n    pass")
    assert failure.message.startswith(f"--model net:Net: net.py:{len(NET.splitlines()) + 1}: ")


def test_a_typo_in_the_class(own: Folder) -> None:
    failure = own.refused("class Network(Base): pass", "Netwrok")
    assert failure.message == "--model net:Netwrok: net has no 'Netwrok'"
    assert failure.fix == "did you mean 'Network'?"


def test_an_argument_that_is_missing_and_one_that_is_not_taken(own: Folder) -> None:
    code = "class Net(Base):\n    def __init__(self, depth, *, heads=2):\n        super().__init__()\n"
    failure = own.refused(code)
    assert failure.message == "--model net:Net needs 'depth', and no value was given"
    assert failure.fix == "[workload] model_args = { depth = ... } in gpuplan.toml, or --model-args as a JSON object"
    failure = own.refused(code, model_args={"depth": 2, "haeds": 3})
    assert failure.message == "--model net:Net takes no argument 'haeds': net:Net takes depth, heads"
    assert failure.fix == "did you mean 'heads'?"


def test_a_constructor_that_fails_is_named_by_file_and_line(own: Folder) -> None:
    code = "class Net(Base):\n    def __init__(self):\n        raise ValueError('no such backbone')\n"
    failure = own.refused(code)
    line = len(NET.splitlines()) + 3
    assert failure.message == (
        f"--model net:Net cannot be constructed: net.py:{line}, in __init__: ValueError: no such backbone"
    )
    assert failure.fix.startswith("correct net_")


def test_an_input_of_the_wrong_shape(own: Folder) -> None:
    failure = own.refused(
        "class Net(Base):\n    def __init__(self):\n        super().__init__()\n        self.body = nn.Linear(63, 10)\n"
    )
    assert failure.kind == "user-code"
    assert failure.message.startswith(
        "--model net:Net: training_step failed, for a batch of float32 [2, 1, 8, 8], int64 [2]: net.py:"
    )
    assert "in training_step: RuntimeError: mat1 and mat2 shapes cannot be multiplied" in failure.message


@pytest.mark.parametrize(
    ("step", "said", "fix"),
    [
        ("return F.nll_loss(self.body(batch[0]), batch[1], reduction='none')", "is float32 [2], not one", "mean"),
        ("return F.nll_loss(self.body(batch[0]), batch[1]).item()", "training_step returned float", "return the loss"),
        ("return F.cross_entropy(self.body(batch[0]), batch[1]).detach()", "has no gradient", "detach"),
        ("return self.body(batch[0]).sum() * float('nan')", "the loss is nan on the very first batch", "logarithm"),
        ("return (self.body(batch[0]) * 0).sum().sqrt()", "the gradient of body.1.weight", "slope"),
        ("return None", "training_step returned NoneType", "return the loss"),
    ],
)  # fmt: skip
def test_a_loss_that_cannot_be_trained_on(own: Folder, step: str, said: str, fix: str) -> None:
    failure = own.refused(f"class Net(Base):\n    def training_step(self, batch, i):\n        {step}\n")
    assert said in failure.message
    assert fix in failure.fix


def test_parameters_that_no_gradient_reaches_are_named(own: Folder) -> None:
    found = own.check(
        "class Net(Base):\n    def __init__(self):\n        super().__init__()\n        self.head = nn.Linear(4, 4)\n"
    )
    assert found.unused == ["head.weight", "head.bias"]


@pytest.mark.parametrize(("rate", "at"), [("3e-4", "0.0003"), ("0.5 * self.learning_rate", "0.15")])
def test_a_learning_rate_that_the_optimizer_does_not_use(own: Folder, rate: str, at: str) -> None:
    step = f"torch.optim.Adam(self.parameters(), {rate})"
    found = own.check(f"class Net(Base):\n    def configure_optimizers(self): return {step}")
    assert found.optimizer is not None
    assert not found.optimizer.follows
    assert found.optimizer_problem == (
        f"Net.configure_optimizers does not use Net.learning_rate: set to 0.3, its optimizer has {at}; "
        "build the optimizer with lr=self.learning_rate"
    )


def test_the_check_and_the_job_refuse_an_optimizer_in_the_same_words(own: Folder) -> None:
    code = "class Net(Base):\n    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 2)\n"
    problem = own.check(code).optimizer_problem
    learner = own_module(sys.modules[own.name].Net())
    with pytest.raises(JobError) as caught:
        configure_own(learner, learner.module.configure_optimizers, 0.3)
    assert problem == f"{caught.value.message}; {caught.value.fix}"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("torch.optim.Adam(self.layers(), 3e-4)", "Net has no learning_rate that could be set"),
        ("[torch.optim.SGD(self.layers(), lr=1) for _ in range(2)]", "gives 2 optimizers"),
        ("torch.optim.LBFGS(self.layers(), 1)", "evaluates the loss many times a step"),
    ],
)
def test_an_optimizer_that_cannot_be_used_has_its_reason(own: Folder, code: str, said: str) -> None:
    net = """
class Net(Base):
    def __init__(self):
        super().__init__()
        del self.learning_rate
    def layers(self):
        return self.parameters()
"""
    found = own.check(f"{net}    def configure_optimizers(self): return {code}\n")
    assert said in found.optimizer_problem


def test_an_optimizer_is_the_users_but_none_is_gpuplans(own: Folder) -> None:
    found = own.check("class Net(Base):\n    configure_optimizers = pl.LightningModule.configure_optimizers\n")
    assert found.kind == "lightning"


def test_manual_optimization_is_refused(own: Folder) -> None:
    code = "class Net(Base):\n    automatic_optimization = False\n"
    assert "the module optimizes manually" in own.refused(code).message


def test_a_validation_step_that_fails_is_met_before_an_epoch_is_paid_for(own: Folder) -> None:
    code = "class Net(Base):\n    def validation_step(self, batch, i):\n        self.log('val_loss', batch['x'])\n"
    failure = own.refused(code)
    assert "validation_step failed on a batch of training data: net.py:" in failure.message
    assert "TypeError" in failure.message


def test_a_validation_step_is_called_as_a_training_calls_it(own: Folder) -> None:
    code = """
class Net(Base):
    def on_validation_start(self):
        self.sums = []
    def on_validation_epoch_start(self):
        self.sums.append(0.0)
    def validation_step(self, batch):
        self.sums[0] += F.cross_entropy(self.body(batch[0]), batch[1]).item()
class Any(Base):
    def training_step(self, *args):
        return super().training_step(*args)
    def validation_step(self, *args):
        batch, index = args
class Fails(Base):
    def on_validation_epoch_start(self):
        self.sums.clear()
    def validation_step(self, batch, index): pass
"""
    assert own.check(code).kind == "lightning"
    assert own.check(code, "Any").kind == "lightning"
    assert "on_validation_epoch_start failed on a batch of training data: net.py:" in own.refused(code, "Fails").message


def test_what_only_a_real_trainer_knows_is_no_fault_of_a_validation(own: Folder) -> None:
    code = """
class Net(Base):
    def on_validation_start(self):
        self.batches = self.trainer.num_val_batches[0]
    def validation_step(self, batch, index): pass
"""
    assert own.check(code).kind == "lightning"


def test_a_model_without_anything_to_train_is_refused(own: Folder) -> None:
    code = "class Net(Base):\n    def __init__(self):\n        super().__init__()\n        self.requires_grad_(False)\n"
    assert "no parameter to train" in own.refused(code).message


def test_what_is_no_network_is_refused(own: Folder) -> None:
    assert own.refused("def make(): return 3", "make").message == "--model net:make makes a int, not a torch.nn.Module"
    assert "is an object of int" in own.refused("number = 3", "number").message


DATA = """
from pathlib import Path
from torch.utils.data import DataLoader, TensorDataset, Dataset
class Lines(Dataset):
    def __init__(self, name): self.name = name
    def __len__(self): return 6
    def __getitem__(self, index):
        return torch.tensor([float(len(Path(self.name).read_text()))] * 64), index % 3
def lines(name):
    return Lines(name), Lines(name)
class Net2(Base): pass
"""


def test_files_outside_the_code_are_remembered_with_size_and_time(
    own: Folder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("data") / "lines.txt"
    outside.write_text("four")
    found = own.check(DATA, "Net2", "lines", data_args={"name": str(outside)})
    assert found.reads == {str(outside): [4, outside.stat().st_mtime_ns]}
    assert found.data.sample == "float32 [64]"
    assert (found.data.train_samples, found.data.val_samples, found.data.classes) == (6, 6, 3)
    assert found.data.bytes_per_sample == pytest.approx(4 / 6), "one file of four bytes serves six samples"


def test_a_folder_whose_name_begins_like_one_of_the_system_is_data(tmp_path: Path) -> None:
    for name in ("proc/1", "processed/1"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("four")
    listener = reads.Reads()
    with listener.listening():
        for name in ("proc/1", "processed/1"):
            (tmp_path / name).read_text()
    assert list(listener.outside(tmp_path / "code", [str(tmp_path / "proc")])) == [str(tmp_path / "processed/1")]
