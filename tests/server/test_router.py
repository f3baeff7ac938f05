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
