"""Where a request goes below a mount, as servers and frameworks of different ages say it."""

from __future__ import annotations

from typing import Any

import pytest

from polywire.server.paths import link, raw_route_path, route_path


def scope(path: str, raw: bytes | None, root: str = "") -> dict[str, Any]:
    return {"type": "http", "path": path, "raw_path": raw, "root_path": root}


@pytest.mark.parametrize(
    ("given", "path", "raw"),
    [
        (scope("/topics/a", b"/topics/a"), "/topics/a", b"/topics/a"),
        (scope("/topics/a/b", b"/topics/a%2Fb"), "/topics/a/b", b"/topics/a%2Fb"),
        (scope("/topics/a b", None), "/topics/a b", b"/topics/a%20b"),
        ({"type": "http", "path": "/x"}, "/x", b"/x"),
        # as ASGI has it: the path begins with the mount's
        (scope("/hub/topics/a", b"/hub/topics/a", "/hub"), "/topics/a", b"/topics/a"),
        (scope("/hub/topics/a/b", b"/hub/topics/a%2Fb", "/hub"), "/topics/a/b", b"/topics/a%2Fb"),
        (scope("/hub/topics/a", b"/h%75b/topics/%61", "/hub"), "/topics/a", b"/topics/%61"),
        (scope("/v1/hub/topics/ü", b"/v1/hub/topics/%C3%BC", "/v1/hub"), "/topics/ü", b"/topics/%C3%BC"),
        (scope("/hüb/topics", b"/h%C3%BCb/topics", "/hüb"), "/topics", b"/topics"),
        (scope("/hub/topics/a", None, "/hub"), "/topics/a", b"/topics/a"),
        (scope("/hub/", b"/hub/", "/hub/"), "/", b"/"),
        (scope("/hub", b"/hub", "/hub"), "/", b"/"),
        # an encoded slash where the mount ends
        (scope("/hub/topics", b"/hub%2Ftopics", "/hub"), "/topics", b"/topics"),
        # as before: the path is without the mount's, the raw path is with it
        (scope("/topics/a/b", b"/hub/topics/a%2Fb", "/hub"), "/topics/a/b", b"/topics/a%2Fb"),
        (scope("/topics/a", b"/topics/a", "/hub"), "/topics/a", b"/topics/a"),
        # some put the query into the raw path
        (scope("/hub/topics/a", b"/hub/topics/a?x=/topics/a", "/hub"), "/topics/a", b"/topics/a"),
        # only whole segments are the mount
        (scope("/hubs/topics", b"/hubs/topics", "/hub"), "/hubs/topics", b"/hubs/topics"),
    ],
)
def test_the_path_below_the_mount(given: dict[str, Any], path: str, raw: bytes) -> None:
    assert (route_path(given), raw_route_path(given)) == (path, raw)


def test_a_link_leads_through_the_mount() -> None:
    assert link(scope("/topics", None), "/topics") == "/topics"
    assert link(scope("/h b/topics", None, "/h b/"), "/topics") == "/h%20b/topics"
    assert link(scope("/x", None, '/"><script>'), "/topics") == "/%22%3E%3Cscript%3E/topics"


def test_a_long_path_costs_little() -> None:
    hostile = scope("/hub" + "/a" * 30_000, b"/hub" + b"/%61" * 30_000, "/hub")
    assert raw_route_path(hostile) == b"/%61" * 30_000
