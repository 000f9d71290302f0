"""Faults of the connection and of AWS's front door: lost replies, refusals, garbage, delay. Asked by the HTTP front.

An operation is given as `"CreateTrainingJob"`, `"s3:PutObject"` or a pattern such as `"s3:*"`. The oldest rule that
matches a call is used up first; `skip` lets that many calls pass before, and `where` narrows a rule to calls whose path
or body holds a text. `times=None` means until `clear()`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from threading import RLock
from typing import TYPE_CHECKING, Literal

from gpuplan.testing.errors import ApiError

if TYPE_CHECKING:
    from gpuplan.testing.wire import Incoming

_NOT_AUTHORIZED = (
    "User: arn:aws:iam::{account}:user/tester is not authorized to perform: {service}:{operation} because no "
    "identity-based policy allows the {service}:{operation} action"
)
_KNOWN: dict[str, tuple[int, str]] = {
    "ThrottlingException": (400, "Rate exceeded"),
    "RequestLimitExceeded": (503, "Request limit exceeded."),
    "SlowDown": (503, "Please reduce your request rate."),
    "InternalFailure": (500, "The request processing has failed because of an unknown error."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "ServiceUnavailable": (503, "Service is unable to handle request."),
    "ExpiredTokenException": (400, "The security token included in the request is expired"),
    "ExpiredToken": (400, "The provided token has expired."),
    "UnrecognizedClientException": (400, "The security token included in the request is invalid."),
    "InvalidClientTokenId": (403, "The security token included in the request is invalid."),
    "AccessDeniedException": (400, _NOT_AUTHORIZED),
    "AccessDenied": (403, "Access Denied"),
    "RequestTimeTooSkewed": (403, "The difference between the request time and the current time is too large."),
    "SignatureDoesNotMatch": (403, "Signature expired"),
    "ResourceLimitExceeded": (400, "The account-level service limit is exceeded."),
}


@dataclass
class Rule:
    """One fault that waits for its calls."""

    kind: Literal["lose", "refuse", "garbage", "delay"]
    operation: str
    left: int | None
    skip: int
    where: str
    error: ApiError | None = None
    body: bytes | None = None
    seconds: float = 0.0

    def answer(self, call: Incoming) -> ApiError | None:
        """Return the error that this rule answers that call with, if it answers with one."""
        if self.error is None:
            return None
        named = self.error.message.format(account=call.account, service=call.service, operation=call.operation)
        return ApiError(self.error.code, named, self.error.status)

    def matches(self, call: Incoming) -> bool:
        """Tell whether this rule is about that call."""
        name = f"{call.service}:{call.operation}" if ":" in self.operation else call.operation
        return fnmatchcase(name, self.operation) and (not self.where or self.where in call.text())


@dataclass
class WireFaults:
    """The faults that are waiting at HTTP level; safe to use from any thread."""

    _rules: list[Rule] = field(default_factory=list)
    _lock: RLock = field(default_factory=RLock)

    def lose_reply(self, operation: str, times: int | None = 1, *, skip: int = 0, where: str = "") -> None:
        """Carry the call out, then cut the connection before a byte of the reply."""
        self._add(Rule("lose", operation, times, skip, where))

    def refuse(  # noqa: PLR0913 -- the parts of an error answer, all but two optional
        self,
        operation: str,
        code: str,
        status: int | None = None,
        message: str | None = None,
        times: int | None = 1,
        *,
        skip: int = 0,
        where: str = "",
    ) -> None:
        """Answer with an error and carry nothing out; status and text have AWS's defaults for well-known codes."""
        known_status, known_message = _KNOWN.get(code, (400, code))
        text = known_message if message is None else message.replace("{", "{{").replace("}", "}}")
        error = ApiError(code, text, status or known_status)
        self._add(Rule("refuse", operation, times, skip, where, error=error))

    def garbage(
        self, operation: str, body: bytes | None = None, times: int | None = 1, *, skip: int = 0, where: str = ""
    ) -> None:
        """Carry the call out, then answer 200 with this body; without one, with the first half of the real body."""
        self._add(Rule("garbage", operation, times, skip, where, body=body))

    def delay(self, operation: str, seconds: float, times: int | None = 1, *, skip: int = 0, where: str = "") -> None:
        """Wait so long before the call is looked at; it combines with another fault on the same call."""
        self._add(Rule("delay", operation, times, skip, where, seconds=seconds))

    def clear(self) -> None:
        """Forget every fault."""
        with self._lock:
            self._rules.clear()

    def due(self, call: Incoming) -> tuple[float, Rule | None]:
        """Use up the faults for a call: seconds to wait, and at most one thing to do to it."""
        with self._lock:
            waiting, chosen = 0.0, None
            for rule in list(self._rules):
                if not rule.matches(call) or (rule.kind != "delay" and chosen is not None):
                    continue
                if rule.skip > 0:
                    rule.skip -= 1
                    continue
                self._use(rule)
                if rule.kind == "delay":
                    waiting += rule.seconds
                else:
                    chosen = rule
            return waiting, chosen

    def _use(self, rule: Rule) -> None:
        if rule.left is not None:
            rule.left -= 1
            if rule.left <= 0:
                self._rules.remove(rule)

    def _add(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)
