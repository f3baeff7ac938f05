"""``polywire subscriptions``: what they hold, how they stand, and what an operator does about it."""

from __future__ import annotations

from typing import Any

import click

from polywire.cli.client import Client, hub_options, json_option, path
from polywire.cli.groups import ListingGroup
from polywire.cli.messages import show_pending, shown_data
from polywire.cli.output import age, note, show_facts, show_json, show_table

__all__ = ["subscriptions"]


@click.group(cls=ListingGroup)
def subscriptions() -> None:
    """List and look after subscriptions; pull from them. Without a command: list."""


@subscriptions.command("list")
@json_option
@hub_options
def list_subscriptions(client: Client, *, as_json: bool) -> None:
    """Every subscription that you may see, and what it holds."""
    found = client.get(path("subscriptions"))["subscriptions"]
    if as_json:
        show_json(found)
        return
    columns = ("name", "sources", ">pending", ">unsettled", ">delayed", ">dead", ">oldest", ">consumers", "state")
    show_table(columns, [_row(one) for one in found], empty="there are no subscriptions")


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    return (
        one["name"],
        [_source(source) for source in one["sources"]],
        one["pending"],
        one["unsettled"],
        one["delayed"],
        one["dead"],
        age(one["oldest_unsettled"]),
        one["consumers"],
        _state(one),
    )


def _state(one: dict[str, Any]) -> str:
    """``filling``: it still looks up what it holds from its start on."""
    return "paused" if one["paused"] else "filling" if one.get("filling") else "active"


def _source(source: dict[str, Any]) -> str:
    key = "" if source.get("key") is None else f":{source['key']}"
    headers = "".join(f" {name}={value}" for name, value in (source.get("headers") or {}).items())
    return f"{source['topic']}{key}{headers}"


@subscriptions.command("show")
@click.argument("name")
@json_option
@hub_options
def show(client: Client, name: str, *, as_json: bool) -> None:
    """One subscription: what it holds and how it is set."""
    one = client.get(path("subscriptions", name))
    if as_json:
        show_json(one)
        return
    counted = ("pending", "unsettled", "delayed", "dead", "consumers", "delivered", "acked", "returned")
    facts: list[tuple[str, object]] = [("name", one["name"]), ("owner", one["owner"])]
    facts += [("sources", [_source(source) for source in one["sources"]])]
    facts += [(name, one[name]) for name in counted]
    facts += [("oldest unsettled", age(one["oldest_unsettled"])), ("state", _state(one))]
    facts += sorted(one["settings"].items())
    show_facts(facts)


@subscriptions.command("create")
@click.argument("name")
@click.argument("sources", nargs=-1, required=True, metavar="TOPIC[:KEY]...")
@click.option("--start", metavar="PLACE", help="now (default), earliest, a time, a cursor.")
@click.option("--ordered", is_flag=True, default=None, help="One unsettled message per key at a time.")
@click.option(
    "--attempts", type=click.IntRange(min=1), metavar="N", help="Then it is a dead letter. Default: no limit."
)
@click.option("--ack-timeout", metavar="TIME", help="A delivery unsettled for so long is delivered again.")
@click.option("--expires", metavar="TIME", help="Remove it when nobody has used it for so long.")
@json_option
@hub_options
def create(client: Client, name: str, sources: tuple[str, ...], *, as_json: bool, **settings: Any) -> None:
    """Create subscription NAME that holds the messages of these topics; patterns are fine, as 'sensors.*:kitchen.#'."""
    given = {field: value for field, value in settings.items() if value is not None}
    answer = client.put(path("subscriptions", name), {"sources": [_parsed(text) for text in sources], **given})
    if as_json:
        show_json(answer.json())
    else:
        note(f"subscription {name} {'created' if answer.status == 201 else 'exists already'}")


def _parsed(text: str) -> dict[str, Any]:
    topic, colon, key = text.partition(":")
    return {"topic": topic, "key": key} if colon else {"topic": topic}


@subscriptions.command("delete")
@click.argument("name")
@hub_options
def delete(client: Client, name: str) -> None:
    """Delete a subscription, with what it holds."""
    client.delete(path("subscriptions", name))
    note(f"subscription {name} deleted")


# --- what is pending -------------------------------------------------------------------------------------------------


