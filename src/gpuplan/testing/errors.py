"""What can go wrong: the emulator's own set-up (`EmulatorError`), and an AWS API's refusal (`ApiError`).

Raised anywhere in gpuplan.testing. An `ApiError` never leaves the HTTP front: clients see AWS's error document.
"""

from __future__ import annotations

from gpuplan.core.errors import UsageError


class EmulatorError(UsageError):
    """The emulator cannot run here, or was asked for something that makes no sense."""


class ApiError(Exception):
    """An error answer of an AWS API: its code, its text and the HTTP status it travels with."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def invalid(message: str) -> ApiError:
    """Return the answer AWS gives to a request that breaks a rule."""
    return ApiError("ValidationException", message)
