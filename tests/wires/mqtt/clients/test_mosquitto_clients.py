"""mosquitto_pub, mosquitto_sub and mosquitto_rr, as people type them."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require_tool
from tests.wires.mqtt.brokers import Broker

_subscribed = itertools.count()
VERSIONS = pytest.mark.parametrize("version", ["31", "311", "5"])


def command(broker: Broker, tool: str, *arguments: str) -> list[str]:
    return [require_tool(tool), "-h", broker.host, "-p", str(broker.port), *arguments]


def run(broker: Broker, tool: str, *arguments: str, text: str | None = None, ends: tuple[int, ...] = (0,)) -> str:
    """What it wrote; it must end with one of these codes."""
    done = subprocess.run(
        command(broker, tool, *arguments), input=text, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode in ends, done.stderr or done.stdout
    return done.stdout + (done.stderr if done.returncode else "")


@contextmanager
def subscribed(broker: Broker, topic: str, *arguments: str, count: int = 1) -> Iterator[Callable[[], list[str]]]:
    """mosquitto_sub, once it is subscribed; gives what returns the ``count`` lines it wrote until its end."""
    ready = f"{topic}-ready{next(_subscribed)}"  # retained: it comes when the subscription stands
    broker.connected().publish(ready, b"ready", retain=True)
    tool = command(broker, "mosquitto_sub", "-W", "15", "-C", str(count + 1), *arguments, "-t", ready)
    process = subprocess.Popen(tool, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "ready" in process.stdout.readline()

    def lines() -> list[str]:
        output = process.communicate(timeout=20)[0].splitlines()
        assert process.returncode == 0
        return output

    try:
        yield lines
    finally:
        process.kill()
        process.communicate()


@VERSIONS
def test_sub_and_pub(broker: Broker, topic: str, version: str) -> None:
    with subscribed(broker, topic, "-V", version, "-q", "2", "-v", "-t", f"{topic}/#", count=3) as lines:
        for qos in ("0", "1", "2"):
            run(broker, "mosquitto_pub", "-V", version, "-q", qos, "-t", f"{topic}/{qos}", "-m", f"hello {qos}")
        assert sorted(lines()) == [f"{topic}/{qos} hello {qos}" for qos in (0, 1, 2)]


@VERSIONS
def test_retained(broker: Broker, topic: str, version: str) -> None:
    run(broker, "mosquitto_pub", "-V", version, "-q", "1", "-r", "-t", topic, "-m", "kept")
    assert run(broker, "mosquitto_sub", "-V", version, "-C", "1", "-W", "10", "-t", topic) == "kept\n"
    run(broker, "mosquitto_pub", "-V", version, "-q", "1", "-r", "-n", "-t", topic)
    gone = run(broker, "mosquitto_sub", "-V", version, "-E", "-t", topic)
    assert gone == ""


@VERSIONS
def test_a_session_that_waits(broker: Broker, topic: str, version: str) -> None:
    lasting = ["-V", version, "-i", topic, "-c", "-q", "1", "-t", f"{topic}/#"]
    if version == "5":
        lasting += ["-x", "1000"]
    run(broker, "mosquitto_sub", *lasting, "-E")
    lines = "".join(f"line {number}\n" for number in range(30))
    run(broker, "mosquitto_pub", "-V", version, "-q", "1", "-t", f"{topic}/a", "-l", text=lines)
    assert run(broker, "mosquitto_sub", *lasting, "-C", "30", "-W", "10") == lines


def test_a_file_and_standard_input(broker: Broker, topic: str, tmp_path: Path) -> None:
    payload = tmp_path / "payload"
    payload.write_text("from a file " * 1000)
    run(broker, "mosquitto_pub", "-q", "1", "-r", "-t", f"{topic}/a", "-f", str(payload))
    run(broker, "mosquitto_pub", "-q", "1", "-r", "-t", f"{topic}/b", "-s", text="all of it\nin one")
    assert run(broker, "mosquitto_sub", "-N", "-C", "1", "-W", "10", "-t", f"{topic}/a") == payload.read_text()
    assert run(broker, "mosquitto_sub", "-N", "-C", "1", "-W", "10", "-t", f"{topic}/b") == "all of it\nin one"


def test_properties(broker: Broker, topic: str) -> None:
    said = ["user-property a 1", "user-property a 2", "content-type text/plain", "response-topic answers",
            "correlation-data c1", "message-expiry-interval 100", "payload-format-indicator 1"]  # fmt: skip
    options = [part for one in said for part in ("-D", "publish", *one.split())]
    shown = ("-V", "5", "-q", "1", "-F", "%P|%C|%R|%D|%E|%p|%q|%t", "-t", topic)
    with subscribed(broker, topic, *shown) as lines:
        run(broker, "mosquitto_pub", "-V", "5", "-q", "1", "-t", topic, "-m", "x", *options)
        [line] = lines()
    users, content, response, correlation, expiry, payload, qos, name = line.split("|")
    assert users.split() == ["a:1", "a:2"]
    assert (content, response, correlation) == ("text/plain", "answers", "c1")
    assert 98 <= int(expiry) <= 100
    assert (payload, qos, name) == ("x", "1", topic)


def test_as_json(broker: Broker, topic: str) -> None:
    run(broker, "mosquitto_pub", "-q", "1", "-r", "-t", topic, "-m", '{"celsius": 21.5}')
    found: dict[str, Any] = json.loads(
        run(broker, "mosquitto_sub", "-C", "1", "-W", "10", "-q", "1", "-F", "%j", "-t", topic)
    )
    assert (found["topic"], found["payload"], found["qos"], found["retain"]) == (topic, '{"celsius": 21.5}', 1, 1)


def test_several_filters_and_one_filtered_out(broker: Broker, topic: str) -> None:
    wanted = ("-t", f"{topic}/a", "-t", f"{topic}/b/+", "-T", f"{topic}/b/hidden")
    with subscribed(broker, topic, "-v", *wanted, count=2) as lines:
        for name in ("a", "b/hidden", "c", "b/shown"):
            run(broker, "mosquitto_pub", "-t", f"{topic}/{name}", "-m", name)
        assert sorted(lines()) == [f"{topic}/a a", f"{topic}/b/shown b/shown"]


@VERSIONS
def test_a_will(broker: Broker, topic: str, version: str) -> None:
    watcher = broker.connected()
    watcher.subscribe(f"{topic}/will", qos=1)
    options = ("-V", version, "--will-topic", f"{topic}/will", "--will-payload", "gone", "--will-qos", "1")
    with subscribed(broker, topic, *options, "-t", topic):
        pass  # it is killed here
    assert watcher.next().payload == b"gone"


def test_a_login(start_broker: Callable[..., Broker]) -> None:
    broker = start_broker(login=True)
    name, password = broker.user
    run(broker, "mosquitto_pub", "-u", name, "-P", password, "-q", "1", "-r", "-t", "a", "-m", "x")
    read = ("mosquitto_sub", "-C", "1", "-W", "10", "-t", "a")
    assert run(broker, *read, "-u", name, "-P", password) == "x\n"
    refused = ("not authorised", "bad user name or password", "not authorized")
    for version, codes in (("311", (4, 5)), ("5", (0x86, 0x87))):
        for login in (("-u", name, "-P", "wrong"), ()):
            told = run(broker, *read, "-V", version, *login, ends=codes).lower()
            assert any(text in told for text in refused)


def test_a_request_and_its_response(broker: Broker, topic: str) -> None:
    responder = broker.connected()
    responder.subscribe(f"{topic}/requests", qos=1)
    asking = command(
        broker, "mosquitto_rr", "-V", "5", "-q", "1", "-W", "10", "-t", f"{topic}/requests", "-e", f"{topic}/answers",
        "-m", "2+3",
    )  # fmt: skip
    process = subprocess.Popen(asking, stdout=subprocess.PIPE, text=True)
    request = responder.next()
    responder.publish(request.properties.ResponseTopic, request.payload + b"=5")
    assert process.communicate(timeout=20)[0] == "2+3=5\n"


def test_a_shared_subscription(broker: Broker, topic: str) -> None:
    publisher = broker.connected()
    share = (topic, "-q", "1", "-t", f"$share/workers/{topic}")
    with subscribed(broker, *share, count=5) as one, subscribed(broker, *share, count=5) as other:
        for number in range(10):
            publisher.publish(topic, b"%d" % number)
        assert sorted(one() + other(), key=int) == [str(number) for number in range(10)]
