"""Traces a training step on fake CUDA tensors: no GPU, no arithmetic, exact sizes. `python -m gpuplan_job.trace`."""
