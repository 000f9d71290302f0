"""gpuplan: plan, price and run PyTorch training on AWS GPUs, with the learning rate found on one of them.

The package on the user's machine. It must never import torch or lightning; boto3 only in `backends` and `aws`.
"""

__version__ = "0.1.0"
