"""``polywire sub``: everything once and in order, whatever happens to the connection."""

from __future__ import annotations

import json
import random
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from paho.mqtt import publish

from tests.cli.hub_process import Hub, last_line, polywire


@contextmanager
def cutting_proxy(url: str, cuts: Iterator[int]) -> Iterator[str]:
    """Passes connections on, and ends each after the next number of bytes; without one, passes all on."""
    host, _, port = url.removeprefix("http://").partition(":")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            left = next(cuts, 1 << 40)
            with socket.create_connection((host, int(port))) as hub:
                threading.Thread(target=pump, args=(self.request, hub), daemon=True).start()
                while left > 0 and (data := hub.recv(min(left, 65_536))):
                    self.request.sendall(data)
                    left -= len(data)
                hub.shutdown(socket.SHUT_RDWR)

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
        except OSError:
            pass

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A peer that has gone is what this is about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def numbers(count: int) -> bytes:
    return b"".join(b'{"n":%d}\n' % n for n in range(count))


def test_it_follows_from_now_on(hub, name):
    hub.polywire("pub", name, "before")
    with hub.follow(name) as following:
        following.says(f"following {name}")
        hub.polywire("pub", name, "one")
        assert following.line() == "one"
        hub.polywire("pub", name, '{"a": 1}')
        assert following.line() == '{"a": 1}'


def test_ctrl_c_ends_it_well(hub, name):
    hub.polywire("topics", "create", name)
    with hub.follow(name) as following:
        following.says("following")
        following.signal(signal.SIGINT)
        assert following.wait() == 0
        assert following.err == [f"following {name}; Ctrl-C ends it"]


def test_from_and_count(hub, name):
    hub.polywire("pub", name, "--lines", stdin=numbers(2_500))
    ended = hub.polywire("sub", name, "--from", "earliest", "--count", "2200", "--quiet")
    assert [json.loads(line)["n"] for line in ended.stdout.splitlines()] == list(range(2_200))
    assert ended.stderr == ""
    whole = hub.polywire("sub", name, "--from", "earliest", "--count", "1", "--json").stdout
    cursor = json.loads(whole)["position"]
    assert hub.polywire("sub", name, "--from", cursor, "--count", "1").stdout == '{"n":1}\n'


def test_key_pattern(hub, name):
    for key in ("kitchen.temp", "cellar.temp", "kitchen.light"):
        hub.polywire("pub", name, key, "--key", key)
    ended = hub.polywire("sub", name, "--from", "earliest", "--key", "kitchen.*", "--count", "2")
    assert ended.stdout.splitlines() == ["kitchen.temp", "kitchen.light"]


def test_payloads_come_as_they_were_published(hub, name):
    payloads = ['"a string"', "text\twith tab", "12345678901234567890123", '{\n  "spread": [1,\n 2.50]\n}', "grüße"]
    for payload in payloads:
        hub.polywire("pub", name, payload)
    hub.polywire("pub", name, "-", stdin=b"\xff\x00bytes")
    out = hub.polywire("sub", name, "--from", "earliest", "--count", "5").stdout.splitlines()
    assert out == [*payloads[:3], '{"spread":[1,2.50]}', "grüße"]
    shown = [
        json.loads(line)
        for line in hub.polywire("sub", name, "--from", "earliest", "--count", "6", "--json").stdout.splitlines()
    ]
    assert [one["content_type"].partition(";")[0] for one in shown] == [
        "application/json",
        "text/plain",
        "application/json",
        "application/json",
        "text/plain",
        "application/octet-stream",
    ]
    assert shown[2]["data"] == 12345678901234567890123


def test_text_that_nothing_is_said_of(hub, name):
    """Over MQTT 3.1.1 a payload has no content type."""
    port = int(hub.ready["wires"]["mqtt"].rpartition(":")[2])
    payloads = ["plain", '"quoted"', '{"a": 1}', "12"]
    publish.multiple([(name, payload, 1, False) for payload in payloads], hostname="127.0.0.1", port=port)
    out = hub.polywire("sub", name, "--from", "earliest", "--count", "4").stdout.splitlines()
    assert out == payloads


def test_a_topic_that_is_not_there(hub, name):
    ended = hub.polywire("sub", name, code=1)
    assert last_line(ended.stderr).startswith(f"error: no topic {name!r}")


def test_a_deleted_topic_ends_it(hub, name):
    hub.polywire("topics", "create", name)
    with hub.follow(name) as following:
        following.says("following")
        hub.polywire("topics", "delete", name)
        assert following.wait() == 1
        assert following.err[-1].startswith("error: ")


def test_cut_connections_lose_and_double_nothing(hub, name):
    hub.polywire("pub", name, "--lines", stdin=numbers(3_000))
    random_cuts = random.Random(7)
    cuts = iter([1 << 20, *(random_cuts.randrange(1, 150_000) for _ in range(15))])
    with cutting_proxy(hub.url, cuts) as url:
        ended = polywire("sub", name, "--url", url, "--from", "earliest", "--count", "3000")
    assert ended.returncode == 0, ended.stderr
    assert [json.loads(line)["n"] for line in ended.stdout.splitlines()] == list(range(3_000))


def test_a_hub_that_is_killed_and_comes_back(tmp_path):
    data = tmp_path / "data"
    with Hub(data=data) as first:
        first.polywire("pub", "t", "--lines", stdin=numbers(10))
        with first.follow("t", "--from", "earliest") as following:
            assert [json.loads(following.line())["n"] for _ in range(10)] == list(range(10))
            first.signal(signal.SIGKILL)
            first.wait()
            following.says("trying again")
            port = first.url.rpartition(":")[2]
            with Hub("--http", port, data=data) as second:
                second.polywire("pub", "t", '{"n":10}')
                assert following.line() == '{"n":10}'
                following.says("connected again")
                assert second.stop() == 0
            following.signal(signal.SIGINT)
            assert following.wait() == 0
            assert following.out.get(timeout=1) is None


def test_a_stale_cursor_is_told(hub, name):
    hub.polywire("pub", name, "one")
    ended = hub.polywire("sub", name, "--from", "99-0-0", code=1)
    assert "of no use" in last_line(ended.stderr)


def test_a_topic_made_anew_while_the_hub_was_away(tmp_path):
    with Hub(data=tmp_path / "data") as first:
        first.polywire("pub", "t", "old")
        with first.follow("t", "--from", "earliest") as following:
            assert following.line() == "old"
            first.signal(signal.SIGKILL)
            first.wait()
            port = first.url.rpartition(":")[2]
            with Hub(data=tmp_path / "data") as elsewhere:
                elsewhere.polywire("topics", "delete", "t")
                elsewhere.polywire("pub", "t", "new")
                assert elsewhere.stop() == 0
            with Hub("--http", port, data=tmp_path / "data"):
                assert following.line() == "new"
                following.says("messages are missing")


def test_no_hub_to_follow():
    ended = polywire("sub", "t", "--url", "http://127.0.0.1:1")
    assert ended.returncode == 1
    assert last_line(ended.stderr) == (
        "error: the hub at http://127.0.0.1:1 cannot be reached: Connection refused "
        "(start one with `polywire run`, or say where it is with --url)"
    )
