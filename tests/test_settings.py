"""Where settings come from, what is refused, and that the reference says what holds."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from polywire.core.limits import Limits
from polywire.hub import HubSettings
from polywire.server.settings import TlsSettings
from polywire.settings import PARTS, Layers, Settings, SettingsError, load, reference, settings_of

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working folder without a ``polywire.toml``."""
    monkeypatch.chdir(tmp_path)


def from_file(text: str, code: Settings | None = None) -> Settings:
    Path("polywire.toml").write_text(text)
    return load(Layers({}, {}), code)


def from_environment(**variables: str) -> Settings:
    return load(Layers({}, variables))


def refused(text: str = "", **variables: str) -> tuple[str, str | None]:
    if text:
        Path("polywire.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(Layers({}, variables))
    return caught.value.detail, caught.value.hint


def test_without_any_layer_the_code_holds():
    code = Settings(hub=HubSettings(data="here", anonymous_allow=("publish:a",)), limits=Limits(message_size=5))
    assert load(Layers({}, {}), code) == code


def test_each_layer_hides_the_one_below():
    code = Settings(limits=Limits(key_size=1, message_size=1, headers_size=1, batch_size=1, batch_messages=1))
    Path("polywire.toml").write_text("[limits]\nkey_size = 2\nmessage_size = 2\nheaders_size = 2\n")
    environment = {"POLYWIRE_LIMITS_KEY_SIZE": "3", "POLYWIRE_LIMITS_MESSAGE_SIZE": "3"}
    found = load(Layers({("limits", "key_size"): 4}, environment), code).limits
    assert (found.key_size, found.message_size, found.headers_size, found.batch_size) == (4, 3, 2, 1)
    assert found.credit == Limits().credit


def test_tables_within_tables():
    assert from_file("[rest.xml]\ndepth = 5\nsize = '2KiB'\n[rest.form]\nfields = 7\n").rest.xml.depth == 5
    found = from_environment(POLYWIRE_REST_XML_SIZE="1MiB", POLYWIRE_REST_MULTIPART_PARTS="3").rest
    assert (found.xml.depth, found.xml.size, found.form.fields, found.multipart.parts) == (5, 1 << 20, 7, 3)
    assert refused("[rest.xml]\ndeep = 1\n") == (
        "polywire.toml: [rest.xml] has no setting 'deep'",
        "did you mean 'depth'?",
    )


def test_another_file():
    Path("other.toml").write_text("[http]\nport = 1\n")
    assert load(Layers({}, {}, Path("other.toml"))).http.port == 1
    Path("polywire.toml").write_text("[http]\nport = 2\n")
    assert load(Layers({}, {}, Path("other.toml"))).http.port == 1
    with pytest.raises(SettingsError, match=r"none\.toml: there is no such file"):
        load(Layers({}, {}, Path("none.toml")))


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [('"30s"', 30_000), ('"1h30m"', 5_400_000), ('"250ms"', 250), ("250", 250), ('"250"', 250)],
)
def test_durations(text, milliseconds):
    assert from_file(f"[http]\nidle_timeout = {text}\n").http.idle_timeout == milliseconds
    Path("polywire.toml").unlink()
    assert from_environment(POLYWIRE_SSE_RETRY=text.strip('"')).sse.retry == milliseconds


@pytest.mark.parametrize(("text", "size"), [('"64MiB"', 64 << 20), ('"10kB"', 10_000), ("77", 77), ('"77"', 77)])
def test_sizes(text, size):
    assert from_file(f"[limits]\nmessage_size = {text}\n").limits.message_size == size
    assert from_environment(POLYWIRE_REST_PAGE_SIZE=text.strip('"')).rest.page_size == size


def test_seconds():
    found = from_file('[sqlite]\ncheckpoint_interval = "500ms"\nspace_interval = 2\nswitch_interval = 0.001\n').sqlite
    assert (found.checkpoint_interval, found.space_interval, found.switch_interval) == (0.5, 2.0, 0.001)


