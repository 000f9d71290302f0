"""Pipelines, one file each: which steps make up a run. A file here is a choice of `--pipeline`.

Each offers `build(inputs) -> LaunchPlan`, pure: no clock, no file, no AWS.
"""
