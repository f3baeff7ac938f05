"""Bodies in XML or in a form, read by a type's tree, within the bounds that are set."""

from __future__ import annotations

import re
from typing import Any, Literal

from polywire.contract.tree import Tree
from polywire.formats.forms import read_form
from polywire.formats.multipart import part_fields, read_multipart
from polywire.formats.xml import read_xml
from polywire.wires.rest.settings import RestSettings

__all__ = ["Form", "read_by_tree"]

Form = Literal["xml", "form", "multipart"]
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)


def read_by_tree(body: bytes, form: Form, content_type: str, tree: Tree, settings: RestSettings) -> Any:
    """What `Codec.from_builtins` takes. Raises `Misread`, `Invalid`, `TooLarge`, `Unsupported`."""
    if form == "xml":
        charset = _CHARSET.search(content_type)
        return read_xml(body, tree, limits=settings.xml, encoding=charset[1] if charset else None)
    if form == "form":
        return read_form(body, tree, limits=settings.form)
    parts = read_multipart(body, content_type, limits=settings.multipart)
    return part_fields(parts, tree, limits=settings.multipart)
