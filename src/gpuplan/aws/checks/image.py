"""Which training image each step would run, and whether its registry has it, as far as that may be asked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gpuplan.aws import images
from gpuplan.aws.checks.base import Check, Status
from gpuplan.aws.errors import AccessDeniedError
from gpuplan.core.errors import ExitCode
from gpuplan.core.frozen import Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import date

    from gpuplan.aws.session import Session

_ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com[a-z.]*/(?P<repository>[^:@]+)"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64})|:(?P<tag>[\w.-]+))?"
)
_OTHER = "add --image ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG"
_MISSING = ("ImageNotFoundException", "RepositoryNotFoundException")


def image(
    session: Session, capabilities: Iterable[str | None], override: str | None, today: date | None
) -> Iterator[Check]:
    """Yield for each image whether it is there and, given a day, what should be known of it by then.

    GPUs of different generations may need different images.
    """
    for capability in dict.fromkeys(capabilities):
        found = images.image(session.region, capability, override)
        if isinstance(found, Unknown):
            yield Check("image", Status.ERROR, found.unknown, _OTHER, ExitCode.USAGE)
        else:
            yield _in_registry(session, found.uri)
            note = found.note(today) if today else None
            if note:
                yield Check("image", Status.WARNING, note)


def _in_registry(session: Session, uri: str) -> Check:
    parts = _ECR.fullmatch(uri)
    if parts is None:
        return Check("image", Status.UNKNOWN, f"{uri}: not in ECR, not checked")
    which = {"imageDigest": parts["digest"]} if parts["digest"] else {"imageTag": parts["tag"] or "latest"}
    there = session if parts["region"] == session.region else session.in_region(parts["region"])
    client = there.client("ecr")
    try:
        with there.calling("ecr:DescribeImages", passes=_MISSING):
            client.describe_images(registryId=parts["account"], repositoryName=parts["repository"], imageIds=[which])
    except client.exceptions.ClientError:
        return Check("image", Status.ERROR, f"{uri}: its registry has no such image", _OTHER, ExitCode.USAGE)
    except AccessDeniedError as error:
        return Check("image", Status.UNKNOWN, f"{uri}: not checked, {error.action} is not allowed")
    return Check("image", Status.OK, uri)
