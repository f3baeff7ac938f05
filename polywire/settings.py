"""Settings from where people put them: command line > environment > ``polywire.toml`` > what the application gave.

Each part of the hub declares one struct; what can be set, the names of environment variables and the reference in the
documentation are derived from it. ``python -m polywire.settings`` writes that reference.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from polywire.core.durations import format_duration, parse_duration
from polywire.core.errors import Invalid
from polywire.core.limits import Limits
from polywire.core.units import format_size, parse_size
from polywire.engines.sqlite import SqliteSettings
from polywire.hub import HubSettings
from polywire.server.settings import HttpSettings, TlsSettings, WebSocketSettings
from polywire.wires.mqtt.settings import MqttSettings
from polywire.wires.rest.settings import RestSettings
from polywire.wires.sse.settings import SseSettings
from polywire.wires.websocket.settings import JsonRpcSettings

__all__ = ["FILE", "Layers", "Setting", "Settings", "SettingsError", "load", "reference", "settings_of"]

FILE = "polywire.toml"
PREFIX = "POLYWIRE_"


class Settings(msgspec.Struct, frozen=True):
    """Every part, by the name of its table in ``polywire.toml``. ``websocket`` stands for `HttpSettings.websocket`, and
    ``tls`` for that of every listener that has none of its own."""

    hub: HubSettings = HubSettings()
    limits: Limits = Limits()
    tls: TlsSettings | None = None
    http: HttpSettings = HttpSettings()
    websocket: WebSocketSettings = WebSocketSettings()
    rest: RestSettings = RestSettings()
    sse: SseSettings = SseSettings()
    jsonrpc: JsonRpcSettings = JsonRpcSettings()
    mqtt: MqttSettings = MqttSettings()
    sqlite: SqliteSettings = SqliteSettings()


_ELSEWHERE = {("http", "websocket")}  # a part of its own


class SettingsError(Invalid):
    """A setting that is not known or has a value it cannot have; ``detail`` begins with where it stands."""

    title = "Wrong setting"


class Setting(NamedTuple):
    """One field. ``path`` is ``("http", "tls", "key")``; ``unit`` is ``ms``, ``s``, ``bytes``, ``list`` or empty."""

    path: tuple[str, ...]
    unit: str
    description: str
    type: Any
    default: Any

    @property
    def variable(self) -> str:
        return PREFIX + "_".join(self.path).upper()


def settings_of(part: str) -> Iterator[Setting]:
    """Everything that can be set about a part, in the order of its struct."""
    return _fields((part,), PARTS[part])


def _fields(path: tuple[str, ...], struct: type[msgspec.Struct]) -> Iterator[Setting]:
    for field in msgspec.structs.fields(struct):
        here = (*path, field.name)
        if here in _ELSEWHERE:
            continue
        nested = _struct_in(field.type)
        if nested is not None:
            yield from _fields(here, nested)
        else:
            info = inspect.type_info(field.type)
            meta = info if isinstance(info, inspect.Metadata) else inspect.Metadata(info)
            unit = (meta.extra or {}).get("unit", "")
            description = (meta.extra_json_schema or {}).get("description", "")
            yield Setting(here, unit, description, field.type, field.default)


def _struct_in(type: Any) -> type[msgspec.Struct] | None:
    info = inspect.type_info(type)
    while isinstance(info, inspect.Metadata):
        info = info.type
    choices = info.types if isinstance(info, inspect.UnionType) else (info,)
    return next((choice.cls for choice in choices if isinstance(choice, inspect.StructType)), None)


PARTS: dict[str, type[msgspec.Struct]] = {
    field.name: struct for field in msgspec.structs.fields(Settings) if (struct := _struct_in(field.type)) is not None
}
_ALL: dict[tuple[str, ...], Setting] = {setting.path: setting for part in PARTS for setting in settings_of(part)}

# --- reading ---------------------------------------------------------------------------------------------------------


class Layers(NamedTuple):
    """Where settings come from, the strongest first; flags as ``{("http", "port"): 8080}``.

    ``file`` None: ``polywire.toml`` of the working folder, if there is one.
    """

    flags: Mapping[tuple[str, ...], Any]
    environment: Mapping[str, str]
    file: Path | None = None


def load(layers: Layers, code: Settings | None = None) -> Settings:
    """What holds in the end; ``code`` is what the application gave. Raises `SettingsError`."""
    code = code or Settings()
    given: dict[tuple[str, ...], tuple[Any, str]] = {}
    for layer in (_from_file(layers.file), _from_environment(layers.environment), _from_flags(layers.flags)):
        for path, (value, where) in layer:
            _check(_ALL[path], value, where)  # also what a stronger layer hides: it is as wrong
            given[path] = value, where
    return Settings(**{name: _part(name, getattr(code, name), given) for name in PARTS})


Given = Iterator[tuple[tuple[str, ...], tuple[Any, str]]]
"""The path of a setting, its value, and where that stands."""


def _from_file(file: Path | None) -> Given:
    path = file or Path(FILE)
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if file is None:
            return
        raise SettingsError(f"{path}: there is no such file") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise SettingsError(f"{path}: {error}") from None
    yield from _from_table(str(path), (), tables)


def _from_table(file: str, path: tuple[str, ...], table: Mapping[str, Any]) -> Given:
    for name, value in table.items():
        here = (*path, name)
        inner = any(known[: len(here)] == here and len(known) > len(here) for known in _ALL)
        if inner and isinstance(value, Mapping):
            yield from _from_table(file, here, value)
        elif here in _ALL:
            yield here, (_read(value, _ALL[here], f"{file}: {_shown(here)}"), f"{file}: {_shown(here)}")
        elif inner:
            raise SettingsError(f"{file}: {_shown(here)} is a table", hint=f"write [{'.'.join(here)}]")
        else:
            raise _unknown(file, path, name)


def _shown(path: tuple[str, ...]) -> str:
    return f"[{'.'.join(path[:-1])}] {path[-1]}" if len(path) > 1 else f"[{path[0]}]"


def _unknown(file: str, path: tuple[str, ...], name: str) -> SettingsError:
    known = sorted({other[len(path)] for other in _ALL if other[: len(path)] == path and len(other) > len(path)})
    near = difflib.get_close_matches(name, known, 1)
    what = f"[{'.'.join(path)}] has no setting {name!r}" if path else f"there is no table [{name}]"
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    return SettingsError(f"{file}: {what}", hint=hint)


def _from_environment(environment: Mapping[str, str]) -> Given:
    known = {setting.variable: setting for setting in _ALL.values()}
    prefixes = tuple(f"{PREFIX}{part}_".upper() for part in PARTS)
    for name, text in environment.items():
        if name in known:
            setting = known[name]
            yield setting.path, (_read(text, setting, name), name)
        elif name.startswith(prefixes):
            near = difflib.get_close_matches(name, known, 1)
            raise SettingsError(f"{name}: there is no such setting", hint=f"did you mean {near[0]}?" if near else None)


_FLAGS: dict[tuple[str, ...], str] = {
    ("http", "port"): "--http",
    ("mqtt", "port"): "--mqtt",
    ("mqtt", "tls_port"): "--mqtts",
    ("tls", "certificate"): "--tls-cert",
    ("tls", "key"): "--tls-key",
}
"""Whose flag has another name than the setting."""


def _from_flags(flags: Mapping[tuple[str, ...], Any]) -> Given:
    for path, value in flags.items():
        yield path, (value, _FLAGS.get(path, f"--{path[-1]}"))


def _read(value: Any, setting: Setting, where: str) -> Any:
    """Text as the setting's unit has it. A bare number is in the unit itself."""
    if not isinstance(value, str):
        return value
    try:
        return _READERS.get(setting.unit, _plain)(value)
    except Invalid as error:
        raise SettingsError(f"{where}: {error.detail}", hint=error.hint) from None