def test_lists_and_booleans():
    found = from_file(
        '[http]\norigins = ["https://a.example", "https://b.example"]\n[websocket]\ncompression = false\n'
    )
    assert found.http.origins == ("https://a.example", "https://b.example")
    assert found.websocket.compression is False
    Path("polywire.toml").unlink()
    from_text = from_environment(
        POLYWIRE_HTTP_ORIGINS=" https://a.example, https://b.example ,", POLYWIRE_WEBSOCKET_COMPRESSION="false"
    )
    assert from_text.http.origins == ("https://a.example", "https://b.example")
    assert from_text.websocket.compression is False
    assert from_environment(POLYWIRE_HUB_STRICT="true").hub.strict is True


def test_a_table_in_a_table():
    tls = from_file('[http.tls]\ncertificate = "a.pem"\nkey = "b.pem"\n').http.tls
    assert (tls.certificate, tls.key, tls.password) == ("a.pem", "b.pem", None)
    assert from_environment(POLYWIRE_HTTP_TLS_KEY="c.pem").http.tls.key == "c.pem"


def test_half_a_table():
    detail, _ = refused('[http.tls]\ncertificate = "a.pem"\n')
    assert detail == ("polywire.toml: [http.tls] certificate: [http] Object missing required field `key` - at `$.tls`")


def test_tls_is_a_part_that_need_not_be_there():
    assert load(Layers({}, {})).tls is None
    found = from_file('[tls]\ncertificate = "a.pem"\nkey = "b.pem"\n').tls
    assert (found.certificate, found.key, found.password, found.client_ca) == ("a.pem", "b.pem", None, None)
    assert from_environment(POLYWIRE_TLS_PASSWORD="secret").tls.password == "secret"
    flags = {("tls", "certificate"): "c.pem"}
    assert load(Layers(flags, {"POLYWIRE_TLS_KEY": "d.pem"})).tls == TlsSettings("c.pem", "d.pem", None)
    Path("polywire.toml").unlink()
    with pytest.raises(SettingsError, match=r"--tls-cert: \[tls\] .*missing required field `key`"):
        load(Layers(flags, {}))


def test_whole_seconds():
    assert from_file('[mqtt]\nmax_keepalive = "1h30m"\n').mqtt.max_keepalive == 5_400
    assert refused('[mqtt]\nmax_keepalive = "1500ms"\n')[0] == (
        "polywire.toml: [mqtt] max_keepalive: expected `int`, got `float`"
    )


@pytest.mark.parametrize(
    ("text", "detail", "hint"),
    [
        ("[http]\nprot = 1\n", "polywire.toml: [http] has no setting 'prot'", "did you mean 'port'?"),
        ("[htp]\nport = 1\n", "polywire.toml: there is no table [htp]", "did you mean 'http'?"),
        ("[http.tls]\nkee = ''\n", "polywire.toml: [http.tls] has no setting 'kee'", "did you mean 'key'?"),
        ("[http.websocket]\nping_interval = 1\n", "polywire.toml: [http] has no setting 'websocket'", None),
        ("http = 1\n", "polywire.toml: [http] is a table", "write [http]"),
        ("[[http]]\nport = 1\n", "polywire.toml: [http] is a table", "write [http]"),
        ("[http.port]\nx = 1\n", "polywire.toml: [http] port: expected `int`, got `object`", None),
        ("[http]\nport = 70000\n", "polywire.toml: [http] port: expected `int` <= 65535", None),
        ("[http]\nport = '80'\n", "polywire.toml: [http] port: expected `int`, got `str`", None),
        ("[hub]\nstrict = 'yes'\n", "polywire.toml: [hub] strict: expected `bool | null`, got `str`", None),
        ("[sqlite]\nsynchronous = 'MAYBE'\n", "polywire.toml: [sqlite] synchronous: invalid enum value 'MAYBE'", None),
        ("[limits]\ndrain = 'soon'\n", "polywire.toml: [limits] drain: not a duration: 'soon'", None),
        ("[limits]\ntail_size = '3 XB'\n", "polywire.toml: [limits] tail_size: not a size: '3 XB'", None),
        ("[limits]\ntail_size = -1\n", "polywire.toml: [limits] tail_size: expected `int` >= 0", None),
        ("[limits]\ndisk_fraction = 2.0\n", "polywire.toml: [limits] disk_fraction: expected `float` <= 1.0", None),
    ],
)
def test_wrong_files(text, detail, hint):
    found, found_hint = refused(text)
    assert found == detail
    if hint is not None:
        assert found_hint == hint


