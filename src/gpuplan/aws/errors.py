"""From what botocore raises to gpuplan's errors: `calling` stands around every AWS call of gpuplan.

Classified by exception class and by AWS's error code, so the wording of a message decides nothing but the advice. What
AWS said is quoted in short and never with a credential in it.
"""

from __future__ import annotations

import re
import shlex
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuplan.aws import _denied
from gpuplan.aws._faults import AGAIN, CLASSES, CODES, DENIED_CODES
from gpuplan.core.errors import CredentialsError, GpuplanError, UnreachableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FIRST_HTTP_STATUS_OF_FAILURE = 500
_LONGEST_QUOTE = 300
_SECRET = re.compile(
    r"(?P<name>(?:s3://|arn:)\S+)"  # the name of a resource may be long and is no secret
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}"  # the id of an access key
    r"|(?<=//)[^/@\s]+(?=@)"  # user and password in the URL of an endpoint or a proxy
    # A secret key or a token; a digest is neither.
    r"|(?<![A-Za-z0-9+/=_-])(?![0-9a-f]+(?![A-Za-z0-9+/=_]))[A-Za-z0-9+/=_]{40,}"
)
_NOISE = re.compile(r"\s*(?:The Canonical String|Encoded authorization failure message).*", re.DOTALL)
_IAM_ACTION = re.compile(r"[a-z0-9-]+:[A-Z][A-Za-z0-9]+")
_QUOTA = re.compile(r"\bml\.([a-z0-9-]+\.[a-z0-9-]+) for ")


class AccessDeniedError(CredentialsError):
    """AWS knows the caller and does not allow the call; what only wanted to look may go on without."""

    def __init__(self, what: str, *, why: str = "", fix: str = "", action: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.action = action
        """IAM action that was denied, such as `iam:GetRole`; empty where AWS does not say."""


@dataclass(frozen=True)
class _Call:
    """What is being done, what the caller advises if AWS refuses it, and as which profile."""

    action: str
    fix: str
    profile: str | None

    def what(self, said: str) -> str:
        begun = f"{self.action} failed" if _IAM_ACTION.fullmatch(self.action) else f"cannot {self.action}"
        return f"{begun}: {_short(said)}"

    def advice(self, fix: str) -> str:
        return fix.replace("{profile}", f" --profile {shlex.quote(self.profile)}" if self.profile else "")


@contextmanager
def calling(action: str, *, fix: str = "", passes: tuple[str, ...] = (), profile: str | None = None) -> Iterator[None]:
    """Translate what AWS calls inside the block raise; everything else passes unchanged.

    Args:
        action: what is being done, to follow "cannot": `list the quotas`; or the API call: `iam:GetRole`.
        fix: what to do if AWS refuses the call itself; credentials and network have fixes of their own.
        passes: error codes the caller handles: their ClientError is raised as it is.
        profile: AWS profile in use, for the commands in the advice (`Session.calling` fills it in).

    Raises:
        CredentialsError: no, expired or unaccepted credentials, or a clock that is off.
        AccessDeniedError: a CredentialsError: the caller is known, the call not allowed.
        CapacityError: a quota or AWS's capacity is too small.
        UnreachableError: no usable answer; the call may or may not have taken effect.
        ThrottledError: an UnreachableError: turned away for its rate, it did not take effect.
        UsageError: AWS does not accept the request, or the AWS configuration is unusable.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    call = _Call(action, fix, profile)
    try:
        yield
    except (ClientError, BotoCoreError, ResponseParserError, Boto3Error) as error:
        # A managed transfer of boto3 wraps what happened to it.
        cause = error.__context__ if isinstance(error, Boto3Error) and error.__context__ else error
        if not isinstance(cause, ClientError):
            raise _of_class(call, cause) from error
        if _code(cause) in passes:
            raise cause from None
        raise _of_code(call, cause) from error


def part(reply: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - whatever AWS sends there
    """Return what every reply of this call holds.

    Raises:
        UnreachableError: it does not: botocore reads a reply that was cut or garbled as an empty one.
    """
    if key not in reply:
        raise UnreachableError(
            f"AWS's reply holds no {key}", why="it was cut or garbled on its way, by a proxy perhaps", fix=AGAIN
        )
    return reply[key]


def quotable(said: str) -> str:
    """Return AWS's words on one line, without the encoded blob or the request it repeats, nor what may be a secret."""
    words = " ".join(_NOISE.sub("", said).split())
    return _SECRET.sub(lambda found: found["name"] or "***", words).rstrip(". ")


def _code(error: Any) -> str:  # noqa: ANN401 - botocore's exceptions are untyped
    return str(error.response.get("Error", {}).get("Code", ""))


def _of_code(call: _Call, error: Any) -> GpuplanError:  # noqa: ANN401 - as above
    """Return what an error that AWS answered with means."""
    code = _code(error)
    said = str(error.response.get("Error", {}).get("Message") or "no reason given")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    if code in DENIED_CODES:
        denial = _denied.read(
            quotable(said), call.action if _IAM_ACTION.fullmatch(call.action) else error.operation_name
        )
        fix = denial.fix if denial.explicit else call.fix or denial.fix
        return AccessDeniedError(call.what(denial.what), why=denial.why, fix=fix, action=denial.action)
    fault = next((fault for fault in CODES if code in fault.names), None)
    if fault is None and status >= _FIRST_HTTP_STATUS_OF_FAILURE:
        return UnreachableError(call.what(said), why=f"AWS is failing (HTTP {status}, {code})", fix=AGAIN)
    if fault is None:
        return UsageError(call.what(said), why=f"AWS answered {code or f'HTTP {status}'}", fix=call.fix)
    what = call.what(said if fault.quotes else "AWS does not accept the request's signature")
    fix = call.advice(fault.fix) or call.fix or _quota_fix(said)
    return fault.error(what, why=f"{fault.why} ({code})", fix=fix)


def _of_class(call: _Call, error: BaseException) -> GpuplanError:
    """Return what an error means that botocore raised by itself: before the call, or because no answer came."""
    lineage = {base.__name__ for base in type(error).__mro__}
    what = call.what(str(error))
    fault = next((fault for fault in CLASSES if lineage & fault.names), None)
    if fault is None:
        return UsageError(what, why=f"the call could not be made ({type(error).__name__})", fix=call.fix)
    return fault.error(what, why=fault.why, fix=call.advice(fault.fix))


def _quota_fix(said: str) -> str:
    """Return the command that shows the quota a message is about, with its code and the way to have it raised."""
    named = _QUOTA.search(said)
    return f"gpuplan doctor --instance {named[1]}" if named else "gpuplan doctor"


def _short(said: str) -> str:
    words = quotable(said)
    return words if len(words) <= _LONGEST_QUOTE else f"{words[:_LONGEST_QUOTE]}..."
