"""What SageMaker tells a container: the job in its hyperparameters, the hosts, the channels; read strictly.

Called by `sagemaker`. Standard library only; it reads files below the root it is given and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuplan_job.contract import PROCESSES_VARIABLE
from gpuplan_job.document import ContractError, canonical_json, parse_json
from gpuplan_job.failures import JobError
from gpuplan_job.torchrun import Nodes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TRAINING_CHANNEL = "training"
_CONFIG = "input/config"
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}", re.ASCII)
_INTERFACE = re.compile(r"[A-Za-z0-9_.:@-]{1,64}", re.ASCII)
_FIX = "launch again with this version of gpuplan; if it stays, report it with the job's log"


@dataclass(frozen=True)
class Cluster:
    """The hosts of a job, in an order that all of them agree on, and the one this is."""

    hosts: tuple[str, ...]
    current: str
    interface: str
    processes: int
    """On each host."""

    @property
    def first(self) -> bool:
        """Whether this host is the one that all meet at, and that publishes the results."""
        return self.current == self.hosts[0]

    @property
    def world_size(self) -> int:
        """Processes of the job over all hosts."""
        return len(self.hosts) * self.processes

    @property
    def nodes(self) -> Nodes:
        """What torchrun has to know; a single host needs no network."""
        if len(self.hosts) == 1:
            return Nodes()
        return Nodes(len(self.hosts), self.hosts.index(self.current), self.hosts[0], interface=self.interface)


def cluster(root: Path, environ: Mapping[str, str]) -> Cluster:
    """Return the hosts of the job below `root`, with the processes its environment asks for.

    Raises:
        JobError: the file is missing or damaged, or the environment names no number.
    """
    config = _read(root, "resourceconfig.json")
    hosts, current = config.get("hosts"), config.get("current_host")
    if not isinstance(hosts, list) or not all(isinstance(host, str) and _HOST.fullmatch(host) for host in hosts):
        raise _damaged("resourceconfig.json", f"hosts are {hosts!r}")
    if current not in hosts or len(set(hosts)) != len(hosts):
        raise _damaged("resourceconfig.json", f"current_host {current!r} is not one of the hosts {hosts!r}")
    interface = config.get("network_interface_name", "eth0")
    if not isinstance(interface, str) or not _INTERFACE.fullmatch(interface):
        raise _damaged("resourceconfig.json", f"network_interface_name is {interface!r}")
    processes = environ.get(PROCESSES_VARIABLE, "")
    if not re.fullmatch(r"[1-9]\d{0,3}", processes, re.ASCII):
        raise JobError("usage", f"{PROCESSES_VARIABLE} is {processes!r}, not the processes of an instance", _FIX)
    return Cluster(tuple(sorted(hosts)), str(current), interface, int(processes))


def job_text(root: Path) -> str:
    """Return the job's input: the very text that `JobInput.to_json()` gave where the job was asked for.

    Each hyperparameter is a key of the document, its value as JSON.

    Raises:
        JobError: the file is missing or damaged, or a value is not JSON.
    """
    name = "hyperparameters.json"
    document: dict[str, Any] = {}
    for key, value in _read(root, name).items():
        if not isinstance(value, str):
            raise _damaged(name, f"{key} is no text")
        try:
            document[key] = parse_json(value)
        except ContractError as error:
            raise _damaged(name, f"{key}: {error}") from error
    return canonical_json(document)


def training_channel(root: Path) -> Path | None:
    """Return the folder that the job's data were brought to, None where the job has no such channel.

    Raises:
        JobError: the file is missing or damaged.
    """
    if TRAINING_CHANNEL not in _read(root, "inputdataconfig.json"):
        return None
    return root / "input" / "data" / TRAINING_CHANNEL


def _read(root: Path, name: str) -> dict[str, Any]:
    path = root / _CONFIG / name
    try:
        found = parse_json(path.read_bytes())
    except OSError as error:
        raise _damaged(name, error.strerror or str(error)) from error
    except ContractError as error:
        raise _damaged(name, str(error)) from error
    if not isinstance(found, dict):
        raise _damaged(name, "it is no JSON object")
    return found


def _damaged(name: str, problem: str) -> JobError:
    return JobError("usage", f"SageMaker's {name} cannot be used: {problem}", _FIX)