def test_not_toml():
    detail, _ = refused("[http\nport = 1\n")
    assert detail.startswith("polywire.toml: ")
    assert "line 1" in detail
    Path("polywire.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"polywire\.toml: "):
        load(Layers({}, {}))
    Path("polywire.toml").unlink()
    Path("polywire.toml").mkdir()
    with pytest.raises(SettingsError, match=r"polywire\.toml: cannot be read: Is a directory"):
        load(Layers({}, {}))


@pytest.mark.parametrize(
    ("name", "value", "detail", "hint"),
    [
        ("POLYWIRE_HTTP_PRT", "1", "POLYWIRE_HTTP_PRT: there is no such setting", "did you mean POLYWIRE_HTTP_PORT?"),
        ("POLYWIRE_HTTP_PORT", "a", "POLYWIRE_HTTP_PORT: expected `int`, got `str`", None),
        ("POLYWIRE_HTTP_PORT", "", "POLYWIRE_HTTP_PORT: expected `int`, got `str`", None),
        ("POLYWIRE_HUB_STRICT", "maybe", "POLYWIRE_HUB_STRICT: expected `bool | null`, got `str`", None),
        ("POLYWIRE_LIMITS_DRAIN", "nan", "POLYWIRE_LIMITS_DRAIN: expected `int`, got `float`", None),
        ("POLYWIRE_SQLITE_SPACE_INTERVAL", "x", "POLYWIRE_SQLITE_SPACE_INTERVAL: not a duration: 'x'", None),
    ],
)
def test_wrong_variables(name, value, detail, hint):
    found, found_hint = refused(**{name: value})
    assert found == detail
    if hint is not None:
        assert found_hint == hint


def test_variables_of_other_things_are_left_alone():
    others = {"POLYWIRE_URL": "x", "POLYWIRE_KEY": "y", "POLYWIRE_PORT": "tcp://10.0.0.1:80", "HTTP_PORT": "z"}
    assert from_environment(**others) == Settings()


def test_what_a_stronger_layer_hides_is_checked_too():
    Path("polywire.toml").write_text("[http]\nport = 'x'\n")
    with pytest.raises(SettingsError, match="port"):
        load(Layers({("http", "port"): 1}, {}))


def test_every_setting_can_be_set_from_the_environment():
    """As text made of its default, it is read back as that default."""
    for part in PARTS:
        for setting in settings_of(part):
            if setting.default in (msgspec.NODEFAULT, None):
                continue
            text = ",".join(setting.default) if isinstance(setting.default, tuple) else str(setting.default)
            assert load(Layers({}, {setting.variable: text})) == Settings(), setting.path


def test_every_setting_says_what_it_is():
    for part in PARTS:
        for setting in settings_of(part):
            assert setting.description, setting.path
            assert setting.unit in ("", "ms", "s", "bytes", "list"), setting.path


def test_the_reference_is_up_to_date():
    page = ROOT / "docs" / "settings.md"
    assert page.read_text() == reference(), "run: python -m polywire.settings > docs/settings.md"


def test_the_example_in_the_reference_holds():
    example = reference().split("```toml\n")[1].split("```")[0]
    found = from_file(example)
    assert found.http.port == 8080
    assert found.http.idle_timeout == 120_000
    assert found.limits.message_size == 4 << 20
