"""Prints the CPU time of `gpuplan --help` and `gpuplan plan` beside eager imports and beside other launchers' help.

Run by hand: `python benchmarks/startup.py`, with the Python that gpuplan is installed in; benchmarks/README.md says how
to add peers. Ratios are the claim and seconds belong to the machine, so it must not judge a time.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median

from gpuplan import cli

HELP, PLAN, PLAN_JSON = "gpuplan --help", "gpuplan plan", "gpuplan plan --instance g5 -o json"
BOTO = ("boto3",)
ALL = ("boto3", "torch", "pytorch_lightning")
PEERS = {"aws": "awscli", "sky": "skypilot[aws]", "dstack": "dstack", "torchx": "torchx", "modal": "modal"}
"""Program -> what to pip install for it, in a virtual environment of its own."""
# `aws help` renders a manual page through groff; `aws --help` is a usage error in version 1.
PEER_ARGUMENTS = {"aws": ("--version", "help")}
METHOD = """\
CPU time is user plus system time, in seconds, of a process and of the children it waited for (wait4): unlike time on
the clock it grows little when other jobs share the machine. After a warm-up, each round runs every command once, so
that a slower minute falls on all of them. Shown are median (least to most). Ratios are taken within a round, then their
median: above 1, gpuplan used less. Home and working folder are one new folder. `eager` rows do the same as gpuplan's
own command after importing the named packages and every module of `gpuplan.cli`."""


class CommandError(Exception):
    """A command could not be run, or ended with another status than 0."""


@dataclass(frozen=True)
class Command:
    """What to run, what it is called, and the gpuplan command it is compared with."""

    label: str
    version: str
    argv: tuple[str, ...]
    against: str = HELP


def cpu_seconds(command: Command, folder: Path) -> float:
    """Run a command to its end; return the CPU seconds, user and system, of it and the children it waited for.

    Raises:
        CommandError: it cannot be run, or its exit status is not 0.
    """
    try:
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment(folder),
        )
    except OSError as error:
        raise CommandError(f"{command.label}: cannot be run: {error.strerror}") from error
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise CommandError(f"{command.label}: ended with status {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of every command: no credentials, no settings, no telemetry."""
    fixed = {"LANG": "C.UTF-8", "PAGER": "cat", "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    return fixed | {"PATH": os.environ["PATH"], "HOME": str(folder), "GPUPLAN_HOME": str(folder), "TMPDIR": str(folder)}


def own_commands() -> tuple[list[Command], list[str]]:
    """Return gpuplan's commands with their eager forms, and why some of these are left out."""
    program = Path(sys.executable).with_name("gpuplan")
    ours = metadata.version("gpuplan")
    commands = [Command(label, ours, (str(program), *label.split()[1:])) for label in (HELP, PLAN)]
    commands.append(Command(PLAN_JSON, ours, (str(program), *PLAN_JSON.split()[1:]), PLAN))
    commands.append(Command("python -c pass", platform.python_version(), (sys.executable, "-c", "pass")))
    missing: list[str] = []
    for label, heavy, against in (("--help", BOTO, HELP), ("--help", ALL, HELP), ("plan", ALL, PLAN)):
        name = f"eager {label}: {', '.join(heavy)}"
        try:
            versions = ", ".join(metadata.version(module.replace("_", "-")) for module in heavy)
        except metadata.PackageNotFoundError as error:
            missing.append(f"{name}: {error.name} is not installed")
            continue
        commands.append(Command(name, versions, (sys.executable, "-c", eager(heavy), label), against))
    return commands, missing


def eager(heavy: tuple[str, ...]) -> str:
    """Return a program that imports packages and every module of `gpuplan.cli`, then does what gpuplan does."""
    modules = [f"gpuplan.cli.{module.name}" for module in pkgutil.iter_modules(cli.__path__)]
    return f"import sys, {', '.join([*heavy, *modules])}; gpuplan.cli.app.main(sys.argv[1:])"


def peer_commands(named: dict[str, str]) -> tuple[list[Command], list[str]]:
    """Return the commands of the peers that are installed, and how to install the others."""
    commands: list[Command] = []
    missing: list[str] = []
    for name, package in PEERS.items():
        program = named.get(name) or shutil.which(name)
        if program is None:
            missing.append(
                f"{name}: not installed; `pip install '{package}'` in an environment of its own, then --peer"
            )
            continue
        commands += [
            Command(f"{name} {argument}", peer_version(program), (program, argument))
            for argument in PEER_ARGUMENTS.get(name, ("--help",))
        ]
    return commands, missing


def peer_version(program: str) -> str:
    """Return the version that a program gives itself."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [program, "--version"], capture_output=True, text=True, check=False, env=environment(Path(folder))
            )
    except OSError:
        return "unknown"
    words = done.stdout.replace("/", " ").replace("-", " ").split()
    return next((word for word in words if word[0].isdigit()), "unknown")


def measure(commands: list[Command], runs: int, folder: Path) -> tuple[dict[Command, list[float]], list[str]]:
    """Return the CPU seconds of every command, a run of it each round, and what became of those that do not work.

    Raises:
        CommandError: a command of gpuplan does not work, or one that did so in the warm-up.
    """
    samples: dict[Command, list[float]] = {}
    broken: list[str] = []
    for command in commands:
        try:
            cpu_seconds(command, folder)
        except CommandError as error:
            if command.label in {HELP, PLAN}:
                raise
            broken.append(str(error))
        else:
            samples[command] = []
    for done in range(runs):
        print(f"round {done + 1} of {runs}", file=sys.stderr)
        for command, seconds in samples.items():
            seconds.append(cpu_seconds(command, folder))
    return samples, broken


def rows(samples: dict[Command, list[float]]) -> list[tuple[str, ...]]:
    """Return the table: command, version, CPU seconds, ratio to the gpuplan command it stands against."""
    table: list[tuple[str, ...]] = [("command", "version", "CPU seconds", "ratio")]
    by_label = {command.label: seconds for command, seconds in samples.items()}
    for command, seconds in samples.items():
        ratios = [mine / base for mine, base in zip(seconds, by_label[command.against], strict=True)]
        ratio = f"{median(ratios):.3g} ({min(ratios):.3g} to {max(ratios):.3g}) x {command.against}"
        spread = f"{median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"
        table.append((command.label, command.version, spread, "" if command.label in {HELP, PLAN} else ratio))
    return table


def aligned(table: list[tuple[str, ...]], *, markdown: bool) -> list[str]:
    """Return the lines of a table, for a terminal or in Markdown."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    gap, edge = (" | ", ("| ", " |")) if markdown else ("  ", ("", ""))
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in table]
    if markdown:
        cells.insert(1, ["-" * width for width in widths])
    return [(edge[0] + gap.join(row) + edge[1]).rstrip() for row in cells]


