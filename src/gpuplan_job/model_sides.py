"""The side below which networks get a small stem: client and job must agree on it. Standard library only."""

SMALL_SIDE = 64
"""Pixels below which a network keeps its resolution at the first layers, as CIFAR variants do (He et al. 2016, 4.2)."""
