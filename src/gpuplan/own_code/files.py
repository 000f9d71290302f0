"""Which files of a folder are the user's code: what git tracks or would, less what was never meant to be sent.

Called by `package`. It reads names, sizes and git's index; of contents only what tells a saved plan. It writes nothing.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pathspec import GitIgnoreSpec

from gpuplan.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MOST_FILES = 20_000
_SETTINGS = {"gpuplan.toml", "gpuplan.schema.json"}
_NEVER = {".git", "__pycache__", "node_modules"}
_COMPILED = (".pyc", ".pyo")
_VENV_MARK = "pyvenv.cfg"
_SECRETS = GitIgnoreSpec.from_lines(
    [
        *(".env", ".env.*", "!.env.example", "!.env.sample", "!.env.template", ".envrc", ".netrc", ".pypirc", ".npmrc"),
        *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "id_rsa*", "id_dsa*", "id_ecdsa*"),
        *("id_ed25519*", "credentials", "credentials.json", "credentials.csv", "*accessKeys.csv", "kaggle.json"),
        *("client_secret*.json", "service-account*.json", "service_account*.json", "secrets.json", "secrets.toml"),
        *("secrets.yaml", "secrets.yml", ".aws/", ".ssh/", ".gnupg/", ".kube/", ".docker/"),
    ]
)
_NAMED_ALIKE = "it may hold a secret"
_PLAIN = "plain"
"""A name that nobody gives to a secret."""
_SAVED_PLAN = b'"schema": "gpuplan.plan/'
_SHOWN = 3
_GIT_SECONDS = 60


@dataclass(frozen=True)
class CodeFiles:
    """Files by path from the folder, `/` between the parts, sorted; with what was left out that a user may miss."""

    folder: Path
    names: tuple[str, ...]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Paths by reason."""
    by_git: bool = False

    def notes(self) -> list[str]:
        """Return what was left out in words."""
        found = []
        for reason, names in self.left_out.items():
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            found.append(f"not sent: {', '.join(names[:_SHOWN])}{more} ({reason}; --include NAME sends it)")
        return found


def code_files(
    folder: Path, include: Sequence[str] = (), exclude: Sequence[str] = (), without: Sequence[Path] = ()
) -> CodeFiles:
    """Return the files of a folder that are sent.

    In a git repository they are those that git tracks and those that it would, with the contents of submodules that
    are checked out; elsewhere all that are not hidden. `include` and `exclude` are patterns as in a .gitignore: the
    first adds files that this leaves out, the second removes any. Git's own files, environments, bytecode, gpuplan's
    own settings, saved plans and what lies in `without` are never sent, files named as secrets only where a pattern of
    `include` names them; a link to a file of the folder is sent as that file.

    Raises:
        UsageError: a pattern that is none, git that fails, or too many files for a folder of code.
    """
    wanted, unwanted = _patterns("--include", include), _patterns("--exclude", exclude)
    by_git = _in_repository(folder)
    names = set(_bounded(folder, _listed_by_git(folder) if by_git else _walked(folder, hidden=False)))
    left_out: dict[str, list[str]] = {}

    def leave(name: str, reason: str) -> bool:
        left_out.setdefault(reason, []).append(name)
        return False

    inside = [path.resolve() for path in without]
    kept = {name for name in names if not _never(folder, name, inside) and _sendable(folder, name, leave)}
    kept = {name for name in kept if not _SECRETS.match_file(name) or leave(name, _NAMED_ALIKE)}
    if include:
        every = _bounded(folder, _walked(folder, hidden=True))
        added = {name for name in every if wanted.match_file(name) and not _never(folder, name, inside)}
        added = {name for name in added if (folder / name).is_file()}
        unasked = {name for name in added if _SECRETS.match_file(name) and not _named(name, include)}
        added = {name for name in added if name not in unasked or leave(name, _NAMED_ALIKE)}
        left_out = {reason: [n for n in left if n not in added] for reason, left in left_out.items()}
        kept |= added
    chosen = tuple(sorted(name for name in kept if not unwanted.match_file(name)))
    shown = {reason: sorted({n for n in left if not unwanted.match_file(n)}) for reason, left in left_out.items()}
    return CodeFiles(folder, chosen, {reason: left for reason, left in shown.items() if left}, by_git)


