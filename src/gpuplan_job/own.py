"""What names code of the user's own: `package.module:Attribute`, as --model or --data.

Asked by client and job alike, so standard library only. It imports nothing that a user wrote.
"""

from __future__ import annotations

import re

from gpuplan_job import data, discover

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_SPEC = re.compile(f"{_NAME}:{_NAME}", re.ASCII)


def is_own(spec: str) -> bool:
    """Tell whether a spec names code: `module:Attribute`, where the module has not the name of a data kind."""
    return _SPEC.fullmatch(spec) is not None and spec.partition(":")[0] not in discover.names(data)
