"""``polywire topics``."""

from __future__ import annotations

from typing import Any

import click

from polywire.cli.client import Client, hub_options, json_option, path
from polywire.cli.groups import ListingGroup
from polywire.cli.output import note, show_facts, show_json, show_table, size

__all__ = ["topics"]


@click.group(cls=ListingGroup)
def topics() -> None:
    """List, create, show and delete topics. Without a command: list."""


@topics.command("list")
@json_option
@hub_options
def list_topics(client: Client, *, as_json: bool) -> None:
    """Every topic that you may see."""
    found = client.get(path("topics"))["topics"]
    if as_json:
        show_json(found)
        return
    columns = ("name", ">messages", ">size", "durability", "retention", "declared", "subscriptions")
    show_table(columns, [_row(topic) for topic in found], empty="there are no topics")


def _row(topic: dict[str, Any]) -> tuple[object, ...]:
    settings = topic["settings"]
    return (
        topic["name"],
        topic["count"],
        size(topic["size"]),
        settings["durability"],
        settings["retention"],
        topic["declared"],
        topic["subscriptions"],
    )


@topics.command("info")
@click.argument("name")
@json_option
@hub_options
def info(client: Client, name: str, *, as_json: bool) -> None:
    """One topic: what it holds, how it is set, who reads it."""
    topic = client.get(path("topics", name, "info"))
    if as_json:
        show_json(topic)
        return
    facts: list[tuple[str, object]] = [
        ("name", topic["name"]),
        ("messages", topic["count"]),
        ("size", size(topic["size"])),
        ("declared", topic["declared"]),
        ("followers", topic["followers"]),
        ("subscriptions", topic["subscriptions"]),
        ("oldest", topic["cursors"]["oldest"]),
        ("newest", topic["cursors"]["newest"]),
    ]
    facts += sorted(topic["settings"].items())
    show_facts(facts)


@topics.command("create")
@click.argument("name")
@click.option("--durability", type=click.Choice(["durable", "memory"]), help="memory: gone when the hub stops.")
@click.option("--retention", metavar="TIME", help="How long messages can be replayed: 1h, 7d.")
@click.option("--retention-size", type=int, metavar="BYTES", help="How much can be replayed.")
@click.option("--hard-limit", type=int, metavar="BYTES", help="Of the topic in all, with what queues hold.")
@click.option("--overflow", type=click.Choice(["refuse", "drop-oldest", "dead-letter"]), help="At the hard limit.")
@click.option("--latest", is_flag=True, default=None, help="Keep the last message of each key.")
@click.option("--dedup", is_flag=True, default=None, help="Leave out messages that were published before.")
@json_option
@hub_options
def create(client: Client, name: str, *, as_json: bool, **settings: Any) -> None:
    """Create a topic. One that stands like that already is fine."""
    given = {field: value for field, value in settings.items() if value is not None}
    answer = client.put(path("topics", name), given)
    if as_json:
        show_json(answer.json())
    else:
        note(f"topic {name} {'created' if answer.status == 201 else 'exists already'}")


@topics.command("delete")
@click.argument("name")
@hub_options
def delete(client: Client, name: str) -> None:
    """Take away a topic's name. What subscriptions still hold stays with them."""
    client.delete(path("topics", name))
    note(f"topic {name} deleted")
