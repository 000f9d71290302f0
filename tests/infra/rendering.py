"""The template as CloudFormation would see it with given parameters: references and functions worked out.

The tests assert on it, and checkov reads it (`python rendering.py FOLDER`): with functions in place checkov passes over
most of the policies. Needs PyYAML alone.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped] # PyYAML has no types of its own

TEMPLATE = Path(__file__).resolve().parents[2] / "infra" / "gpuplan.yaml"
ACCOUNT = "123456789012"
EVERYTHING = {
    "Prefix": "team-a/gpuplan",
    "RequireNetworkIsolation": "true",
    "KmsKeyArn": f"arn:aws:kms:us-east-1:{ACCOUNT}:key/11111111-2222-3333-4444-555555555555",
    "PermissionsBoundaryArn": f"arn:aws:iam::{ACCOUNT}:policy/boundary",
    "DataBucketName": "our-data",
    "DataPrefix": "imagenet/",
    "ImageRepositoryArn": f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/ours",
    "BudgetUSD": "500",
    "BudgetEmail": "team@example.com",
}
"""Parameters that turn every option on."""
_NOTHING = object()
_SUFFIXES = {"aws": "amazonaws.com", "aws-cn": "amazonaws.com.cn", "aws-us-gov": "amazonaws.com"}


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # a class without types, as above
    """YAML with CloudFormation's short forms: `!Ref X` is `{"Ref": "X"}`."""


def _short_form(loader: _Loader, suffix: str, node: Any) -> dict[str, Any]:  # noqa: ANN401 - PyYAML's node
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt":
        value = value.split(".", 1)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_form)


@cache
def load() -> dict[str, Any]:
    """Return the template as data, functions in their long form; not to be changed."""
    document: dict[str, Any] = yaml.load(TEMPLATE.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    return document


def render(
    parameters: dict[str, str] | None = None, region: str = "us-east-1", partition: str = "aws"
) -> dict[str, Any]:
    """Return the template with nothing left to work out; a resource whose condition is false is left out."""
    return _Rendering(load(), parameters or {}, region, partition).template()


class _Rendering:
    def __init__(self, template: dict[str, Any], given: dict[str, str], region: str, partition: str) -> None:
        self._template = template
        values = {name: given.get(name, str(p["Default"])) for name, p in template["Parameters"].items()}
        lists = {name for name, p in template["Parameters"].items() if p["Type"] == "CommaDelimitedList"}
        self._values: dict[str, Any] = {k: v.split(",") if k in lists else v for k, v in values.items()}
        self._values |= {
            "AWS::AccountId": ACCOUNT,
            "AWS::Partition": partition,
            "AWS::Region": region,
            "AWS::StackName": "gpuplan",
            "AWS::URLSuffix": _SUFFIXES[partition],
            "AWS::NoValue": _NOTHING,
            "Bucket": "gpuplan-bucket-1",
            "LauncherPolicy": f"arn:{partition}:iam::{ACCOUNT}:policy/gpuplan-LauncherPolicy-1",
            "Bucket.Arn": f"arn:{partition}:s3:::gpuplan-bucket-1",
            "ExecutionRole.Arn": f"arn:{partition}:iam::{ACCOUNT}:role/gpuplan-ExecutionRole-1",
        }

    def template(self) -> dict[str, Any]:
        resources = {
            name: self._value({key: part for key, part in resource.items() if key not in {"Condition", "Metadata"}})
            for name, resource in self._template["Resources"].items()
            if "Condition" not in resource or self._holds(self._template["Conditions"][resource["Condition"]])
        }
        return {
            "AWSTemplateFormatVersion": self._template["AWSTemplateFormatVersion"],
            "Resources": resources,
            "Outputs": self._value(self._template["Outputs"]),
        }

    def _holds(self, condition: dict[str, Any]) -> bool:
        ((function, arguments),) = condition.items()
        if function == "Fn::Not":
            return not self._holds(arguments[0])
        if function == "Fn::And":
            return all(map(self._holds, arguments))
        if function == "Fn::Equals":
            one, two = map(self._value, arguments)
            return bool(one == two)
        raise NotImplementedError(function)

    def _value(self, node: Any) -> Any:  # noqa: ANN401 - whatever a template holds
        if isinstance(node, list):
            return [value for value in map(self._value, node) if value is not _NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((function, argument),) = node.items()
            if function == "Ref" or str(function).startswith("Fn::"):
                return self._function(function, argument)
        valued = {key: self._value(part) for key, part in node.items()}
        return {key: value for key, value in valued.items() if value is not _NOTHING}

    def _function(self, function: str, argument: Any) -> Any:  # noqa: ANN401 - as above
        if function == "Ref":
            return self._values[argument]
        if function == "Fn::GetAtt":
            return self._values[".".join(argument)]
        if function == "Fn::If":
            condition, yes, no = argument
            return self._value(yes if self._holds(self._template["Conditions"][condition]) else no)
        if function == "Fn::FindInMap":
            table, row, column = (self._value(part) for part in argument)
            return self._template["Mappings"][table][row][column]
        if function == "Fn::Sub":
            text, own = (argument, {}) if isinstance(argument, str) else argument
            known = self._values | {name: self._value(value) for name, value in own.items()}
            return re.sub(r"\$\{([^}]+)\}", lambda found: str(known[found[1]]), text)
        raise NotImplementedError(function)


def main(folder: Path) -> None:
    """Write the template for checkov: as it is by default, and with everything on."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, parameters in (("default", {}), ("everything", EVERYTHING)):
        (folder / f"{name}.json").write_text(json.dumps(render(parameters), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