@subscriptions.command("peek")
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True)
@click.option("--after", type=int, metavar="SEQ", help="Go on after this one.")
@json_option
@hub_options
def peek(client: Client, name: str, limit: int, after: int | None, *, as_json: bool) -> None:
    """What is pending, without taking it."""
    found = client.get(path("subscriptions", name, "messages"), limit=limit, after=after)
    show_pending(found, as_json=as_json, empty=f"nothing is pending in {name}")


@subscriptions.command("delete-message")
@click.argument("name")
@click.argument("seq", type=int)
@hub_options
def delete_message(client: Client, name: str, seq: int) -> None:
    """Delete one pending message; peek shows its SEQ."""
    client.delete(path("subscriptions", name, "messages", str(seq)))
    note(f"message {seq} deleted from {name}")


@subscriptions.command("move")
@click.argument("name")
@click.argument("seq", type=int)
@click.argument("topic")
@click.option("--key", metavar="KEY", help="Instead of its own.")
@hub_options
def move(client: Client, name: str, seq: int, topic: str, key: str | None) -> None:
    """Move one pending message to a topic; peek shows its SEQ."""
    client.post(path("subscriptions", name, "messages", str(seq), "move"), {"topic": topic, "key": key})
    note(f"message {seq} moved from {name} to {topic}")


@subscriptions.command("pause")
@click.argument("name")
@hub_options
def pause(client: Client, name: str) -> None:
    """Deliver nothing until it is resumed; it goes on holding what comes."""
    client.post(path("subscriptions", name, "pause"))
    note(f"subscription {name} paused")


@subscriptions.command("resume")
@click.argument("name")
@hub_options
def resume(client: Client, name: str) -> None:
    """Deliver again."""
    client.post(path("subscriptions", name, "resume"))
    note(f"subscription {name} resumed")


@subscriptions.command("purge")
@click.argument("name")
@json_option
@hub_options
def purge(client: Client, name: str, *, as_json: bool) -> None:
    """Delete everything that is pending."""
    answer = client.post(path("subscriptions", name, "purge"))
    if as_json:
        show_json(answer)
    else:
        note(f"{answer['purged']} messages purged from {name}")


@subscriptions.command("reset")
@click.argument("name")
@click.option(
    "--to", "to", required=True, metavar="PLACE", help="earliest, latest, a time as 2026-01-31T12:00:00Z, a cursor."
)
@json_option
@hub_options
def reset(client: Client, name: str, to: str, *, as_json: bool) -> None:
    """Hold everything from PLACE on, delivered before or not, and nothing older."""
    answer = client.post(path("subscriptions", name, "reset"), {"to": to})
    if as_json:
        show_json(answer)
    else:
        note(f"subscription {name} reset to {to}: {answer['pending']} messages are pending")


# --- consuming -------------------------------------------------------------------------------------------------------


@subscriptions.command("pull")
@click.argument("name")
@click.option("--max", "most", type=click.IntRange(1, 1_000), default=1, show_default=True)
@click.option("--wait", default="0s", show_default=True, metavar="TIME", help="For the first message.")
@click.option("--lease", metavar="TIME", help="They are yours for so long; then they are delivered again.")
@click.option("--ack", "at_once", is_flag=True, help="Acknowledge them once they are printed.")
@json_option
@hub_options
def pull(client: Client, name: str, most: int, wait: str, lease: str | None, *, at_once: bool, as_json: bool) -> None:
    """Take deliveries. `ack` settles them by their tokens; what is not settled comes again."""
    answer = client.post(path("subscriptions", name, "pull"), {"max": most, "wait": wait, "lease": lease})
    deliveries = answer["deliveries"]
    if as_json:
        show_json(answer)
    else:
        rows = [
            (one["token"], one["attempt"], one["message"]["topic"], shown_data(one["message"])) for one in deliveries
        ]
        show_table(("token", ">attempt", "topic", "data"), rows, empty=f"{name} has nothing to deliver now")
    if at_once and deliveries:
        client.post(path("subscriptions", name, "ack"), {"tokens": [one["token"] for one in deliveries]})


@subscriptions.command("ack")
@click.argument("name")
@click.argument("tokens", nargs=-1, required=True)
@json_option
@hub_options
def ack(client: Client, name: str, tokens: tuple[str, ...], *, as_json: bool) -> None:
    """Settle deliveries: they are done with."""
    answer = client.post(path("subscriptions", name, "ack"), {"tokens": list(tokens)})
    if as_json:
        show_json(answer)
    else:
        note(f"{answer['settled']} acknowledged")
