"""`python -m gpuplan_job.trace REQUEST OUTPUT`: reads a TraceRequest, writes its StepTrace, or a failure on stderr.

Started by the client, which must not import torch. Exit status 0, or 1 with one JSON line `{kind, message, fix}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gpuplan_job.atomic import write_atomic
from gpuplan_job.failures import JobError
from gpuplan_job.step_trace import TraceRequest


def main(request: Path, output: Path) -> int:
    """Trace and return the exit status."""
    try:
        from gpuplan_job.trace.step import trace

        found = trace(TraceRequest.from_json(request.read_text(encoding="utf-8")))
    except JobError as error:
        print(json.dumps({"kind": error.kind, "message": str(error), "fix": error.fix}), file=sys.stderr)  # noqa: T201 - the answer
        return 1
    write_atomic(output, found.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
