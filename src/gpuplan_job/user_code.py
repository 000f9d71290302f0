"""The user's own code in a job: unpacked, verified, importable without hiding anything, loaded with plain errors.

Called by the launcher, the check and the tracer, and by `own_model` and `own_data`. Standard library only. It must not
let a file of the user's take the place of a module of Python's, of torch's or of ours.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import os
import shutil
import stat
import sys
import traceback
import zipfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuplan_job.failures import JobError
from gpuplan_job.lightning_name import give_other_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpuplan_job.contract import CodeSpec

FOLDER_VARIABLE = "GPUPLAN_USER_CODE"
"""Environment variable of a job's processes: the folder of the shipped code, in which they start."""
FAILURES = (Exception, SystemExit)
"""What a user's code may raise that is its failure: a script ends in sys.exit, and would take our process with it."""
_INSTALLED = ("site-packages", "dist-packages")
_EXECUTABLE = 0o755
_MOST_SEARCHED = 1000
"""Files whose names are compared with that of a module that is not there."""
_SHIPPED_AGAIN = "launch again: the code is packaged and sent anew"


def unpack(archive: Path, code: CodeSpec, folder: Path) -> None:
    """Unpack the shipped code into `folder`, made anew, once its archive is found to be the very one of the plan.

    Raises:
        JobError: the archive is missing, or has another size or digest.
        OSError: the disk refuses.
    """
    try:
        with archive.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        size = archive.stat().st_size
    except FileNotFoundError as error:
        raise JobError("usage", f"the code of this job did not come with it: no {archive}", _SHIPPED_AGAIN) from error
    if (found, size) != (code.sha256, code.bytes):
        problem = f"{archive.name} is not the planned code: sha256 {found[:10]}, {size} bytes"
        raise JobError("usage", f"{problem}, planned {code.sha256[:10]}, {code.bytes} bytes", _SHIPPED_AGAIN)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with zipfile.ZipFile(archive) as content:
        for entry in content.infolist():
            path = content.extract(entry, folder)
            if (entry.external_attr >> 16) & stat.S_IXUSR:
                Path(path).chmod(_EXECUTABLE)


def make_importable() -> Path:
    """Put the user's code on Python's path and return its folder: the shipped one, else the current one.

    It comes after Python's own modules and before what is installed, with `src/` where the folder has one: a file named
    random.py is not taken for the standard library's, one named models.py comes before an installed `models`.
    """
    folder = Path(os.environ.get(FOLDER_VARIABLE) or Path.cwd())
    source = folder / "src"
    wanted = [folder, *([source] if source.is_dir() and not (source / "__init__.py").exists() else [])]
    entries = [str(path) for path in wanted if str(path) not in sys.path]
    first = next((n for n, entry in enumerate(sys.path) if entry.endswith(_INSTALLED)), len(sys.path))
    sys.path[first:first] = entries
    importlib.invalidate_caches()
    give_other_name()
    return folder


def load(spec: str, flag: str) -> Any:  # noqa: ANN401 - whatever the user named
    """Return what `module:Attribute` names; `flag` is the option it was given with.

    Raises:
        JobError: there is no such module or attribute, or importing it fails, with file and line.
    """
    module_name, _, attribute = spec.partition(":")
    folder = make_importable()
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise _no_module(spec, flag, folder) from error
        raise _missing(spec, flag, error) from error
    except SyntaxError as error:
        place = f"{_relative(error.filename or module_name, folder)}:{error.lineno}"
        raise JobError("user-code", f"{flag} {spec}: {place}: {error.msg}", "correct it") from error
    except ImportError as error:
        raise _missing(spec, flag, error) from error
    except FAILURES as error:
        raise failed(f"{flag} {spec}: importing it failed", error) from error
    path = module_name
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name, value in vars(found).items() if callable(value) and not name.startswith("_")]
            raise JobError("usage", f"{flag} {spec}: {path} has no {part!r}", meant(part, names, "name"))
        found, path = getattr(found, part), f"{path}.{part}"
    return found


