"""The base of every value type: immutable, strict, no unknown keys, one canonical JSON text and its digest."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from gpuplan_job.document import canonical_json, sha256_hex


class Frozen(BaseModel):
    """A strict immutable value; Decimals and dates are written as strings in JSON."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def document(self) -> dict[str, Any]:
        """Return the value as JSON-ready data; an optional field that is not set is left out, never null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def canonical_json(self) -> str:
        """Return the text that `digest` is taken of: sorted keys, no spaces."""
        return canonical_json(self.document())

    def digest(self) -> str:
        """Return the hex sha256 of the canonical JSON."""
        return sha256_hex(self.canonical_json())


class Unknown(Frozen):
    """A value that is not known, with the reason; it stands where a number would, and is never 0."""

    unknown: str
