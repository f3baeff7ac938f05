"""From ``app.py`` or ``module:hub`` to the `Hub` in it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType, TracebackType

import polywire
from polywire.cli.failures import USAGE, Failure
from polywire.hub import Hub

__all__ = ["load_application", "own_frames", "show_traceback"]


def load_application(name: str | None) -> Hub:
    """The hub in a file (``app.py``, ``app.py:hub``) or module (``shop.app``, ``shop.app:hub``); None: an open hub.

    Raises `Failure`; if the application's own code failed, its part of the traceback is on stderr by then.
    """
    if name is None:
        return Hub(strict=False)
    source, _, attribute = name.partition(":")
    is_file = source.endswith(".py") or "/" in source
    try:
        module = _load_file(Path(source)) if is_file else _load_module(source)
    except (Exception, SystemExit) as error:
        if isinstance(error, Failure):
            raise
        show_traceback(error)
        reason = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
        raise Failure(f"{source} cannot be loaded: {reason}") from error
    return _attribute(module, source, attribute) if attribute else _only_hub(module, source)


def _load_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise Failure(f"there is no file {file}", hint="name an application: app.py or module:hub", exit_code=USAGE)
    file = file.resolve()
    sys.path.insert(0, str(file.parent))
    # Under its own name, so that what it defines can be found by it; unless that would hide a module that is there.
    name = file.stem if file.stem not in sys.modules else f"{file.stem} (application)"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise Failure(f"{file} is not a Python file", exit_code=USAGE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the application's own import
        hint = "it is looked for from the working folder" + (f"; did you mean {name}.py?" if _is_file(name) else "")
        raise Failure(f"there is no module {error.name}", hint=hint, exit_code=USAGE) from None


def _is_file(name: str) -> bool:
    return Path(f"{name}.py").is_file()


def _attribute(module: ModuleType, source: str, attribute: str) -> Hub:
    found = getattr(module, attribute, None)
    if isinstance(found, Hub):
        return found
    what = "has no" if found is None else f"has a {type(found).__name__}, not a Hub, under"
    raise Failure(f"{source} {what} {attribute!r}", hint=_choices(module, source), exit_code=USAGE)


def _only_hub(module: ModuleType, source: str) -> Hub:
    names = _hubs(module)
    if len({id(getattr(module, name)) for name in names}) == 1:
        found: Hub = getattr(module, names[0])
        return found
    if not names:
        raise Failure(f"{source} has no Hub", hint='it takes one, as in hub = Hub("shop")', exit_code=USAGE)
    raise Failure(f"{source} has several hubs: {', '.join(names)}", hint=_choices(module, source), exit_code=USAGE)


def _hubs(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, Hub)]


def _choices(module: ModuleType, source: str) -> str | None:
    names = _hubs(module)
    return f"choose with {' or '.join(f'{source}:{name}' for name in names)}" if names else None


# --- whose fault it is -----------------------------------------------------------------------------------------------

_NOT_THEIRS = tuple(
    str(Path(folder)) for folder in {*polywire.__path__, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
)


def own_frames(trace: TracebackType | None) -> traceback.StackSummary:
    """The frames of a traceback that are the application's: not ours, not Python's, not a library's."""
    frames = [frame for frame in traceback.extract_tb(trace) if _is_own(frame.filename)]
    return traceback.StackSummary.from_list(frames)


def _is_own(file: str) -> bool:
    path = Path(file)
    if not path.is_absolute() or path == Path(sys.argv[0]):  # compiled code; the script that the installation made
        return False
    return not (file.startswith(_NOT_THEIRS) or "site-packages" in path.parts)


def show_traceback(error: BaseException) -> None:
    """The application's part of it, on stderr. For a syntax error that is the line."""
    frames = own_frames(error.__traceback__)
    if frames:
        print("Traceback (most recent call last):", *frames.format(), sep="\n", end="", file=sys.stderr)
    print("".join(traceback.format_exception_only(error)), end="", file=sys.stderr)
