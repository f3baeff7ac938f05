"""The page about types runs."""

from __future__ import annotations

import sys
import types

import pytest

from tests.test_docs import blocks, run_python


def test_the_page_about_types(monkeypatch: pytest.MonkeyPatch) -> None:
    page = types.ModuleType("page")  # annotations are looked up in a module
    monkeypatch.setitem(sys.modules, "page", page)
    for block in blocks("docs/types.md"):
        if block.language == "python":
            run_python("docs/types.md", block, page.__dict__)
