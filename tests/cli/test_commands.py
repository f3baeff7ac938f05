"""The commands that talk to a hub: what they do, what they print, how they fail."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.cli.hub_process import POLYWIRE, Process, last_line, polywire


def read(hub, topic: str) -> list[dict]:
    return [json.loads(line) for line in hub.polywire(
        "sub", topic, "--from", "earliest", "--json", "--quiet", "--count", str(info(hub, topic)["count"])
    ).stdout.splitlines()]  # fmt: skip


def info(hub, topic: str) -> dict:
    return hub.json("topics", "info", topic)


# --- pub -------------------------------------------------------------------------------------------------------------


def test_pub_tells_the_receipt(hub, name):
    told = hub.polywire("pub", name, "hello")
    assert told.stdout == ""
    assert told.stderr.startswith(f"published to {name}: position 1-0-0, id ")
    receipt = hub.json("pub", name, "hello")
    assert (receipt["topic"], receipt["position"], receipt["key"]) == (name, "1-0-1", None)


def test_pub_from_everywhere(hub, name, tmp_path):
    (tmp_path / "message.json").write_text('{"from": "a file"}')
    hub.polywire("pub", name, f"@{tmp_path / 'message.json'}")
    hub.polywire("pub", name, "-", stdin=b"standard input")
    hub.polywire("pub", name, stdin=b"\x00\xff")
    messages = read(hub, name)
    assert messages[0]["data"] == {"from": "a file"}
    assert messages[1]["data"] == "standard input"
    assert messages[2]["data_base64"] == "AP8="
    missing = hub.polywire("pub", name, f"@{tmp_path / 'none'}", code=2)
    assert last_line(missing.stderr) == f"error: {tmp_path / 'none'} cannot be read: No such file or directory"


def test_pub_with_everything(hub, name):
    options = ["--key", "küche.1", "-H", "trace=ä=b", "-H", "x=1", "--content-type", "application/xml", "--retain"]
    hub.polywire("pub", name, "<a/>", *options)
    (message,) = read(hub, name)
    assert message["key"] == "küche.1"
    assert message["headers"] == {"trace": "ä=b", "x": "1"}
    assert message["content_type"] == "application/xml"
    assert message["retained"] is True


def test_pub_once(hub, name):
    first = hub.json("pub", name, "1", "--id", "order-1")
    again = hub.json("pub", name, "1", "--id", "order-1")
    assert again["position"] == first["position"]
    assert "published before" in hub.polywire("pub", name, "1", "--id", "order-1").stderr
    hub.polywire("pub", name, "2", "--id", "order-1", code=1)
    assert info(hub, name)["count"] == 1


def test_pub_later(hub, name):
    told = hub.polywire("pub", name, "1", "--delay", "1h")
    assert told.stderr.startswith(f"published to {name}: due 20")
    assert info(hub, name)["count"] == 0


def test_pub_lines(hub, name):
    lines = b"".join(b'{"n": %d}\n\n' % n for n in range(2_345)) + b'"the last one, without a line end"'
    told = hub.polywire("pub", name, "--lines", "--key", "k", stdin=lines)
    assert told.stderr == f"published 2346 messages to {name}\n"
    messages = read(hub, name)
    assert [one["data"]["n"] for one in messages[:-1]] == list(range(2_345))
    assert {one["key"] for one in messages} == {"k"}


def test_pub_lines_are_sent_as_they_come(hub, name):
    with Process(POLYWIRE, "pub", name, "--lines", "--json", "--url", hub.url, stdin=subprocess.PIPE) as publishing:
        for n in range(3):
            publishing.process.stdin.write(b"%d\n" % n)
            publishing.process.stdin.flush()
            assert json.loads(publishing.line())["position"] == f"1-0-{n}"
        publishing.process.stdin.close()
        assert publishing.wait() == 0


def test_pub_lines_says_which_line_is_wrong(hub, name):
    wrong = hub.polywire("pub", name, "--lines", stdin=b"1\n2\n{3\n", code=1)
    assert last_line(wrong.stderr).startswith("error: messages 1 to 3: not well-formed JSON in $[2]")
    assert "--id" in last_line(hub.polywire("pub", name, "1", "--lines", "--id", "x", code=2).stderr)


def test_pub_refuses_what_no_header_can_hold(hub, name):
    assert "header" in last_line(hub.polywire("pub", name, "1", "-H", "a=b\nc: d", code=2).stderr)
    assert "NAME=VALUE" in last_line(hub.polywire("pub", name, "1", "-H", "novalue", code=2).stderr)


# --- listings --------------------------------------------------------------------------------------------------------


def test_topics(hub, name):
    made = hub.json("topics", "create", name, "--retention", "7d", "--durability", "memory", "--latest")
    assert made["settings"]["retention"] == "7d"
    assert made["settings"]["latest"] is True
    assert "exists already" in hub.polywire(
        "topics", "create", name, "--retention", "7d", "--durability", "memory", "--latest"
    ).stderr  # fmt: skip
    assert "other settings" in hub.polywire("topics", "create", name, code=1).stderr
    assert name in [topic["name"] for topic in hub.json("topics")]
    heading, *rows = hub.polywire("topics").stdout.splitlines()
    assert heading.split() == ["NAME", "MESSAGES", "SIZE", "DURABILITY", "RETENTION", "DECLARED", "SUBSCRIPTIONS"]
    row = next(row for row in rows if row.startswith(f"{name} "))
    assert row.split() == [name, "0", "0", "B", "memory", "7d", "no", "-"]
    # Columns are aligned, however long a name is.
    assert heading.index("DURABILITY") == row.index("memory")
    assert "durability      memory" in hub.polywire("topics", "info", name).stdout
    hub.polywire("topics", "delete", name)
    assert name not in [topic["name"] for topic in hub.json("topics")]
    assert "no topic" in hub.polywire("topics", "delete", name, code=1).stderr


def test_a_listing_alone_and_by_name_are_the_same(hub, name):
    hub.polywire("topics", "create", name)
    assert hub.polywire("topics").stdout == hub.polywire("topics", "list").stdout
    assert hub.json("topics") == hub.json("topics", "list")


def test_subscriptions(hub, name):
    made = hub.json(
        "subscriptions",
        "create",
        name,
        f"{name}.*:kitchen.#",
        "other",
        "--ordered",
        "--attempts",
        "3",
        "--ack-timeout",
        "1m",
    )
    assert made["sources"][0] == {"topic": f"{name}.*", "key": "kitchen.#", "headers": {}}
    assert (made["settings"]["ordered"], made["settings"]["attempts"]) == (True, 3)
    assert name in [one["name"] for one in hub.json("subscriptions")]
    row = next(row for row in hub.polywire("subscriptions").stdout.splitlines() if row.startswith(f"{name} "))
    assert f"{name}.*:kitchen.#, other" in row
    assert row.endswith("active")
    shown = hub.polywire("subscriptions", "show", name).stdout
    assert f"sources           {name}.*:kitchen.#, other" in shown
    hub.polywire("subscriptions", "delete", name)
    assert "no subscription" in hub.polywire("subscriptions", "show", name, code=1).stderr


@pytest.fixture
def held(hub, name):
    """A subscription that holds three messages, of a topic of the same name."""
    hub.polywire("topics", "create", name)
    hub.polywire("subscriptions", "create", name, name, "--attempts", "1")
    hub.polywire("pub", name, "--lines", "--key", "k", stdin=b'{"n":0}\n{"n":1}\n{"n":2}\n')
    return name


def peek(hub, name: str) -> list[dict]:
    return hub.json("subscriptions", "peek", name)["messages"]


def test_peek(hub, held):
    first = peek(hub, held)[0]
    assert first["message"]["data"] == {"n": 0}
    assert first["state"] == "ready"
    rows = hub.polywire("subscriptions", "peek", held, "--limit", "2")
    assert [row.split()[-1] for row in rows.stdout.splitlines()[1:]] == ["0}", "1}"]
    after = rows.stderr.split("--after ")[1].strip()
    rest = hub.polywire("subscriptions", "peek", held, "--after", after)
    assert [row.split()[-1] for row in rest.stdout.splitlines()[1:]] == ["2}"]


def test_one_message_deleted_one_moved(hub, held, name):
    first, second, third = peek(hub, held)
    hub.polywire("subscriptions", "delete-message", held, str(first["seq"]))
    hub.polywire("subscriptions", "move", held, str(second["seq"]), f"{held}.moved", "--key", "new")
    assert [one["seq"] for one in peek(hub, held)] == [third["seq"]]
    (moved,) = read(hub, f"{held}.moved")
    assert (moved["data"], moved["key"]) == ({"n": 1}, "new")


def test_pause_resume_purge_reset(hub, held):
    hub.polywire("subscriptions", "pause", held)
    assert hub.json("subscriptions", "show", held)["paused"] is True
    assert "nothing to deliver" in hub.polywire("subscriptions", "pull", held).stderr
    hub.polywire("subscriptions", "resume", held)
    assert hub.json("subscriptions", "purge", held) == {"purged": 3}
    assert peek(hub, held) == []
    assert "3 messages are pending" in hub.polywire("subscriptions", "reset", held, "--to", "earliest").stderr
    assert len(peek(hub, held)) == 3
    assert hub.json("subscriptions", "reset", held, "--to", "2999-01-01T00:00:00Z") == {"pending": 0}
    assert "not a place" in hub.polywire("subscriptions", "reset", held, "--to", "yesterday", code=1).stderr


def test_pull_and_ack(hub, held):
    (taken,) = hub.json("subscriptions", "pull", held)["deliveries"]
    assert taken["message"]["data"] == {"n": 0}
    assert hub.json("subscriptions", "ack", held, taken["token"]) == {"settled": 1}
    rows = hub.polywire("subscriptions", "pull", held, "--max", "9", "--wait", "1s", "--ack").stdout.splitlines()
    assert len(rows) == 3
    assert hub.json("subscriptions", "show", held)["pending"] == 0
    assert "x-1" in hub.polywire("subscriptions", "ack", held, "x-1", code=1).stderr


def test_dead_letters_and_redrive(start, app):
    hub = start(str(app))
    hub.polywire("pub", "orders", '{"number": -1, "customer": "ann"}')
    hub.polywire("pub", "orders", '{"number": -2, "customer": "bob"}')
    # A dead letter is stored with the settling of its message; the two commands before did not wait for that.
    found: list[dict] = []
    for _ in range(100):
        found = hub.json("dead-letters", "check")["messages"]
        if len(found) == 2:
            break
    assert [one["message"]["data"]["number"] for one in found] == [-1, -2]
    heading, first, _ = hub.polywire("dead-letters", "check").stdout.splitlines()
    assert "a negative number" in first
    assert first[heading.index("KEY") :].startswith("ann")
    hub.polywire("subscriptions", "pause", "check")
    assert hub.json("redrive", "check", "--limit", "1") == {"redriven": 1}
    assert [one["message"]["data"]["number"] for one in hub.json("dead-letters", "check")["messages"]] == [-2]
    assert [one["message"]["data"]["number"] for one in peek(hub, "check")] == [-1]
    hub.polywire("dead-letters", "check", "--purge")
    assert "check has no dead letters" in hub.polywire("dead-letters", "check").stderr


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["pub", "t", "1"], ["topics"], ["subscriptions"], ["redrive", "x"], ["backup", "x"]]
)
def test_no_hub(command):
    ended = polywire(*command, "--url", "http://127.0.0.1:1")
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: the hub at http://127.0.0.1:1 cannot be reached: Connection refused "
        "(start one with `polywire run`, or say where it is with --url)\n"
    )


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:8000", "http://", "http://a:b"])
def test_not_a_url(url):
    ended = polywire("topics", "--url", url)
    assert ended.returncode == 2
    assert "not the URL of a hub" in ended.stderr


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """The URL of a server that says this to everybody."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quietly."""

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("body", [b"<html>hi</html>", b'{"unexpected": 1}', b"\xff"])
def test_something_else_than_a_hub(body):
    with answering(200, body) as url:
        for command in (["topics"], ["sub", "t"]):
            ended = polywire(*command, "--url", url)
            assert ended.returncode == 1
            assert last_line(ended.stderr).startswith("error: what answered is not a hub")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"title": "Bad", "errors": {"name": ["is taken"]}}', "error: Bad"),
        (b'{"title": "Bad", "errors": [1, {"path": "$.a"}, {"path": "$.b", "message": "no"}]}', "error: Bad; $.b: no"),
        (b"[" * 100_000, "error: the answer was HTTP 400"),
    ],
)
def test_problems_of_others(body, told):
    with answering(400, body) as url:
        ended = polywire("topics", "--url", url)
        assert (ended.returncode, ended.stderr) == (1, f"{told}\n")


def test_a_reader_that_stops_reading(hub, name):
    hub.polywire("pub", name, "--lines", stdin=b'"line"\n' * 3_000)
    line = f"{POLYWIRE} sub {name} --url {hub.url} --from earliest -q | head -n 1"
    ended = subprocess.run(["sh", "-c", line], capture_output=True, timeout=20, check=True)
    assert ended.stdout == b'"line"\n'
    assert ended.stderr == b""
