from __future__ import annotations

import time
from typing import Any

import pytest

from polywire.core.errors import NotFound
from polywire.server.router import Router


def named(name: str) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    app.__name__ = name
    return app


@pytest.fixture
def router() -> Router:
    router = Router()
    router.mount("/topics", named("topics"))
    router.mount("/topics/special/one", named("special"))
    router.mount_exact("/", named("index"))
    router.mount_exact("/health", named("health"))
    router.mount_websocket("/ws", named("ws"))
    router.mount_websocket_exact("/", named("default"))
    router.mount_websocket_fallback(named("any"))
    return router


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/", "index"),
        ("/topics", "topics"),
        ("/topics/", "topics"),
        ("/topics/a/b", "topics"),
        ("/topics/special/one", "special"),
        ("/topics/special/one/x", "special"),
        ("/topics/special/onex", "topics"),
        ("/health", "health"),
        ("/health/x", None),
        ("/topicsx", None),
        ("", None),
        ("*", None),
    ],
)
def test_longest_mount_wins(router: Router, path: str, name: str | None) -> None:
    app = router.app(path)
    assert getattr(app, "__name__", None) == name


@pytest.mark.parametrize(
    ("path", "name"),
    [("/", "default"), ("/ws/chat", "ws"), ("/chat", "any"), ("/chat/room1", "any"), ("/health/x", "any")],
)
def test_websockets_get_what_nobody_claims(router: Router, path: str, name: str) -> None:
    assert getattr(router.websocket(path), "__name__", None) == name


@pytest.mark.parametrize("path", ["/topics", "/topics/a", "/health"])
def test_paths_of_http_are_not_websockets(router: Router, path: str) -> None:
    with pytest.raises(NotFound):
        router.websocket(path)


@pytest.mark.parametrize("path", ["topics", "/topics/", "", "/topics", "/1/2/3/4/5/6/7/8/9"])
def test_wrong_mounts_are_refused(router: Router, path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        router.mount(path, named("x"))


def test_a_path_of_many_segments_costs_no_more(router: Router) -> None:
    path = "/a" * 30_000
    started = time.perf_counter()
    for _ in range(100):
        assert router.app(path) is None
    assert time.perf_counter() - started < 1


def test_what_the_user_mounts_gets_what_the_hub_leaves(router: Router) -> None:
    root, admin = named("root"), named("admin")
    router.mount_application("/admin", admin, websockets=True)
    router.mount_application("/", root, websockets=False)
    assert router.app("/admin/x") is admin
    assert router.websocket_application("/admin/x") is admin
    assert router.app("/") is root
    assert router.app("/topics/a") is not root
    for path in ("/", "/chat", "/ws/chat", "/topics/a"):
        assert router.websocket_application(path) is None


def test_an_application_on_the_root_takes_the_websockets_that_the_hub_leaves(router: Router) -> None:
    root = named("root")
    router.mount_application("/", root, websockets=True)
    taken = ["/", "/chat", "/wsx"]
    assert [router.websocket_application(path) for path in taken] == [root] * 3
    assert [router.websocket_application(path) for path in ("/ws", "/ws/chat", "/topics/a", "/health")] == [None] * 4


@pytest.mark.parametrize("path", ["/topics", "/topics/mine", "/health"])
def test_an_application_takes_nothing_from_the_hub(router: Router, path: str) -> None:
    with pytest.raises(ValueError, match="is taken"):
        router.mount_application(path, named("theirs"), websockets=True)


def test_an_application_may_lie_in_another(router: Router) -> None:
    outer, inner = named("outer"), named("inner")
    router.mount_application("/a", outer, websockets=True)
    router.mount_application("/a/b", inner, websockets=False)
    assert (router.app("/a/x"), router.app("/a/b/x")) == (outer, inner)


@pytest.mark.parametrize(
    ("kind", "path", "own"),
    [
        ("http", "/admin/x", True),
        ("http", "/topics", False),
        ("http", "/chat", True),
        ("websocket", "/chat", False),
        ("websocket", "/ws/chat", False),
        ("websocket", "/admin", True),
    ],
)
def test_whose_credentials_they_are(router: Router, kind: str, path: str, own: bool) -> None:
    assert not router.has_own_credentials({"type": kind, "path": path})
    router.mount_application("/admin", named("admin"), websockets=True)
    router.mount_application("/", named("files"), websockets=False)
    assert router.has_own_credentials({"type": kind, "path": "/hub" + path, "root_path": "/hub"}) is own