def machine() -> str:
    """Return what the figures belong to: cores, processor, system, Python."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model}), {platform.system()} {platform.release()}, {python}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15, help="rounds after the warm-up (default 15)")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help=f"one of {', '.join(PEERS)}")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--note", default="", help="a sentence on how it was run, printed with the figures")
    options = parser.parse_args()
    named = dict(text.partition("=")[::2] for text in options.peer)
    if options.runs < 1 or not set(named) <= set(PEERS) or not all(named.values()):
        parser.error(f"--runs is at least 1, --peer is NAME=PATH with a name of {', '.join(PEERS)}")
    own, not_eager = own_commands()
    peers, not_there = peer_commands(named)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        try:
            samples, broken = measure(own + peers, options.runs, Path(folder))
        except CommandError as error:
            raise SystemExit(f"{error}; no figures without it") from error
    load = f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    mark = "# " if options.markdown else ""
    print(f"{mark}CPU time of starting up, {datetime.now(UTC).date()}\n\n{METHOD}\n")
    print(f"{machine()}; {options.runs} runs of each command; {load}. {options.note}".rstrip() + "\n")
    print("\n".join(aligned(rows(samples), markdown=options.markdown)))
    left_out = not_eager + not_there + broken
    if left_out:
        print("\n" + "\n".join(f"- {reason}" for reason in left_out))


if __name__ == "__main__":
    main()
