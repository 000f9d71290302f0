"""What must be true in the account before a run: each look at it yields findings with their fix. Read-only.

`gpuplan doctor` shows them all (`run.doctor`); `launch` makes the same checks before its first paid call
(`run.preflight`).
"""
