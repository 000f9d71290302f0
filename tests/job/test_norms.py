"""What `advise` says of a model's normalisation is what torchvision builds."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from gpuplan.planning.advice.parts import norm_of
from gpuplan.planning.traces import shipped

NAMES = [name for name in shipped.names() if not name.startswith("regnet") or name.endswith("_400mf")]
"""RegNets read numbers off tensors as they are built, so they need real memory: the smallest speak for the others."""


@pytest.mark.parametrize("name", NAMES)
def test_a_model_has_the_normalisation_that_is_said_of_it(name: str) -> None:
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        options = {"aux_logits": False, "init_weights": False} if name in {"googlenet", "inception_v3"} else {}
        network = torchvision_models.get_model(name, weights=None, **options)
    batch = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    layer = any(isinstance(module, nn.LayerNorm) for module in network.modules())
    assert norm_of(shipped.example(name)) == ("batch" if batch else "layer" if layer else "none")
