"""Errors in XML, for who takes nothing else (RFC 9457, Appendix B)."""

from __future__ import annotations

import re
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["CONTENT_TYPE", "problem_xml"]

CONTENT_TYPE = b"application/problem+xml"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NO_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")


def problem_xml(members: dict[str, Any]) -> bytes:
    """An array has an ``<i>`` for each of its items. Members that have no name in XML are left out."""
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<problem xmlns="urn:ietf:rfc:7807">'
    return f"{head}{_content(members)}</problem>".encode("utf-8", "replace")


def _content(value: Any) -> str:
    if isinstance(value, dict):
        named = ((name, content) for name, content in value.items() if _NAME.fullmatch(str(name)))
        return "".join(f"<{name}>{_content(content)}</{name}>" for name, content in named)
    if isinstance(value, (list, tuple)):
        return "".join(f"<i>{_content(item)}</i>" for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else escape(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", str(value)))