def construct(spec: str, arguments: Mapping[str, Any], flag: str) -> Any:  # noqa: ANN401 - whatever the user named
    """Return what the class or the function `module:Attribute` makes of keyword arguments.

    Raises:
        JobError: it cannot be loaded, takes other arguments, or fails, with file and line.
    """
    found = load(spec, flag)
    if not callable(found) or not (inspect.isclass(found) or inspect.isroutine(found)):
        kind = type(found).__name__
        raise JobError("usage", f"{flag} {spec} is an object of {kind}, made once", "name its class or a function")
    _check_arguments(spec, found, arguments, flag)
    try:
        return found(**arguments)
    except JobError:
        raise
    except FAILURES as error:
        raise failed(f"{flag} {spec} cannot be constructed", error) from error


def failed(what: str, error: BaseException, fix: str = "") -> JobError:
    """Return the failure of a user's code: what was tried, the line of theirs in which it failed, the error's words."""
    place = where(error)
    said = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
    at = f"correct {place.partition(',')[0]}" if place else "correct it"
    if isinstance(error, SystemExit):
        said = f"it calls sys.exit({'' if error.code is None else repr(error.code)}), which would end the job"
        at = "keep what ends a program below `if __name__ == '__main__':`"
    return JobError("user-code", f"{what}: {f'{place}: ' if place else ''}{said}", fix or at)


def where(error: BaseException) -> str:
    """Return the innermost line of the user's code in an error's trace, as `net.py:14, in forward`; empty if none."""
    folder = Path(os.environ.get(FOLDER_VARIABLE) or Path.cwd()).resolve()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        if path.is_relative_to(folder) and not set(_INSTALLED).intersection(path.parts):
            return f"{path.relative_to(folder)}:{frame.lineno}, in {frame.name}"
    return ""


def meant(wrong: str, names: Iterable[str], verb: str) -> str:
    """Return a fix that names the nearest of the names there are, or else all of them."""
    known = list(dict.fromkeys(names))
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"{verb} one of: {', '.join(known)}" if known else f"there is nothing to {verb}"


def _check_arguments(spec: str, found: Any, arguments: Mapping[str, Any], flag: str) -> None:  # noqa: ANN401 - as above
    try:
        parameters = inspect.signature(found).parameters
    except ValueError:  # written in C, which does not say
        return
    named = {name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    takes = f"{spec} takes {', '.join(_in_order(parameters, named)) or 'no argument'}"
    setting = f"{flag.lstrip('-')}_args"
    for name in arguments:
        if name not in named and not anything:
            raise JobError("usage", f"{flag} {spec} takes no argument {name!r}: {takes}", meant(name, named, "give"))
    missing = [name for name in _in_order(parameters, named) if parameters[name].default is inspect.Parameter.empty]
    missing = [name for name in missing if name not in arguments]
    if missing:
        table = ", ".join(f"{name} = ..." for name in missing)
        raise JobError(
            "usage",
            f"{flag} {spec} needs {', '.join(map(repr, missing))}, and no value was given",
            f"[workload] {setting} = {{ {table} }} in gpuplan.toml, or --{setting.replace('_', '-')} as a JSON object",
        )


def _in_order(parameters: Mapping[str, inspect.Parameter], named: set[str]) -> list[str]:
    return [name for name in parameters if name in named]


def _no_module(spec: str, flag: str, folder: Path) -> JobError:
    name = spec.partition(":")[0]
    files = [path.relative_to(folder).with_suffix("").parts for path in islice(folder.rglob("*.py"), _MOST_SEARCHED)]
    modules = [".".join(parts) for parts in files if not any(part.startswith(".") for part in parts)]
    close = difflib.get_close_matches(name, modules, n=1, cutoff=0.6)
    shown = "the shipped code" if os.environ.get(FOLDER_VARIABLE) else str(folder)
    fix = f"did you mean {close[0]!r}?" if close else "start gpuplan in the folder of your code"
    return JobError("import", f"{flag} {spec}: there is no module {name} in {shown}", fix)


def _missing(spec: str, flag: str, error: ImportError) -> JobError:
    place = where(error)
    what = f"{flag} {spec}: {f'{place}: ' if place else ''}{type(error).__name__}: {error}"
    return JobError("import", what, "install it here, or add the file (--include); a job in AWS has what its image has")


def _relative(name: str, folder: Path) -> str:
    path = Path(name).resolve()
    return str(path.relative_to(folder.resolve())) if path.is_relative_to(folder.resolve()) else name
