"""``polywire dev-certs``: what it makes works with clients as it says, and nothing is replaced unasked."""

from __future__ import annotations

import shlex
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.hub_process import Hub, environment, last_line, polywire

FILES = {"ca.pem": 0o644, "ca-key.pem": 0o600, "server.pem": 0o644, "server-key.pem": 0o600}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_and_what_is_said_of_them(tmp_path: Path) -> None:
    made = polywire("dev-certs", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "polywire-certs"
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == FILES
    assert made.stdout == "polywire run --tls-cert polywire-certs/server.pem --tls-key polywire-certs/server-key.pem\n"
    for client in ("curl --cacert", "mosquitto_sub --cafile", "tls_set("):
        assert client in made.stderr


def test_the_command_it_prints_serves_clients_as_it_says(require, tmp_path: Path) -> None:
    require("curl")
    made = polywire("dev-certs", cwd=tmp_path)
    with Hub(*shlex.split(made.stdout)[2:], data=tmp_path / "data", cwd=tmp_path) as hub:
        for name in ("localhost", "127.0.0.1"):
            (line,) = [line.strip() for line in made.stderr.splitlines() if line.strip().startswith("curl")]
            address = f"https://{name}:{hub.url.rpartition(':')[2]}"
            command = shlex.split(line.replace("https://localhost:8000", address))
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=20, check=True)
            assert b"ok" in done.stdout
        (line,) = [line.strip() for line in made.stderr.splitlines() if line.strip().startswith("polywire topics")]
        arguments = shlex.split(line.replace("https://localhost:8000", hub.url))[1:]
        assert polywire(*arguments, cwd=tmp_path).returncode == 0
        assert hub.stop() == 0


def test_other_names_and_another_folder(tmp_path: Path) -> None:
    made = polywire("dev-certs", "--out", "a b", "--host", "hub.lan", "--host", "192.0.2.7", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert shlex.split(made.stdout)[3] == "a b/server.pem"
    decoded = ssl._ssl._test_decode_cert(str(tmp_path / "a b" / "server.pem"))  # type: ignore[attr-defined]
    names = {value for _, value in decoded["subjectAltName"]}
    assert names == {"localhost", "127.0.0.1", "0:0:0:0:0:0:0:1", "hub.lan", "192.0.2.7"}


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    folder = tmp_path / "polywire-certs"
    assert polywire("dev-certs", cwd=tmp_path).returncode == 0
    before = contents(folder)
    again = polywire("dev-certs", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert last_line(again.stderr) == "error: polywire-certs/server.pem exists (--force makes a new one)"
    assert contents(folder) == before


def test_force_makes_a_new_certificate_of_the_same_authority(tmp_path: Path) -> None:
    folder = tmp_path / "polywire-certs"
    assert polywire("dev-certs", cwd=tmp_path).returncode == 0
    before = contents(folder)
    (folder / "server-key.pem").chmod(0o644)
    assert polywire("dev-certs", "--force", cwd=tmp_path).returncode == 0
    after = contents(folder)
    assert {name for name in FILES if before[name] != after[name]} == {"server.pem", "server-key.pem"}
    assert (folder / "server-key.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["ca.pem", "ca-key.pem"])
def test_a_file_of_somebody_else_stays(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "polywire-certs"
    folder.mkdir()
    (folder / name).write_text("mine")
    ended = polywire("dev-certs", "--force", cwd=tmp_path)
    assert ended.returncode == 2
    assert last_line(ended.stderr) == f"error: polywire-certs/{name} exists alone (choose another folder with --out)"
    assert contents(folder) == {name: b"mine"}


def test_what_cannot_be_done(tmp_path: Path) -> None:
    assert "no certificate can have this name" in last_line(polywire("dev-certs", "--host", "a b", cwd=tmp_path).stderr)
    (tmp_path / "file").write_text("")
    ended = polywire("dev-certs", "--out", "file/below", cwd=tmp_path)
    assert ended.returncode == 2
    assert last_line(ended.stderr) == "error: file/below: Not a directory"


def test_without_its_package(tmp_path: Path) -> None:
    """As where the extra is not installed."""
    blocked = "import sys; sys.modules['trustme'] = None; from polywire.cli import main; main(['dev-certs'])"
    ended = subprocess.run(
        [sys.executable, "-c", blocked], cwd=tmp_path, env=environment(), capture_output=True, timeout=20, check=False
    )
    assert ended.returncode == 2
    assert last_line(ended.stderr.decode()) == (
        "error: dev-certs needs the package trustme (pip install 'polywire[dev-tls]')"
    )
