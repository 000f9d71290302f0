"""What AWS's "not authorized" says: the IAM action, the reason, and whether an explicit deny stands behind it.

Called by `errors` alone, with AWS's message as text. Pure; the wording decides advice, never the class of an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ACTION = re.compile(r"not authorized to perform:? `?([a-z0-9-]+:[A-Za-z0-9]+)")
_RESOURCE = re.compile(r"on (?:the )?resource:? (\S+)")
_DENY = re.compile(r"explicit deny(?: in an? ([a-z][a-z -]*?(?:policy|boundary)))?(?:[\s:,.]|$)", re.IGNORECASE)
_NO_ALLOW = re.compile(r"because (no [a-z][a-z -]*? allows)")
_POLICY = "gpuplan infra show --template"
_S3_ACTIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "GetBucketLocation": "s3:GetBucketLocation",
    "GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
}
"""S3 says no more than "Access Denied": the action follows from the call."""


@dataclass(frozen=True)
class Denial:
    """What was denied, why, and what to do about it."""

    what: str
    why: str
    fix: str
    action: str
    """IAM action, empty where it is not known."""
    explicit: bool
    """Whether a policy denies it, which no allow can lift."""


def read(said: str, operation: str) -> Denial:
    """Return what a message of AWS says.

    Args:
        said: the message.
        operation: the API call it answered, `HeadBucket` or, where the service is known, `iam:GetRole`.
    """
    stated = _ACTION.search(said)
    called = _S3_ACTIONS.get(operation.rpartition(":")[2]) or (operation if ":" in operation else "")
    action = stated[1] if stated else called
    resource = _RESOURCE.search(said)
    on = f" on {resource[1].rstrip('.,')}" if resource else ""
    what = f"{action} is not allowed{on}" if action else f"not allowed{f' ({said})' if said else ''}"
    deny = _DENY.search(said)
    if deny:
        policy = deny[1] or "policy"
        article = "an" if policy[0] in "aeiou" else "a"
        return Denial(
            what,
            why=f"{article} {policy} explicitly denies it: no allow elsewhere can lift that",
            fix=f"ask the account's administrator to exempt {action or operation or 'the call'} from that {policy}",
            action=action,
            explicit=True,
        )
    missing = _NO_ALLOW.search(said)
    why = f"{missing[1]} it" if missing else "AWS knows you, but no policy allows it"
    return Denial(
        what,
        why=why,
        fix=f"allow {action or operation or 'the call'}; the launcher policy has it: {_POLICY}",
        action=action,
        explicit=False,
    )
