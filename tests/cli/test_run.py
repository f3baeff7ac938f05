"""``polywire run``: ready line, exit codes, the last line on stderr, settings from everywhere."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import requests

import polywire as package
from polywire.cli import COMMANDS, main
from tests.cli.hub_process import POLYWIRE, Process, last_line, polywire, until


def get(url: str, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http, of this test's own hub
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_ready_line(start, tmp_path):
    hub = start()
    assert hub.ready == {
        "ready": True,
        "version": package.__version__,
        "hub": "polywire",
        "pid": hub.process.pid,
        "data": str(tmp_path / "data"),
        "access": "open",
        "wires": {"http": hub.url, "mqtt": hub.ready["wires"]["mqtt"]},
    }
    assert hub.url.startswith("http://127.0.0.1:")
    assert hub.ready["wires"]["mqtt"].startswith("mqtt://127.0.0.1:")
    assert get(f"{hub.url}/ready") == (200, {"status": "ready"})
    assert hub.stop() == 0
    assert hub.out.get(timeout=1) is None, "stdout has exactly one line"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(start, number):
    hub = start()
    hub.signal(number)
    assert hub.wait() == 0
    assert hub.err == []


def test_a_second_signal_ends_it_at_once(tmp_path, start):
    (tmp_path / "slow.py").write_text(
        "import asyncio\nfrom polywire import Hub\nhub = Hub()\njobs = hub.topic('jobs')\n"
        "@hub.subscribe(jobs)\nasync def work(job):\n    print('working', flush=True)\n    await asyncio.sleep(60)\n"
    )
    hub = start("slow.py")
    hub.polywire("pub", "jobs", "1")
    hub.says("working")
    hub.signal(signal.SIGTERM)
    until(lambda: requests.get(f"{hub.url}/ready", timeout=5).status_code == 503, "the hub drains")
    assert hub.process.poll() is None, "the handler has its share of ten seconds"
    until(lambda: hub.signal(signal.SIGTERM) or hub.process.poll() is not None, "it ends")
    assert hub.wait() == 1


def test_what_an_application_prints_is_not_on_stdout(tmp_path, start):
    (tmp_path / "loud.py").write_text(
        "import os\nfrom polywire import Hub\nprint('on import')\nos.system('echo from a child')\nhub = Hub('loud')\n"
    )
    hub = start("loud.py")
    assert hub.ready["hub"] == "loud"
    assert hub.stop() == 0
    assert hub.out.get(timeout=1) is None
    assert {"on import", "from a child"} <= set(hub.err)


def test_an_application_in_a_file(app, start):
    hub = start(str(app))
    assert hub.ready["hub"] == "shop"
    assert [topic["name"] for topic in hub.json("topics") if topic["declared"]] == ["notes", "orders"]
    refused = hub.polywire("pub", "odrers", "1", code=1)
    assert last_line(refused.stderr) == "error: no topic 'odrers' (did you mean 'orders'?)"


def test_an_application_that_declares_topics_may_be_open(app, start):
    hub = start(str(app), "--no-strict")
    hub.polywire("pub", "odrers", "1")


def test_an_open_hub_may_be_strict(start):
    hub = start("--strict")
    assert "no topic" in hub.polywire("pub", "anything", "1", code=1).stderr


@pytest.mark.parametrize("name", ["app:hub", "app", "app.py:hub", "./app.py"])
def test_ways_to_name_an_application(app, start, name):
    assert start(name).ready["hub"] == "shop"


# --- applications that cannot be loaded ------------------------------------------------------------------------------


def refused(folder: Path, *arguments: str, code: int = 2, **env: str) -> str:
    """The last line on stderr of a run that must end with ``code``."""
    ended = polywire("run", "--free-ports", "--data", str(folder / "data"), *arguments, cwd=folder, env=env)
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    return last_line(ended.stderr)


def test_there_is_no_such_application(app, tmp_path):
    assert refused(tmp_path, "ap.py") == "error: there is no file ap.py (name an application: app.py or module:hub)"
    assert "there is no module nope" in refused(tmp_path, "nope:hub")
    assert refused(tmp_path, "app.py:orders") == (
        "error: app.py has a Topic, not a Hub, under 'orders' (choose with app.py:hub)"
    )
    assert refused(tmp_path, "app.py:hubb") == "error: app.py has no 'hubb' (choose with app.py:hub)"


def test_an_application_without_a_hub(tmp_path):
    (tmp_path / "app.py").write_text("x = 1\n")
    assert refused(tmp_path, "app.py") == 'error: app.py has no Hub (it takes one, as in hub = Hub("shop"))'


def test_an_application_with_several_hubs(tmp_path, start):
    (tmp_path / "app.py").write_text("from polywire import Hub\na = Hub('first')\nb = Hub('second')\nsame = a\n")
    assert refused(tmp_path, "app.py") == (
        "error: app.py has several hubs: a, b, same (choose with app.py:a or app.py:b or app.py:same)"
    )
    assert start("app.py:b").ready["hub"] == "second"


def test_a_fault_in_an_application_is_shown_with_its_own_frames(tmp_path):
    (tmp_path / "shop.py").write_text("def price(): return 1 / 0\n")
    (tmp_path / "app.py").write_text("import json\nimport shop\n\ntotal = shop.price()\n")
    ended = polywire("run", "app.py", cwd=tmp_path)
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert lines[-1] == "error: app.py cannot be loaded: ZeroDivisionError: division by zero"
    files = [line for line in lines if line.startswith("  File")]
    assert [Path(line.split('"')[1]).name for line in files] == ["app.py", "shop.py"]


def test_a_syntax_error_is_shown_with_its_line(tmp_path):
    (tmp_path / "app.py").write_text("from polywire import Hub\nhub = Hub(\n")
    ended = polywire("run", "app.py", cwd=tmp_path)
    assert ended.returncode == 1
    assert "hub = Hub(" in ended.stderr
    assert "importlib" not in ended.stderr
    assert last_line(ended.stderr) == "error: app.py cannot be loaded: SyntaxError: '(' was never closed"


def test_an_application_that_misses_a_module(tmp_path):
    (tmp_path / "app.py").write_text("import no_such_module_anywhere\n")
    reason = refused(tmp_path, "app", code=1)
    assert reason == "error: app cannot be loaded: ModuleNotFoundError: No module named 'no_such_module_anywhere'"


def test_a_declaration_that_cannot_work_is_named(tmp_path):
    (tmp_path / "app.py").write_text(
        "from polywire import Hub\nhub = Hub()\nt = hub.topic('t')\n@hub.subscribe(t)\ndef f(a, b):\n    pass\n"
    )
    reason = refused(tmp_path, "app.py", code=1)
    assert "app.py:" in reason
    assert "parameter 'b'" in reason


def test_an_application_whose_start_fails(tmp_path):
    (tmp_path / "app.py").write_text(
        "from contextlib import asynccontextmanager\nfrom polywire import Hub\n"
        "@asynccontextmanager\nasync def life(hub):\n    raise OSError('the database is away')\n    yield\n"
        "hub = Hub(lifespan=life)\n"
    )
    assert refused(tmp_path, "app.py", code=1) == "error: the hub cannot start: the database is away"


# --- usage, ports, folders: exit code 2 ------------------------------------------------------------------------------


def test_a_taken_port(tmp_path, taken_port):
    reason = refused(tmp_path, "--http", str(taken_port))
    assert reason == (
        f"error: http cannot listen on 127.0.0.1:{taken_port}: the port is taken "
        "(choose another with --http PORT, or a free one with --free-ports, or none with --no-http or --only)"
    )


def test_other_hosts_only_with_keys_or_open(tmp_path, start):
    reason = refused(tmp_path, "--host", "0.0.0.0")  # noqa: S104
    assert "the hub has no API keys and would listen on 0.0.0.0" in reason
    assert "--open" in reason
    opened = start("--host", "0.0.0.0", "--open")  # noqa: S104
    assert opened.url.startswith("http://127.0.0.1:")
    assert opened.stop() == 0
    made = polywire("api-keys", "create", "root", "--allow", "*:#", "--data", str(tmp_path / "data"), "--json")
    assert made.returncode == 0, made.stderr
    with_keys = start("--host", "0.0.0.0")  # noqa: S104
    assert with_keys.ready["access"] == "keys"
    assert get(f"{with_keys.url}/topics", Authorization=f"Bearer {json.loads(made.stdout)['key']}")[0] == 200


def test_a_folder_that_another_hub_has_open(tmp_path, start):
    start()
    assert refused(tmp_path) == (
        f"error: the data folder {tmp_path / 'data'} is in use by another process (stop it or use another data folder)"
    )


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("")
    assert str(tmp_path / "data") in refused(tmp_path)


def test_a_damaged_log(tmp_path, start):
    assert start().stop() == 0
    (tmp_path / "data" / "hub.db").write_bytes(os.urandom(100_000))
    assert str(tmp_path / "data") in refused(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--htpp", "1"], "--htpp"),
        (["--http", "70000"], "70000"),
        (["--only", "amqp"], "no protocol listens under the name 'amqp' (there are: http, mqtt, mqtts)"),
        (["--config", "no.toml"], "no.toml: there is no such file"),
        (["a.py", "b.py"], "b.py"),
    ],
)
def test_usage(tmp_path, arguments, said):
    assert said in refused(tmp_path, *arguments)


def test_an_unknown_command(tmp_path):
    ended = polywire("rnu")
    assert ended.returncode == 2
    assert "rnu" in last_line(ended.stderr)


# --- settings --------------------------------------------------------------------------------------------------------


def test_flag_over_environment_over_file_over_code(tmp_path, start):
    (tmp_path / "app.py").write_text(
        "from polywire import Hub, Limits\n"
        "hub = Hub('x', data='from-code', limits=Limits(message_size=100, key_size=5))\n"
    )
    (tmp_path / "polywire.toml").write_text(
        '[hub]\ndata = "from-file"\nstrict = true\n[limits]\nmessage_size = "1KiB"\nheaders_size = 10\n'
    )
    env = {"POLYWIRE_HUB_STRICT": "false", "POLYWIRE_LIMITS_HEADERS_SIZE": "20", "POLYWIRE_HTTP_PORT": "1"}
    hub = start("app.py", env=env)  # --free-ports and --data are flags
    assert hub.ready["data"] == str(tmp_path / "data")
    hub.polywire("pub", "t", "x" * 1000)
    assert "larger than 1024 bytes" in hub.polywire("pub", "t", "x" * 1025, code=1).stderr
    assert "at most 5 bytes" in hub.polywire("pub", "t", "1", "--key", "123456", code=1).stderr
    assert "at most 20 bytes" in hub.polywire("pub", "t", "1", "-H", f"a={'x' * 30}", code=1).stderr


def test_wrong_settings(tmp_path):
    (tmp_path / "polywire.toml").write_text("[http]\nprot = 1\n")
    assert refused(tmp_path) == "error: polywire.toml: [http] has no setting 'prot' (did you mean 'port'?)"
    (tmp_path / "polywire.toml").write_text("[http]\nport = 'a'\n")
    assert refused(tmp_path) == "error: polywire.toml: [http] port: expected `int`, got `str`"
    (tmp_path / "polywire.toml").unlink()
    assert refused(tmp_path, POLYWIRE_HTTP_PRT="1") == (
        "error: POLYWIRE_HTTP_PRT: there is no such setting (did you mean POLYWIRE_HTTP_PORT?)"
    )


def test_another_config_file(tmp_path, start):
    (tmp_path / "other.toml").write_text("[limits]\nmessage_size = 10\n")
    hub = start("--config", "other.toml")
    assert "larger than 10 bytes" in hub.polywire("pub", "t", "x" * 11, code=1).stderr


def test_origins(tmp_path, start):
    (tmp_path / "app.py").write_text("from polywire import Hub\nhub = Hub(origins=['https://code.example'])\n")
    with_code = start("app.py")
    assert get(f"{with_code.url}/health", Origin="https://code.example")[0] == 200
    assert get(f"{with_code.url}/health", Origin="https://flag.example")[0] == 403
    with_flag = start("app.py", "--origin", "https://flag.example", data=tmp_path / "other")
    assert get(f"{with_flag.url}/health", Origin="https://flag.example")[0] == 200
    assert get(f"{with_flag.url}/health", Origin="https://code.example")[0] == 403


def test_nothing_may_listen(tmp_path):
    with Process(POLYWIRE, "run", "--no-http", "--no-mqtt", "--ready-json", "--data", str(tmp_path / "data")) as hub:
        assert json.loads(hub.line())["wires"] == {}
        hub.signal(signal.SIGTERM)
        assert hub.wait() == 0


def test_version():
    ended = polywire("--version")
    assert (ended.returncode, ended.stdout) == (0, f"polywire {package.__version__}\n")


def test_help_names_every_command(capsys):
    ended = polywire("--help")
    assert ended.returncode == 0
    for name in COMMANDS:
        assert f"  {name} " in ended.stdout
        with pytest.raises(SystemExit) as exited:
            main([name, "--help"])
        assert exited.value.code == 0
        assert f"Usage: polywire {name}" in capsys.readouterr().out
