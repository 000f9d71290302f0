"""`python -m gpuplan_job.check REQUEST OUTPUT`: reads a CheckRequest, writes its CodeCheck, or a failure on stderr.

Started by the client, which must not import torch, in the folder of the unpacked code. Exit status 0, or 1 with one
JSON line `{kind, message, fix}`.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from gpuplan_job.atomic import write_atomic
from gpuplan_job.code_check import CheckRequest
from gpuplan_job.failures import classify


def main(request: Path, output: Path) -> int:
    """Check and return the exit status."""
    try:
        from gpuplan_job.check.steps import check

        found = check(CheckRequest.from_json(request.read_text(encoding="utf-8")))
    except Exception as error:  # noqa: BLE001 - whatever it is, the client turns it into words
        traceback.print_exc()
        kind, message, fix = classify(error)
        print(json.dumps({"kind": kind, "message": message, "fix": fix}), file=sys.stderr)  # noqa: T201 - the answer
        return 1
    write_atomic(output, found.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