def _number(text: str) -> float | None:
    try:
        return int(text) if text.strip().isascii() else None
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return None


def _read_milliseconds(text: str) -> float:
    number = _number(text)
    return parse_duration(text) if number is None else number


def _read_seconds(text: str) -> float:
    number = _number(text)
    if number is not None:
        return number
    whole, rest = divmod(parse_duration(text), 1_000)
    return whole if not rest else whole + rest / 1_000


def _read_list(text: str) -> list[str]:
    return [part for part in (part.strip() for part in text.split(",")) if part]


def _plain(text: str) -> str:
    return text


_READERS = {"ms": _read_milliseconds, "s": _read_seconds, "bytes": parse_size, "list": _read_list}


def _part(name: str, code: msgspec.Struct | None, given: Mapping[tuple[str, ...], tuple[Any, str]]) -> Any:
    changes = {path[1:]: found for path, found in given.items() if path[0] == name}
    if not changes:
        return code
    tree = {} if code is None else msgspec.to_builtins(code)
    for path, (value, _) in changes.items():
        branch = tree
        for step in path[:-1]:
            branch[step] = branch = branch.get(step) or {}
        branch[path[-1]] = value
    try:
        return msgspec.convert(tree, PARTS[name], strict=False)
    except msgspec.ValidationError as error:  # a table that is incomplete: certificate without key
        where = ", ".join(sorted({place for _, place in changes.values()}))
        raise SettingsError(f"{where}: [{name}] {error}") from None


