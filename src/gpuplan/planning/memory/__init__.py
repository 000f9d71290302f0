"""What a training step takes on a GPU: its trace, replayed through a model of PyTorch's allocator. Pure."""
