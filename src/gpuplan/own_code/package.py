"""The archive of a user's code: the same files at the same commit make the same bytes, with a manifest inside.

Called by the command line where model or data are the user's own. It reads the folder and writes nothing.
"""

from __future__ import annotations

import io
import stat
import sys
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuplan.core.errors import UsageError
from gpuplan.own_code.code_package import CodePackage
from gpuplan.own_code.files import CodeFiles, code_files, git
from gpuplan_job.document import canonical_json, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MANIFEST = "gpuplan-code.json"
"""In the archive: commit, what differs from it, and the sha256 of each file."""
_BYTES_PER_MB = 1_000_000
_MOST_DIFF = 1_000_000
"""Bytes of the difference that are kept; all of each file is in the archive anyway."""
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_LARGEST_SHOWN = 5
_NAMES_A_CALL = 500
"""A command line has room for some more."""
_OURS = {
    *("gpuplan", "gpuplan_job", "numpy", "torch", "torchvision", "torchmetrics"),
    *("lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning"),
}
"""What a training imports before the user's code: a module of such a name would be another in the job than here."""


@dataclass(frozen=True)
class Packed:
    """The archive and what a plan keeps of it."""

    code: CodePackage
    archive: bytes


def pack(
    folder: Path,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    most_mb: float,
    without: Sequence[Path] = (),
) -> Packed:
    """Return the archive of the code in a folder; see `files.code_files` for what is in it.

    Raises:
        UsageError: there is none, it is larger than `most_mb` (10^6 bytes), cannot be read, or holds a module that has
            the name of one that the training itself needs.
    """
    found = code_files(folder, include, exclude, without)
    if MANIFEST in found.names:
        raise UsageError(
            f"{MANIFEST} is the name of the list that gpuplan puts beside your code",
            why="one of the two files would take the place of the other",
            fix=f"rename it, or --exclude '/{MANIFEST}'",
        )
    sizes = _sizes(found)
    _check_size(folder, sizes, most_mb)
    notes = [*found.notes(), *_check_names(found.names)]
    contents = {name: _read(folder / name) for name in found.names}
    digests = {name: sha256_hex(content) for name, content in contents.items()}
    commit, changes, diff = _state(found) if found.by_git else (None, [], "")
    manifest: dict[str, Any] = {"schema": "gpuplan.code/1", "files": digests}
    manifest |= {"commit": commit, "changed": changes, "diff": diff}
    archive = _zipped(folder, {MANIFEST: canonical_json(manifest).encode(), **contents})
    code = CodePackage(
        sha256=sha256_hex(archive),
        files_sha256=sha256_hex(canonical_json(digests)),
        archive_bytes=len(archive),
        files=len(contents),
        commit=commit,
        changed=len(changes),
        notes=tuple(notes),
    )
    return Packed(code, archive)


def _sizes(found: CodeFiles) -> dict[str, int]:
    if not found.names:
        raise UsageError(
            f"there is no code in {found.folder}",
            why="model or data of your own: gpuplan sends the current folder to the job",
            fix="cd to the folder of your code, or --include what git ignores",
        )
    return {name: (found.folder / name).stat().st_size for name in found.names}


def _check_size(folder: Path, sizes: dict[str, int], most_mb: float) -> None:
    total = sum(sizes.values()) / _BYTES_PER_MB
    if total <= most_mb:
        return
    largest = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:_LARGEST_SHOWN]
    shown = ", ".join(f"{name} {sizes[name] / _BYTES_PER_MB:.1f} MB" for name in largest)
    raise UsageError(
        f"the code in {folder} is {total:.1f} MB, more than {most_mb:g} MB",
        why=f"largest of {len(sizes)} files: {shown}",
        fix=f"--exclude '{largest[0]}', or name it in .gitignore; --max-code-mb {int(total) + 1} sends it all",
    )


def _check_names(names: Iterable[str]) -> list[str]:
    """Return notes on modules that Python will not read as the user may think.

    Raises:
        UsageError: one has the name of a module that the training needs.
    """
    modules: dict[str, str] = {}
    for name in sorted(names):
        parts = name.removeprefix("src/").split("/")
        # A folder without __init__.py gives way to a module of the same name, wherever that lies.
        if (len(parts) == 1 and parts[0].endswith(".py")) or parts[1:] == ["__init__.py"]:
            modules[parts[0].removesuffix(".py")] = name
    for module, name in modules.items():
        if module in _OURS:
            raise UsageError(
                f"{name} has the name of a module that the training needs, {module}",
                why=f"`import {module}` would not mean the same to your code as to the job",
                fix=f"rename it, or --exclude '/{name}'",
            )
    hidden = [name for module, name in modules.items() if module in sys.stdlib_module_names]
    return [f"{name} is not imported: its name is one of the standard library's" for name in hidden]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(f"cannot read {path}", why=why, fix=f"--exclude '{path.name}'") from error


def _state(found: CodeFiles) -> tuple[str | None, list[str], str]:
    """Return the commit, the sent files that differ from it, and their difference as a patch."""
    try:
        commit = git(found.folder, "rev-parse", "--verify", "--quiet", "HEAD").decode().strip()
    except UsageError:  # a repository without a commit
        return None, list(found.names), ""
    sent = set(found.names)
    listed = git(found.folder, "diff", "--name-only", "-z", "--relative", "HEAD", "--", ".").decode(errors="replace")
    changed = {name for name in listed.split("\0") if name}
    new = git(found.folder, "ls-files", "-z", "--others", "--exclude-standard").decode(errors="replace").split("\0")
    # What is not sent may be secret: its difference is not sent either.
    shown = sorted(changed & sent)
    diff = b""
    plainly = ("--no-ext-diff", "--no-textconv", "--no-color", "--relative")
    for start in range(0, len(shown), _NAMES_A_CALL):
        paths = [f":(literal){name}" for name in shown[start : start + _NAMES_A_CALL]]
        diff += git(found.folder, "diff", *plainly, "HEAD", "--", *paths)
    text = diff.decode(errors="replace")
    if len(text) > _MOST_DIFF:
        text = f"{text[:_MOST_DIFF]}\n[cut: {len(text)} characters in all]\n"
    return commit, sorted((changed | set(new)) & sent), text


def _zipped(folder: Path, contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    # Nothing is compressed, because what zlib makes of a file differs between its builds.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.create_system = _UNIX
            path = folder / name
            executable = name != MANIFEST and path.stat().st_mode & stat.S_IXUSR
            entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            target.writestr(entry, content)
    return buffer.getvalue()
