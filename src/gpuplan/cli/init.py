"""`gpuplan init`: write a commented gpuplan.toml and its JSON Schema, both or neither."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from gpuplan.cli.options import DebugOption, Output, OutputOption
from gpuplan.core.errors import UsageError
from gpuplan.profiles.load import load as load_profile
from gpuplan.reports.layout import Facts, console, show
from gpuplan.workload.config_file import SCHEMA_FILE, config_schema, config_text
from gpuplan.workload.load import CONFIG_FILE
from gpuplan.workload.schema import Launch
from gpuplan_job.atomic import write_atomic

_SUFFIX = ".toml"


def command(
    path: Annotated[Path, typer.Argument(help="File to write, or the folder for a gpuplan.toml.")] = Path(CONFIG_FILE),
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    output: OutputOption = Output.TEXT,
    debug: DebugOption = False,
) -> None:
    """Write a gpuplan.toml with every setting commented out at its default, and its JSON Schema for editors."""
    del debug  # read by the entry point
    config = path / CONFIG_FILE if path.is_dir() else path
    schema = config.with_name(SCHEMA_FILE)
    if config.suffix != _SUFFIX:
        raise UsageError(f"{path} is neither a folder nor a name that ends in {_SUFFIX}", fix="gpuplan init")
    # The schema first: a gpuplan.toml never points to a schema that is not there.
    files = {schema: config_schema(), config: config_text(_instance_defaults())}
    if not force:
        _refuse_existing(config, schema)
    write_all(files)
    _report(config, schema, output)


def write_all(files: dict[Path, str]) -> None:
    """Write all files, each whole, or leave all as they were.

    Raises:
        UsageError: a file cannot be written.
    """
    before: dict[Path, bytes | None] = {}
    path = next(iter(files))
    try:
        for path, text in files.items():
            content = path.read_bytes() if path.exists() else None
            write_atomic(path, text)
            before[path] = content
    except OSError as error:
        for done, content in before.items():
            done.unlink() if content is None else done.write_bytes(content)
        raise UsageError(
            f"cannot write {path}", why=error.strerror or str(error), fix="gpuplan init <a writable path>"
        ) from error


def _refuse_existing(*paths: Path) -> None:
    # lexists: a link that leads nowhere is there, too.
    found = [str(path) for path in paths if os.path.lexists(path)]
    if found:
        raise UsageError(
            f"{' and '.join(found)} {'is' if len(found) == 1 else 'are'} already there",
            why="replacing them loses what was changed in them",
            fix=f"gpuplan init {shlex.quote(str(paths[0]))} --force",
        )


def _instance_defaults() -> dict[str, object]:
    """Return the defaults of the default instance's profile, as its file has them, without looking at this machine."""
    profile = load_profile(Launch.model_fields["instance"].default)
    return profile.defaults.document()


def _report(config: Path, schema: Path, output: Output) -> None:
    if output is Output.JSON:
        document = {"schema": "gpuplan.init/1", "config": str(config), "config_schema": str(schema)}
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    show(
        [Facts((("wrote", str(config)), ("wrote", str(schema)), ("next", f"edit {config}, then: gpuplan plan")))],
        console(),
    )
