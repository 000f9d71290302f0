"""What moto's CloudFormation leaves out and a stack shows: applied change sets, kinds of resources, bucket settings.

Mended from the first such call on, because importing moto's part takes seconds, until the emulator closes. Used by the
HTTP front; the calls themselves are moto's to answer.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Untyped = Any
"""moto's own classes."""
PUBLIC_ACCESS_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
"""What keeps a bucket private, in moto's order."""


@dataclass
class CloudFormation:
    """The mends, made once and taken back by `close`."""

    _taken_back: ExitStack = field(default_factory=ExitStack)
    _mended: bool = False
    _lock: Lock = field(default_factory=Lock)

    def mend(self) -> None:
        """Let moto do from now on what AWS does."""
        with self._lock:
            if self._mended:
                return
            from moto.cloudformation import models, parsing
            from moto.s3.models import FakeBucket

            self._replace(models.ChangeSet, "apply", _applied_wholly)
            self._replace(models.Stack, "parameter_list", _lists_as_text)
            self._replace(parsing, "resource_class_from_type", _unknown_kinds_as_inert)
            self._replace(parsing, "parse_and_update_resource", _kept_if_not_updated)
            self._replace(FakeBucket, "create_from_cloudformation_json", _created_with_settings)
            self._replace(FakeBucket, "update_from_cloudformation_json", _updated_with_settings)
            self._mended = True

    def close(self) -> None:
        """Take every mend back."""
        with self._lock:
            self._taken_back.close()
            self._mended = False

    def _replace(self, owner: Untyped, name: str, mended: Callable[[Untyped], Untyped]) -> None:
        found = vars(owner)[name]
        setattr(owner, name, mended(found))
        self._taken_back.callback(setattr, owner, name, found)


class Inert:
    """A resource of a kind that moto does not know: it is there, has a name, and does nothing."""

    def __init__(self, name: str) -> None:
        self.physical_resource_id = name
        self.cf_resource_type = ""
        self.logical_resource_id = ""

    @classmethod
    def create_from_cloudformation_json(cls, resource_name: str, *_: Untyped, **__: Untyped) -> Inert:
        """Return the resource; moto writes its kind and its logical name into it."""
        return cls(resource_name)

    @classmethod
    def update_from_cloudformation_json(cls, original_resource: Inert, **_: Untyped) -> Inert:
        """Return the resource as it was."""
        return original_resource

    @staticmethod
    def has_cfn_attr(_attribute: str) -> bool:
        """Tell that it has no attribute that an output could name."""
        return False

    @staticmethod
    def is_created() -> bool:
        """Tell that nothing is waited for."""
        return True

    def delete(self, _account: str, _region: str) -> None:
        """Go without a trace."""


def _applied_wholly(apply: Callable[[Untyped], None]) -> Callable[[Untyped], None]:
    """Let a change set give its stack not only resources: template, description, parameters and outputs as well."""

    def applied(change_set: Untyped) -> None:
        apply(change_set)
        stack = change_set.stack
        stack.template = change_set.template
        stack.parameters = change_set.parameters
        stack._parse_template()  # noqa: SLF001 -- as moto's own `Stack.update` does
        stack.description = stack.template_description
        stack.output_map = stack._create_output_map()  # noqa: SLF001 -- as above

    return applied


def _lists_as_text(parameters: property) -> property:
    """Show a list parameter as it was given, joined by commas."""

    def as_text(stack: Untyped) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = parameters.__get__(stack)
        for parameter in listed:
            if isinstance(parameter["ParameterValue"], list):
                parameter["ParameterValue"] = ",".join(parameter["ParameterValue"])
        return listed

    return property(as_text)


def _unknown_kinds_as_inert(kind_of: Callable[[str], Untyped]) -> Callable[[str], Untyped]:
    """Make of a resource of AWS that moto does not know at least a name."""

    def known(resource_type: str) -> Untyped:
        from moto.cloudformation.parsing import NULL_MODELS, get_model_map

        known_kinds = (*NULL_MODELS, *get_model_map())
        unknown = resource_type.startswith("AWS::") and resource_type not in known_kinds
        return Inert if unknown else kind_of(resource_type)

    return known


def _kept_if_not_updated(update: Callable[..., Untyped]) -> Callable[..., Untyped]:
    """Keep a resource whose kind moto cannot update, a managed policy among them, as it was; moto loses it."""

    def updated(logical_id: str, document: dict[str, Any], resources: Untyped, **kwargs: Untyped) -> Untyped:
        return update(logical_id, document, resources, **kwargs) or resources[logical_id]

    return updated


def _created_with_settings(create: classmethod[Untyped, Untyped, Untyped]) -> classmethod[Untyped, Untyped, Untyped]:
    """Give a new bucket the settings of its template."""

    def created(
        cls: type, /, name: str, document: dict[str, Any], account_id: str, region_name: str, **kwargs: Untyped
    ) -> Untyped:
        bucket = create.__get__(None, cls)(name, document, account_id, region_name, **kwargs)
        _set_up(bucket, document["Properties"])
        return bucket

    return classmethod(created)


def _updated_with_settings(update: classmethod[Untyped, Untyped, Untyped]) -> classmethod[Untyped, Untyped, Untyped]:
    """Let a bucket whose name is AWS's choice be updated; moto looks for the name in the template."""

    def updated(
        cls: type, /, original_resource: Untyped, cloudformation_json: dict[str, Any], **kwargs: Untyped
    ) -> Untyped:
        cloudformation_json["Properties"].setdefault("BucketName", original_resource.name)
        bucket = update.__get__(None, cls)(
            original_resource=original_resource, cloudformation_json=cloudformation_json, **kwargs
        )
        _set_up(bucket, cloudformation_json["Properties"])
        return bucket

    return classmethod(updated)


def _set_up(bucket: Untyped, properties: dict[str, Any]) -> None:
    """Turn versions and the block of public access on as a template says."""
    from moto.s3.models import PublicAccessBlock

    if versioning := properties.get("VersioningConfiguration"):
        bucket.versioning_status = versioning["Status"]
    if blocked := properties.get("PublicAccessBlockConfiguration"):
        bucket.public_access_block = PublicAccessBlock(*(blocked.get(name) for name in PUBLIC_ACCESS_BLOCKS))
