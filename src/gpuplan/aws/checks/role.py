"""Whether the execution role exists, is of the caller's account, and lets SageMaker assume it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuplan.aws.checks.base import Check, Status
from gpuplan.aws.errors import part
from gpuplan.core.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuplan.aws.session import Session

_SAGEMAKER = "sagemaker.amazonaws.com"
_OTHER_ACCOUNT = "add --profile NAME of that account, or another --role"
_OTHER_ROLE = "gpuplan infra deploy    or another --role"
_ASSUMING = {"sts:AssumeRole", "sts:*", "*"}


def role(session: Session, role_arn: str) -> Iterator[Check]:
    """Yield what is found of the role."""
    account, name = role_arn.split(":")[4], role_arn.rpartition("/")[2]
    caller = session.identity()
    if account != caller.account:
        said = f"{role_arn} is of account {account}, the credentials are of {caller.account}"
        yield Check("role", Status.ERROR, said, _OTHER_ACCOUNT, ExitCode.CREDENTIALS)
        return
    try:
        with session.calling("iam:GetRole", passes=("NoSuchEntity",)):
            found = part(session.client("iam").get_role(RoleName=name), "Role")
    except session.client("iam").exceptions.NoSuchEntityException:
        yield Check(
            "role",
            Status.ERROR,
            f"there is no role {name}",
            _OTHER_ROLE,
            ExitCode.USAGE,
        )
        return
    if found["Arn"] != role_arn:
        said = f"{name} exists, but as {found['Arn']}, not as {role_arn}"
        yield Check("role", Status.ERROR, said, f"add --role {found['Arn']}", ExitCode.USAGE)
    elif _trusts_sagemaker(found["AssumeRolePolicyDocument"]):
        yield Check("role", Status.OK, f"{role_arn}, which {_SAGEMAKER} may assume")
    else:
        said = f"{role_arn} does not let {_SAGEMAKER} assume it"
        fix = f"gpuplan infra deploy    or allow sts:AssumeRole to {_SAGEMAKER} in the role's trust policy"
        yield Check("role", Status.ERROR, said, fix, ExitCode.USAGE)


def _trusts_sagemaker(policy: dict[str, Any]) -> bool:
    """Tell whether some statement allows it; conditions, which depend on the call, are not judged."""
    for statement in _listed(policy.get("Statement", [])):
        principal = statement.get("Principal", {})
        services = _listed(principal.get("Service", []) if isinstance(principal, dict) else principal)
        actions = set(_listed(statement.get("Action", [])))
        if statement.get("Effect") == "Allow" and actions & _ASSUMING and {_SAGEMAKER, "*"} & set(services):
            return True
    return False


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - IAM lets one stand for a list of one
    return value if isinstance(value, list) else [value]
