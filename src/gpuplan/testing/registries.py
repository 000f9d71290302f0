"""Other accounts' image registries: they let this account pull, and not look, as AWS's own do. Own ones are moto's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gpuplan.testing.errors import ApiError

if TYPE_CHECKING:
    from gpuplan.testing.wire import Incoming


class Registries:
    """Answers for registries that the caller's account does not own."""

    def handles(self, call: Incoming) -> bool:
        """Tell whether a call looks into a foreign registry."""
        if call.service != "ecr" or call.operation != "DescribeImages":
            return False
        asked: str = json.loads(call.body or b"{}").get("registryId", call.account)
        return asked != call.account

    def answer(self, call: Incoming) -> dict[str, Any]:
        """Refuse.

        Raises:
            ApiError: always.
        """
        arn = f"arn:aws:iam::{call.account}:user/emulated"
        raise ApiError("AccessDeniedException", f"User: {arn} is not authorized to perform: ecr:{call.operation}")
