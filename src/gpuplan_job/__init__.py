"""The payload: what runs on the machine with the GPUs. Shipping gpuplan's job means shipping this one folder.

It reads one `input.json` and writes result files (see `contract`). It must not import gpuplan, boto3, pydantic or
typer.
"""
