"""``polywire api-keys``: with a running hub, and on the folder of a stopped one."""

from __future__ import annotations

import json

import pytest

from tests.cli.hub_process import last_line, polywire


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def offline(data, *arguments: str, code: int = 0):
    ended = polywire("api-keys", *arguments, "--data", str(data))
    assert ended.returncode == code, ended.stderr
    return ended


def test_before_the_first_start_and_after_a_stop(data, start):
    made = json.loads(offline(data, "create", "root", "--allow", "*:#", "--json").stdout)
    assert made["key"].startswith(f"pw_{made['id']}_")
    hub = start()
    assert hub.ready["access"] == "keys"
    denied = hub.polywire("topics", "create", "t", code=1)
    assert last_line(denied.stderr).endswith("(give an API key with --api-key or POLYWIRE_KEY)")
    hub.key = made["key"]
    hub.polywire("topics", "create", "t")
    assert hub.stop() == 0
    (listed,) = json.loads(offline(data, "--json").stdout)
    assert listed == {key: made[key] for key in ("id", "name", "allow", "created")}
    offline(data, "revoke", "root")
    assert offline(data, "list").stderr == "there are no API keys: everybody may do everything\n"


def test_with_a_running_hub(data, start):
    hub = start()
    secret = hub.polywire("api-keys", "create", "root", "--allow", "*:#").stdout.strip()
    assert secret.startswith("pw_")
    hub.key = secret
    reader = hub.json("api-keys", "create", "reader", "--allow", "subscribe:t.#", "--allow", "publish:u.#")
    heading, *rows = hub.polywire("api-keys").stdout.splitlines()
    assert heading.split() == ["NAME", "ID", "ALLOW", "CREATED"]
    assert rows[1].split()[:4] == ["reader", reader["id"], "subscribe:t.#,", "publish:u.#"]
    hub.polywire("pub", "t", "1")
    assert hub.polywire("sub", "t", "--from", "earliest", "--count", "1", "--api-key", reader["key"]).stdout == "1\n"
    refused = hub.polywire("pub", "t", "2", "--api-key", reader["key"], code=1)
    assert last_line(refused.stderr).startswith("error: 'reader' may not publish 't'")
    hub.polywire("api-keys", "revoke", "reader")
    assert "not known" in hub.polywire("topics", "--api-key", reader["key"], code=1).stderr
    assert "no API key 'reader'" in hub.polywire("api-keys", "revoke", "reader", code=1).stderr
    assert "in use by another process" in last_line(offline(data, "list", code=2).stderr)


def test_a_revoked_key_ends_those_who_follow(start):
    hub = start()
    hub.key = hub.json("api-keys", "create", "root", "--allow", "*:#")["key"]
    reader = hub.json("api-keys", "create", "reader", "--allow", "subscribe:t.#")["key"]
    hub.polywire("pub", "t", "1")
    with hub.follow("t", "--from", "earliest", "--api-key", reader) as following:
        assert following.line() == "1"
        hub.polywire("api-keys", "revoke", "reader")
        hub.polywire("pub", "t", "2")
        assert following.wait() == 1
        assert following.out.get(timeout=5) is None
        assert following.err[-1].startswith("error: ")


def test_wrong_wishes(data, start):
    assert last_line(offline(data, "list", code=2).stderr) == f"error: there is no log in {data}"
    assert not data.exists()
    start().stop()
    wrong = offline(data, "create", "x", "--allow", "publish", code=1)
    assert last_line(wrong.stderr).startswith("error: not a permission: 'publish' (write ACTION:PATTERN")
    assert "--allow" in last_line(offline(data, "create", "x", code=2).stderr)
    offline(data, "create", "x", "--allow", "publish:a")
    assert "exists" in last_line(offline(data, "create", "x", "--allow", "publish:a", code=1).stderr)
    assert "no API key 'y'" in last_line(offline(data, "revoke", "y", code=1).stderr)
