"""``polywire run``: who listens where, on which address, and with TLS."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.certificates import Certificates, make_certificates
from tests.cli.hub_process import POLYWIRE, Hub, Process, last_line, polywire

Start = Callable[..., Hub]
CONNECT = bytes.fromhex("100d00044d5154540402003c000161")
CONNACK = bytes.fromhex("20020000")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def with_tls(certificates: Certificates) -> tuple[str, ...]:
    return "--tls-cert", certificates.certificate, "--tls-key", certificates.key


def health(url: str, context: ssl.SSLContext | None = None) -> str:
    with urllib.request.urlopen(f"{url}/health", timeout=10, context=context) as answer:  # noqa: S310 - our own hub
        return str(json.load(answer)["status"])


def greeted(url: str, context: ssl.SSLContext | None = None) -> bytes:
    """What an MQTT 3.1.1 CONNECT gets for an answer."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), 10) as plain:
        talk = context.wrap_socket(plain, server_hostname=place.hostname) if context else plain
        with talk:
            talk.sendall(CONNECT)
            return talk.recv(4)


def refused(folder: Path, *arguments: str, **env: str) -> str:
    """The last line on stderr of a run that must end with 2."""
    ended = polywire("run", "--data", str(folder / "data"), *arguments, cwd=folder, env=env)
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    return last_line(ended.stderr)


# --- which, and where ------------------------------------------------------------------------------------------------


def test_mqtt_is_there_without_being_asked_for(start: Start) -> None:
    hub = start()
    assert list(hub.ready["wires"]) == ["http", "mqtt"]
    assert greeted(hub.ready["wires"]["mqtt"]) == CONNACK
    assert hub.stop() == 0


@pytest.mark.parametrize(
    ("flags", "listening"),
    [
        (["--no-mqtt"], ["http"]),
        (["--only", "mqtt"], ["mqtt"]),
        (["--only", "http, mqtt", "--no-http"], ["mqtt"]),
    ],
    ids=" ".join,
)
def test_only_and_no(start: Start, flags: list[str], listening: list[str]) -> None:
    hub = start(*flags)
    assert list(hub.ready["wires"]) == listening
    assert hub.stop() == 0


