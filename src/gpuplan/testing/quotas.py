"""SageMaker's quotas of training instances: what Service Quotas lists, and what CreateTrainingJob refuses by.

moto knows no quotas of SageMaker. Held by the emulator, answered through the HTTP front.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from gpuplan.testing.errors import ApiError
from gpuplan.testing.model_rules import service_model
from gpuplan.testing.paging import page

if TYPE_CHECKING:
    from gpuplan.testing.wire import Incoming

DEFAULT_QUOTA = 1000.0
"""What the emulated account may use of any type until a test says otherwise. (A new AWS account: mostly 0.)"""

_PAGE = 100
_OPERATIONS = {"ListServiceQuotas", "GetServiceQuota", "ListAWSDefaultServiceQuotas", "GetAWSDefaultServiceQuota"}


def quota_name(instance_type: str, *, spot: bool) -> str:
    """Return the name of a quota as Service Quotas shows it."""
    return f"{instance_type} for {'spot ' if spot else ''}training job usage"


def quota_code(name: str) -> str:
    """Return the code of a quota: of AWS's form, the same in every emulator."""
    return f"L-{hashlib.sha256(name.encode()).hexdigest()[:8].upper()}"


@dataclass
class Quotas:
    """Instances allowed at a time, by quota name."""

    _values: dict[str, float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def set(self, instance_type: str, instances: float, *, spot: bool = False) -> None:
        """Allow so many instances of a type at a time."""
        with self._lock:
            self._values[quota_name(instance_type, spot=spot)] = float(instances)

    def check(self, instance_type: str, *, spot: bool, requested: int, used: int) -> None:
        """Raise ResourceLimitExceeded if the instances asked for do not fit beside those in use."""
        name = quota_name(instance_type, spot=spot)
        allowed = self._value(name)
        if used + requested > allowed:
            raise ApiError(
                "ResourceLimitExceeded",
                f"The account-level service limit '{name}' is {allowed:.0f} Instances, with current utilization of "
                f"{used} Instances and a request delta of {requested} Instances. Please use AWS Service Quotas to "
                "request an increase for this quota. If AWS Service Quotas is not available, contact AWS support to "
                "request an increase for this quota.",
            )

    def handles(self, call: Incoming) -> bool:
        """Tell whether a call to Service Quotas is about SageMaker."""
        return (
            call.service == "servicequotas"
            and call.operation in _OPERATIONS
            and json.loads(call.body or b"{}").get("ServiceCode") == "sagemaker"
        )

    def answer(self, call: Incoming) -> dict[str, Any]:
        """Answer a call to Service Quotas."""
        body = json.loads(call.body)
        default = "Default" in call.operation
        quotas = [self._document(name, call, default=default) for name in _names()]
        if call.operation.startswith("Get"):
            for quota in quotas:
                if quota["QuotaCode"] == body.get("QuotaCode"):
                    return {"Quota": quota}
            raise ApiError("NoSuchResourceException", "The request failed because the specified quota does not exist.")
        return page("Quotas", quotas, body, _PAGE)

    def _value(self, name: str) -> float:
        with self._lock:
            return self._values.get(name, DEFAULT_QUOTA)

    def _document(self, name: str, call: Incoming, *, default: bool) -> dict[str, Any]:
        code = quota_code(name)
        return {
            "ServiceCode": "sagemaker",
            "ServiceName": "Amazon SageMaker",
            "QuotaArn": f"arn:aws:servicequotas:{call.region}:{call.account}:sagemaker/{code}",
            "QuotaCode": code,
            "QuotaName": name,
            "Value": 0.0 if default else self._value(name),
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
            "QuotaAppliedAtLevel": "ACCOUNT",
        }


def _names() -> list[str]:
    types = service_model()["shapes"]["TrainingInstanceType"]["enum"]
    return sorted(quota_name(each, spot=spot) for each in types for spot in (False, True))
