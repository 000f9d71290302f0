"""The command line that turns a process into a container: its own /opt/ml, /etc/hosts, processes, and maybe network.

Used by `container`. Linux namespaces through util-linux; nothing is left on the host, not even the mount point.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from gpuplan.testing.errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TOOLS = ("setpriv", "unshare", "nsenter", "mount", "ip", "sh")
_DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""A test that is killed leaves no container behind."""

# Arguments: the host's ml folder, its hosts file, an empty folder, then the entry point. Where the machine has no
# /opt/ml, /opt becomes a tmpfs that shows everything it had, plus ml: so nothing is made on the machine itself.
_SETUP = """
set -eu
ml=$1 hosts=$2 before=$3
shift 3
if [ ! -d /opt/ml ]; then
  mount --rbind /opt "$before"
  mount -t tmpfs -o mode=755 tmpfs /opt
  for each in "$before"/* "$before"/.[!.]*; do
    name=${each##*/}
    if [ -L "$each" ]; then cp -P "$each" "/opt/$name"
    elif [ -d "$each" ]; then mkdir "/opt/$name"; mount --rbind "$each" "/opt/$name"
    elif [ -e "$each" ]; then : > "/opt/$name"; mount --bind "$each" "/opt/$name"
    fi
  done
  mkdir /opt/ml
fi
mount --bind "$ml" /opt/ml
mount --bind "$hosts" /etc/hosts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
cd /
exec "$@"
"""


@dataclass(frozen=True)
class Rooms:
    """The folders and files of one host that its container sees in well-known places."""

    ml: Path
    hosts_file: Path
    empty: Path


def command(rooms: Rooms, entry_point: Sequence[str], network_of: int | None) -> list[str]:
    """Return the command that runs an entry point as process 1 of a container.

    Args:
        rooms: What to mount.
        entry_point: The program and its arguments.
        network_of: The process whose network namespace to join; None keeps the machine's network.
    """
    joined = [] if network_of is None else ["nsenter", f"--net=/proc/{network_of}/ns/net", "--"]
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    places = [str(rooms.ml), str(rooms.hosts_file), str(rooms.empty)]
    return [*_DIE_WITH_US, *joined, *namespaces, "sh", "-c", _SETUP, "container", *places, *entry_point]


class LoopbackNetwork:
    """A network namespace with nothing but loopback, shared by the hosts of one job."""

    def __init__(self) -> None:
        script = "ip link set lo up && echo up && exec sleep infinity"
        self._holder = subprocess.Popen(  # noqa: S603 -- fixed command
            [*_DIE_WITH_US, "unshare", "--net", "--kill-child", "--fork", "sh", "-c", script],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if self._holder.stdout is None or self._holder.stdout.readline() != b"up\n":
            self.close()
            raise EmulatorError("no loopback network could be made", why="`unshare --net` or `ip link` failed")

    @property
    def pid(self) -> int:
        """A process inside."""
        return _only_child(self._holder.pid)

    def close(self) -> None:
        """Let go of the namespace; it ends with its last process."""
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()


def _only_child(pid: int) -> int:
    import psutil

    return int(psutil.Process(pid).children()[0].pid)


@cache
def check() -> None:
    """Raise EmulatorError unless this machine lets us make containers."""
    fix = "run as root on Linux with util-linux and iproute2, or use Emulator(execute=False)"
    if os.geteuid() != 0:
        raise EmulatorError("running training jobs needs root", why="it mounts a private /opt/ml", fix=fix)
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise EmulatorError(f"not found on PATH: {', '.join(missing)}", why="containers are made with them", fix=fix)
    probe = ["unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)  # noqa: S603 -- fixed command
    if done.returncode:
        raise EmulatorError("this machine lets nobody make namespaces", why=done.stderr.strip(), fix=fix)