def git(folder: Path, *arguments: str) -> bytes:
    """Return what git says in a folder.

    Raises:
        UsageError: it fails.
    """
    # A git hook that calls us sets GIT_DIR and the like; they would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(  # noqa: S603 - git, a list of arguments, no shell
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - the git that the user's shell finds
            env=environment | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError("the files of your code cannot be listed", why=f"git: {error}", fix="git status") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        raise UsageError("the files of your code cannot be listed", why=f"git: {said[-1]}", fix="git status")
    return done.stdout


def _in_repository(folder: Path) -> bool:
    """Tell whether git is there and calls the folder a part of a work tree, and not one that it ignores."""
    try:
        return git(folder, "rev-parse", "--is-inside-work-tree").strip() == b"true" and not _ignored(folder)
    except UsageError:
        return False


def _ignored(folder: Path) -> bool:
    try:
        git(folder, "check-ignore", "--quiet", ".")
    except UsageError:
        return False
    return True


def _listed_by_git(folder: Path, below: str = "") -> Iterator[str]:
    """Yield what git tracks or would; of a repository inside this one, a submodule or not, its own files likewise."""
    here = folder / below
    for name in git(here, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split(b"\0"):
        if name:
            path = below + os.fsdecode(name)
            if (folder / path).is_dir() and not (folder / path).is_symlink():
                # Only a folder that is a repository by itself is listed as one; not checked out, it is empty.
                if (folder / path / ".git").exists():
                    yield from _listed_by_git(folder, f"{path.rstrip('/')}/")
            else:
                yield path


def _walked(folder: Path, *, hidden: bool) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if name not in _NEVER and (hidden or not name.startswith(".")) and not (here / name / _VENV_MARK).exists()
        )
        below = here.relative_to(folder)
        for name in files:
            if hidden or not name.startswith("."):
                yield (below / name).as_posix()
        # os.walk lists links to folders among the folders and does not enter them.
        yield from ((below / name).as_posix() for name in folders if (here / name).is_symlink())


def _bounded(folder: Path, names: Iterator[str]) -> Iterator[str]:
    for number, name in enumerate(names):
        if number >= MOST_FILES:
            raise UsageError(
                f"{folder} holds more than {MOST_FILES:,} files: it is hardly a folder of code",
                why="model or data of your own: gpuplan sends the current folder to the job",
                fix="cd to the folder of your code, or put its data elsewhere, or name it in .gitignore",
            )
        yield name


def _never(folder: Path, name: str, inside: list[Path]) -> bool:
    """Tell whether a file is no part of a user's code whoever lists it, and nobody will miss it."""
    parts = name.split("/")
    path = folder / name
    if _NEVER.intersection(parts) or name in _SETTINGS or name.endswith(_COMPILED):
        return True
    if any(path.resolve().is_relative_to(other) for other in inside):
        return True
    if any((folder.joinpath(*parts[:end]) / _VENV_MARK).exists() for end in range(1, len(parts))):
        return True
    return name.endswith(".json") and _is_saved_plan(path)


def _named(name: str, include: Sequence[str]) -> bool:
    """Tell whether a pattern means this secret, and not just any file that lies where it does, as `data/` or `*` do."""
    parts = name.split("/")
    plain = "/".join(_PLAIN if any(_SECRETS.match_files([part, f"{part}/{_PLAIN}"])) else part for part in parts)
    patterns = (_patterns("--include", [line]) for line in include)
    return any(pattern.match_file(name) and not pattern.match_file(plain) for pattern in patterns)


def _is_saved_plan(path: Path) -> bool:
    """Tell whether a file is a plan of gpuplan's: sent along, a plan would change the code that it is the plan of."""
    try:
        with path.open("rb") as stream:
            return _SAVED_PLAN in stream.read(1024)
    except OSError:
        return False


def _sendable(folder: Path, name: str, leave: Callable[[str, str], bool]) -> bool:
    path = folder / name
    if path.is_symlink():
        target = path.resolve()
        if not target.is_file():
            return leave(name, "a link to a folder, or to nothing")
        if not target.is_relative_to(folder.resolve()):
            return leave(name, "a link that leads out of the folder")
    return path.is_file()  # what git still tracks may be deleted; a socket is no code


def _patterns(flag: str, lines: Sequence[str]) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        fix = f"{flag} 'data/*.npz'    patterns are those of a .gitignore"
        raise UsageError(f"{flag}: {error}", fix=fix) from error
