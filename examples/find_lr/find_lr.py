"""Find a learning rate from Python, then train with it: `python examples/find_lr/find_lr.py`, some seconds on a CPU."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader

from gpuplan_job import data
from gpuplan_job.finder import find_lr

EPOCHS = 5

digits, _ = data.load("digits", None)
loader = DataLoader(digits, batch_size=32, shuffle=True)
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 6 * 6, 10))
optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

found = find_lr(network, loader, loss=nn.functional.cross_entropy, optimizer=optimizer, max_epochs=EPOCHS, gpus=2)
print(found)
print("picture:", found.plot("find_lr.svg"))

# The network, the optimizer and every random state are as before: the training starts as if nothing had been.
for group, rate in zip(optimizer.param_groups, found.group_learning_rates, strict=True):
    group["lr"] = rate
