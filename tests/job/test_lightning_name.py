"""`import lightning` in a user's code is PyTorch Lightning, whose trainer trains it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import pickle, sys
from gpuplan_job.lightning_name import give_other_name
give_other_name()
give_other_name()
import lightning as L
import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.fabric.utilities.seed import seed_everything
import pytorch_lightning, lightning_fabric
assert L.LightningModule is pl.LightningModule is pytorch_lightning.LightningModule
assert L.LightningDataModule is pytorch_lightning.LightningDataModule
assert Callback is pytorch_lightning.callbacks.Callback
assert seed_everything is lightning_fabric.utilities.seed.seed_everything
assert pytorch_lightning.__spec__.name == "pytorch_lightning", pytorch_lightning.__spec__
assert pickle.loads(pickle.dumps(Callback)) is Callback
try:
    import lightning.nowhere
except ModuleNotFoundError as error:
    assert "nowhere" in str(error)
else:
    raise AssertionError
print("the same")
"""


def test_lightning_is_pytorch_lightning_by_another_name() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "the same"), done.stderr
