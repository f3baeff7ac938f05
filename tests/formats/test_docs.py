"""docs/xml.md: each example is what is written and read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from polywire.contract.codec import Codec
from polywire.core.errors import Invalid
from polywire.formats.reading import checked
from polywire.formats.xml import read_xml, write_xml

PAGE = Path(__file__).parents[2] / "docs" / "xml.md"
FENCES = re.compile(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Page:
    """Runs from block to block: types are declared, and pairs of JSON and XML compared."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.examples = 0

    def run(self) -> None:
        blocks = FENCES.findall(PAGE.read_text("utf-8"))
        while blocks:
            language, marks, text = blocks.pop(0)
            if language == "python":
                exec(compile(text, str(PAGE), "exec", dont_inherit=True), self.names)  # noqa: S102 - our own page
                continue
            _, _, other = blocks.pop(0)
            self.examples += 1
            *how, name = marks.split()
            codec: Codec[Any] = Codec(self.names[name])
            if how == ["read"]:
                assert read_xml(text.encode(), codec.tree) == json.loads(other)
            elif how == ["wrong"]:
                self.refuse(codec, text.encode(), json.loads(other))
            else:
                self.compare(codec, name, json.loads(text), other)

    def compare(self, codec: Codec[Any], name: str, value: Any, text: str) -> None:
        assert read_xml(text.encode(), codec.tree) == value
        written = write_xml(value, codec.tree, name).decode()
        assert written == '<?xml version="1.0" encoding="UTF-8"?>\n' + re.sub(r">\s+<", "><", text).strip()
        codec.from_builtins(value)

    def refuse(self, codec: Codec[Any], body: bytes, fields: dict[str, str]) -> None:
        with pytest.raises(Invalid) as raised:
            checked(lambda: read_xml(body, codec.tree), codec.from_builtins)
        assert dict(raised.value.fields) == fields


def test_the_page_of_xml() -> None:
    page = Page()
    page.run()
    assert page.examples >= 7
