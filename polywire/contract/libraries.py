"""Who makes the values of a type: pydantic, or msgspec, which hands the models of pydantic in a type over to it."""

from __future__ import annotations

import re
from typing import Any, Protocol

import msgspec

from polywire.contract.building import Types, tree_of
from polywire.contract.completing import completion
from polywire.contract.foreign import Foreign, foreign
from polywire.contract.paths import ROOT, member
from polywire.contract.tree import Tree
from polywire.core.errors import FieldError

__all__ = ["Library", "Msgspec", "field_error", "for_struct", "library_for"]


class Library(Protocol):
    """Values of one type ↔ bytes and builtins. What it raises, `wrong_fields` puts into words."""

    def make(self, payload: bytes, builtins: Any) -> Any:
        """The value of a payload that says ``builtins``."""

    def convert(self, builtins: Any) -> Any: ...
    def encode(self, value: Any) -> bytes: ...
    def to_builtins(self, value: Any) -> Any: ...
    def wrong_fields(self, error: Exception, builtins: Any) -> list[FieldError]: ...


def library_for(type: Any, types: Types, tree: Tree) -> Library:
    """Raises `TypeError` for what neither can read."""
    if not types.findings.models:
        return Msgspec(type, types)
    from polywire.contract.pydantic_models import Adapter

    return Msgspec(type, types) if types.findings.others else Adapter(type, tree)


def for_struct(hint: Any) -> Any:
    """The type as a Struct can have it: one that pydantic reads is handed over to it as a whole.

    msgspec by itself knows models alone, and in lists and dicts, but none in a union.
    """
    types = Types()
    try:
        types.add(hint)
    except TypeError:  # it is told with the name of the field, where the Struct is looked at
        return hint
    return foreign(hint) if types.findings.models and not types.findings.others else hint


class Refused(ValueError):
    """A library that was asked through a hook found these fields of ``value`` wrong."""

    def __init__(self, fields: list[FieldError], value: Any) -> None:
        super().__init__(fields[0].message)
        self.fields = fields
        self.value = value


class Msgspec:
    def __init__(self, type: Any, types: Types) -> None:
        self._type = type
        self._adapters: dict[Any, Any] = {}
        if types.findings.models:
            self._adapt(types)
        hook = self._read if self._adapters else None
        try:
            decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(type, dec_hook=hook)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(_placed(str(error), types)) from None
        self._hook = hook
        self._decode = decoder.decode
        self._complete = completion(types)
        self._encoder = msgspec.json.Encoder(enc_hook=self._written)
        self.encode = self._encoder.encode

    def make(self, payload: bytes, builtins: Any) -> Any:  # noqa: ARG002 (it reads the payload again, with all digits)
        value = self._decode(payload)
        if self._complete is not None:
            self._complete(value)
        return value

    def convert(self, builtins: Any) -> Any:
        value = msgspec.convert(builtins, self._type, str_keys=True, dec_hook=self._hook)
        if self._complete is not None:
            self._complete(value)
        return value

    def to_builtins(self, value: Any) -> Any:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=self._written)

    def wrong_fields(self, error: Exception, builtins: Any) -> list[FieldError]:
        if not isinstance(error, msgspec.ValidationError):
            return [FieldError(ROOT, f"{type(error).__name__}: {error}")]
        told, cause = field_error(str(error)), error.__cause__
        if not isinstance(cause, Refused):
            return [FieldError(_known(told.path, builtins), told.message)]
        path = _known(told.path, builtins, cause.value)
        return [FieldError(path + field.path.removeprefix(ROOT), field.message) for field in cause.fields]

    def _adapt(self, types: Types) -> None:
        from polywire.contract.pydantic_models import Adapter

        for hint in types.findings.foreign:
            if isinstance(hint, Foreign):
                self._adapters[hint] = Adapter(hint.hint, tree_of(hint))
            elif hasattr(hint, "model_fields"):
                self._adapters[hint] = Adapter(hint, tree_of(hint))
            else:
                name = hint.__qualname__
                raise TypeError(f"{name} is a type of pydantic, but no model, in a class that pydantic does not read")

    def _read(self, type: Any, value: Any) -> Any:
        adapter = self._adapters[type]
        try:
            return adapter.convert(value)
        except ValueError as error:
            raise Refused(adapter.wrong_fields(error, value), value) from None

    def _written(self, value: Any) -> Any:
        if not hasattr(type(value), "__get_pydantic_core_schema__"):
            raise TypeError(f"{type(value).__qualname__} has no place in JSON")
        from polywire.contract.pydantic_models import dumped

        return dumped(value)


def field_error(text: str) -> FieldError:
    """The ``Expected `float`, got `str` - at `$.celsius``` of msgspec as path and message."""
    what, at, path = text.rpartition(" - at `")
    return FieldError(path.removeprefix("key` in `").removesuffix("`"), what) if at else FieldError(ROOT, text)


_SOME = re.compile(r"\[\.\.\.\]")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]|(\[\.\.\.\])")


def _known(path: str, builtins: Any, value: Any = None) -> str:
    """Msgspec does not say which member of a ``dict`` it means (``$[...].x``); it is the one where ``value`` stands."""
    if not _SOME.search(path):
        return path
    found = [(ROOT, builtins)]
    for step in _STEP.finditer(path):
        found = [(told + more, one) for told, whole in found for more, one in _next(step, whole)]
    exact = [told for told, one in found if one == value] or [told for told, _ in found]
    return exact[0] if len(exact) == 1 or (exact and value is not None) else path


def _next(step: re.Match[str], whole: Any) -> list[tuple[str, Any]]:
    name, index, any_member = step.groups()
    if any_member and isinstance(whole, dict):
        return [(member(key), one) for key, one in whole.items()]
    if index and isinstance(whole, list) and int(index) < len(whole):
        return [(f"[{index}]", whole[int(index)])]
    return [(member(name), whole[name])] if isinstance(whole, dict) and name in whole else []


def _placed(text: str, types: Types) -> str:
    """What msgspec says of a type, with the path of the field that it says it of."""
    for path, hint in types.findings.hints:  # the innermost come first
        try:
            msgspec.json.Decoder(hint, dec_hook=lambda *_: None)
        except (TypeError, ValueError, RuntimeError):
            return f"{text} (at {path})" if path != ROOT else text
    return text
