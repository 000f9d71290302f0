"""Pages of a list as AWS's JSON services cut them: MaxResults and NextToken. Used by the APIs answered here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan.testing.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence


def page(key: str, items: Sequence[Any], body: dict[str, Any], default_size: int) -> dict[str, Any]:
    """Return the page that a request body asks for, and the token of the next if there is one."""
    token = body.get("NextToken") or "0"
    if not token.isdecimal():
        raise invalid("Invalid NextToken")
    start = int(token)
    end = start + int(body.get("MaxResults") or default_size)
    more = {"NextToken": str(end)} if end < len(items) else {}
    return {key: list(items[start:end])} | more
