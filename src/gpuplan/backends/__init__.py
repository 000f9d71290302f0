"""Places where a job can run, one file each; a file here is a choice of `--backend`.

Each offers `create(home)` and keeps the Protocol of `base`. A backend never sees a pipeline.
"""
