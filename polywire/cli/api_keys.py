"""``polywire api-keys``: with a running hub, or on the data folder of one that is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
import msgspec

from polywire.cli.client import Client, hub_options, json_option, path
from polywire.cli.failures import USAGE, Failure, failure_of
from polywire.cli.groups import ListingGroup
from polywire.cli.output import note, show_json, show_table

__all__ = ["api_keys"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Keys(Protocol):
    """Where keys are: behind a hub, or in a folder. Views as REST shows them."""

    def listed(self) -> list[dict[str, Any]]: ...
    def create(self, name: str, allow: list[str]) -> dict[str, Any]: ...
    def revoke(self, id_or_name: str) -> None: ...


class HubKeys:
    def __init__(self, client: Client) -> None:
        self._client = client

    def listed(self) -> Any:
        return self._client.get(path("api-keys"))["api_keys"]

    def create(self, name: str, allow: list[str]) -> Any:
        return self._client.post(path("api-keys"), {"name": name, "allow": allow})

    def revoke(self, id_or_name: str) -> None:
        self._client.delete(path("api-keys", id_or_name))


class FolderKeys:
    """A core is started on the folder for a moment. Nothing listens. Raises `Failure` if a hub has it open."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def listed(self) -> list[dict[str, Any]]:
        async def work(core: Any) -> list[dict[str, Any]]:
            return [_view(info) for info in core.access.keys(core.access.system)]

        self._require_log()
        return self._run(work)

    def create(self, name: str, allow: list[str]) -> dict[str, Any]:
        async def work(core: Any) -> dict[str, Any]:
            info, secret = await core.access.create_key(core.access.system, name, allow)
            return {**_view(info), "key": secret}

        return self._run(work)

    def revoke(self, id_or_name: str) -> None:
        async def work(core: Any) -> None:
            await core.access.revoke_key(core.access.system, id_or_name)

        self._require_log()
        self._run(work)

    def _require_log(self) -> None:
        """Only the first key may make a data folder."""
        from polywire.engines.sqlite.database import FILE

        if not Path(self._folder, FILE).is_file():
            raise Failure(f"there is no log in {self._folder}", exit_code=USAGE)

    def _run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        return asyncio.run(self._with_core(work))

    async def _with_core(self, work: Callable[[Any], Awaitable[T]]) -> T:
        from polywire.core.core import Core
        from polywire.core.errors import PolywireError
        from polywire.engines.sqlite import SqliteEngine

        core = Core(SqliteEngine(self._folder))
        try:
            await core.start()
        except PolywireError as error:
            raise failure_of(error, USAGE) from error
        try:
            return await work(core)
        except PolywireError as error:
            raise failure_of(error) from error
        finally:
            await core.stop()


def _view(info: Any) -> dict[str, Any]:
    from polywire.server.envelope import format_time

    return {**msgspec.structs.asdict(info), "created": format_time(info.created)}


def key_options(command: F) -> F:
    """`hub_options` and ``--data``; the function gets ``keys``."""
    import functools

    @functools.wraps(command)
    def chosen(*args: Any, client: Client, data: str | None, **given: Any) -> Any:
        return command(*args, keys=HubKeys(client) if data is None else FolderKeys(data), **given)

    offline = click.option("--data", metavar="DIR", help="Of a hub that is stopped, instead of asking a running one.")
    return hub_options(offline(chosen))  # type: ignore[return-value]  # click returns what it was given


@click.group(cls=ListingGroup)
def api_keys() -> None:
    """Create, list and revoke API keys. Without a command: list.

    From the first key on, a hub answers only those who have one.
    """


@api_keys.command("list")
@json_option
@key_options
def list_keys(keys: Keys, *, as_json: bool) -> None:
    """Every key, without its secret."""
    found = keys.listed()
    if as_json:
        show_json(found)
        return
    rows = [(one["name"], one["id"], one["allow"], one["created"]) for one in found]
    show_table(("name", "id", "allow", "created"), rows, empty="there are no API keys: everybody may do everything")


@api_keys.command("create")
@click.argument("name")
@click.option(
    "--allow",
    "allow",
    multiple=True,
    required=True,
    metavar="ACTION:PATTERN",
    help="As publish:readings.#, subscribe:#, '*:#'; repeatable. Actions: publish, subscribe, call, manage, admin, *.",
)
@json_option
@key_options
def create(keys: Keys, name: str, allow: tuple[str, ...], *, as_json: bool) -> None:
    """Create key NAME. Its secret is shown now and never again."""
    made = keys.create(name, list(allow))
    if as_json:
        show_json(made)
    else:
        note(f"API key {name} (id {made['id']}); it is shown only now:")
        click.echo(made["key"])


@api_keys.command("revoke")
@click.argument("name")
@key_options
def revoke(keys: Keys, name: str) -> None:
    """Revoke a key by name or id; open connections lose their rights at once."""
    keys.revoke(name)
    note(f"API key {name} revoked")