def _check(setting: Setting, value: Any, where: str) -> None:
    # Text is read leniently where it came from the environment, as 8000 and true; a file has types of its own.
    strict = where != setting.variable
    try:
        msgspec.convert(value, setting.type, strict=strict)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {_lowered(str(error))}") from None


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


# --- the reference ---------------------------------------------------------------------------------------------------

_PREFACE = """\
# Settings

<!-- Written by `python -m polywire.settings > docs/settings.md`; a test keeps it up to date. -->

A setting is taken from the first of these that has it:

1. the command line (`polywire run --help`);
2. the environment: `POLYWIRE_`, the part, the setting, as in `POLYWIRE_HTTP_PORT=8080`;
3. `polywire.toml` in the working folder, or the file named with `--config`;
4. the application: `Hub(...)`;
5. the default below.

```toml
[http]
port = 8080
idle_timeout = "2m"
origins = ["https://app.example"]

[limits]
message_size = "4MiB"
```

Durations may be written `500ms`, `30s`, `1h30m`, `7d`, sizes `64KiB`, `10MB`, `1GiB`; a bare number is in the unit of
the table. Lists in the environment are separated by commas. An unknown name is an error that says the nearest one.
`POLYWIRE_URL`, `POLYWIRE_KEY` and `POLYWIRE_CACERT` are not settings of the hub: they tell the other commands where it
is.
"""
_TITLES = {
    "hub": "The hub itself",
    "limits": "Bounds of the core",
    "tls": "Certificate and key of every listener that has none of its own: see [TLS](tls.md)",
    "http": "The HTTP listener: REST, server-sent events, WebSocket, and MQTT over WebSocket",
    "websocket": "WebSocket",
    "rest": "REST",
    "sse": "Server-sent events",
    "jsonrpc": "JSON-RPC on WebSocket",
    "mqtt": "MQTT, on TCP, TLS and WebSocket",
    "sqlite": "The embedded log",
}


def reference() -> str:
    """``docs/settings.md``: every setting with its unit, default and meaning."""
    return "\n".join([_PREFACE, *(_section(part) for part in PARTS)])


def _section(part: str) -> str:
    rows = [
        f"| `{'.'.join(setting.path[1:])}` | {_default(setting)} | {setting.unit} | {setting.description} |"
        for setting in settings_of(part)
    ]
    columns = ["| setting | default | unit | meaning |", "|---|---|---|---|"]
    head = [f"## `[{part}]`", "", f"{_TITLES[part]}.", "", *columns]
    return "\n".join([*head, *rows, ""])


def _default(setting: Setting) -> str:
    default = setting.default
    if default in (None, (), "", msgspec.NODEFAULT):
        return "none"
    if isinstance(default, bool):
        return "true" if default else "false"
    if setting.unit == "ms":
        return format_duration(default)
    if setting.unit == "bytes":
        return format_size(default)
    return f"{default:_}" if isinstance(default, int) and default >= 100_000 else str(default)


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201 - that is its work