def test_a_port_of_ones_own(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    hub = start("--mqtt", str(port))
    assert hub.ready["wires"]["mqtt"] == f"mqtt://127.0.0.1:{port}"
    assert hub.stop() == 0
    (tmp_path / "polywire.toml").write_text(f"[mqtt]\nport = {port}\n")
    command = (POLYWIRE, "run", "--ready-json", "--http", "0", "--data", str(tmp_path / "data"))
    with Process(*command, cwd=tmp_path) as running:
        assert json.loads(running.line())["wires"]["mqtt"] == f"mqtt://127.0.0.1:{port}"


def test_a_taken_port(tmp_path: Path, taken: int) -> None:
    assert refused(tmp_path, "--http", "0", "--mqtt", str(taken)) == (
        f"error: mqtt cannot listen on 127.0.0.1:{taken}: the port is taken "
        "(choose another with --mqtt PORT, or a free one with --free-ports, or none with --no-mqtt or --only)"
    )
    reason = refused(tmp_path, "--http", "0", POLYWIRE_MQTT_PORT=str(taken))
    assert reason.startswith(f"error: mqtt cannot listen on 127.0.0.1:{taken}: ")


def test_a_taken_port_for_tls(tmp_path: Path, taken: int, certificates: Certificates) -> None:
    reason = refused(tmp_path, "--free-ports", "--mqtts", str(taken), *with_tls(certificates))
    assert reason.startswith(
        f"error: mqtts cannot listen on 127.0.0.1:{taken}: the port is taken (choose another with "
    )
    assert "--no-mqtts" in reason


def test_one_host_for_all(start: Start) -> None:
    hub = start("--host", "0.0.0.0", "--open")  # noqa: S104
    wires = hub.ready["wires"]
    assert {urlsplit(url).hostname for url in wires.values()} == {"127.0.0.1"}
    ports = [urlsplit(url).port for url in wires.values()]
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    local = {fields[1] for fields in listening if fields[3] == "0A"}
    assert {f"00000000:{port:04X}" for port in ports} <= local


def test_an_open_hub_is_on_loopback_with_every_listener(tmp_path: Path) -> None:
    for arguments in (("--only", "mqtt", "--host", "0.0.0.0"), ("--only", "mqtt")):  # noqa: S104
        env = {"POLYWIRE_MQTT_HOST": "0.0.0.0"} if len(arguments) == 2 else {}  # noqa: S104
        reason = refused(tmp_path, "--free-ports", *arguments, **env)
        assert "the hub has no API keys and would listen on 0.0.0.0" in reason
    assert "would listen on 0.0.0.0" in refused(tmp_path, "--free-ports", POLYWIRE_MQTT_HOST="0.0.0.0")  # noqa: S104


# --- TLS -------------------------------------------------------------------------------------------------------------


def test_tls_on_every_listener(start: Start, certificates: Certificates) -> None:
    hub = start(*with_tls(certificates))
    wires = hub.ready["wires"]
    assert [urlsplit(url).scheme for url in wires.values()] == ["https", "mqtt", "mqtts"]
    assert list(wires) == ["http", "mqtt", "mqtts"]
    context = certificates.trusting()
    assert health(wires["http"], context) == "ok"
    assert greeted(wires["mqtts"], context) == CONNACK
    assert greeted(wires["mqtt"]) == CONNACK
    with pytest.raises(ssl.SSLError):
        greeted(wires["mqtts"], ssl.create_default_context())
    made = hub.polywire("pub", "t", "1", POLYWIRE_CACERT=certificates.ca)
    assert "1-0-0" in made.stderr + made.stdout
    assert hub.stop() == 0


def test_tls_from_environment_and_file(start: Start, tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "polywire.toml").write_text(f"[tls]\nkey = '{certificates.key}'\n")
    hub = start("--only", "mqtts", env={"POLYWIRE_TLS_CERTIFICATE": certificates.certificate})
    assert list(hub.ready["wires"]) == ["mqtts"]
    assert greeted(hub.ready["wires"]["mqtts"], certificates.trusting()) == CONNACK


def test_a_listener_may_have_its_own(start: Start, tmp_path: Path, certificates: Certificates) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    other = make_certificates(other_folder)
    tables = {"http.tls": certificates, "tls": other}
    (tmp_path / "polywire.toml").write_text(
        "".join(f"[{name}]\ncertificate = '{one.certificate}'\nkey = '{one.key}'\n" for name, one in tables.items())
    )
    wires = start().ready["wires"]
    assert health(wires["http"], certificates.trusting()) == "ok"
    assert greeted(wires["mqtts"], other.trusting()) == CONNACK
    with pytest.raises(ssl.SSLError):
        greeted(wires["mqtts"], certificates.trusting())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--tls-cert", "no.pem", "--tls-key", "k.pem"], "error: tls.certificate: no.pem: No such file or directory ("),
        (["--tls-cert", "c.pem", "--tls-key", "no.pem"], "error: tls.key: no.pem: No such file or directory ("),
        (
            ["--tls-cert", "k.pem", "--tls-key", "k.pem", "--no-http"],
            "error: tls.certificate: k.pem: not a certificate in PEM (",
        ),
        (["--tls-cert", "c.pem"], "error: --tls-cert: [tls] Object missing required field `key`"),
        (["--mqtts", "0"], "error: --mqtts needs a certificate (give --tls-cert and --tls-key)"),
        (["--only", "mqtts"], "error: mqtts needs a certificate (give --tls-cert and --tls-key, or [tls])"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_certificates(tmp_path: Path, certificates: Certificates, arguments: list[str], reason: str) -> None:
    (tmp_path / "c.pem").write_bytes(Path(certificates.certificate).read_bytes())
    (tmp_path / "k.pem").write_bytes(Path(certificates.key).read_bytes())
    assert refused(tmp_path, "--free-ports", *arguments).startswith(reason)


def test_commands_name_what_they_do_not_trust(start: Start, tmp_path: Path, certificates: Certificates) -> None:
    hub = start("--only", "http", *with_tls(certificates))
    said = last_line(hub.polywire("topics", code=1).stderr)
    assert said.startswith(f"error: the hub at {hub.url} cannot be reached: ")
    assert said.endswith("(name the file of its authority with --cacert or POLYWIRE_CACERT)")
    assert hub.polywire("topics", "--cacert", certificates.ca).returncode == 0
    assert last_line(hub.polywire("topics", "--cacert", "no.pem", code=2).stderr) == (
        "error: --cacert no.pem: No such file or directory"
    )
    (tmp_path / "no.pem").write_text("nothing of the kind")
    assert last_line(hub.polywire("topics", "--cacert", str(tmp_path / "no.pem"), code=2).stderr) == (
        f"error: --cacert {tmp_path / 'no.pem'}: not a certificate in PEM"
    )
