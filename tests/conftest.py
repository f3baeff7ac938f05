"""What every test may count on.

A missing tool (node, a browser) skips a test on a laptop. With ``POLYWIRE_REQUIRE_ALL=1``, as in CI, nothing may be
skipped: a missing tool is a failure, and so is every other skip.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

REQUIRE_ALL = os.environ.get("POLYWIRE_REQUIRE_ALL") == "1"
ROOT = Path(__file__).resolve().parent.parent
NODE_CLIENTS = ROOT / "tests" / "node"

# One tool, the names it goes by.
COMMANDS = {"chromium": ("chromium", "chromium-browser", "google-chrome")}
# Debian's servers live where a user's PATH does not lead.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])


def require_tool(tool: str) -> str:
    """The path of a command. Skips the test where it is missing, or fails it with ``POLYWIRE_REQUIRE_ALL=1``."""
    for command in COMMANDS.get(tool, (tool,)):
        if path := shutil.which(command, path=PATH):
            return path
    pytest.skip(f"{tool} is not installed")


@pytest.fixture
def require() -> Callable[[str], str]:
    """``require("node")`` inside a test: see `require_tool`."""
    return require_tool


@pytest.fixture
def node_clients() -> Path:
    """The folder of the JavaScript clients, with their packages installed."""
    require_tool("node")
    if not (NODE_CLIENTS / "node_modules").is_dir():
        pytest.skip("the packages of tests/node are not installed: run `make test`")
    return NODE_CLIENTS


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_node"):
        require_tool("node")
    if item.get_closest_marker("needs_chromium"):
        require_tool("chromium")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    report = yield
    return _without_skips(report)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    return _without_skips(report)


def _without_skips(report: Any) -> Any:
    """An expected failure is reported as skipped too; it ran, so it stays."""
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        path, line, reason = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: {reason}\nPOLYWIRE_REQUIRE_ALL=1: nothing may be skipped"
    return report
