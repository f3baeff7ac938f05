"""Where mosquitto 2.0 does otherwise than the hub, and a behaviour test expects of each what it does.

The wire's README has a row for each, by the same name. ``mosquitto`` and ``hub``: what each does. ``why``: what the
standard says of it.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DIFFERENCES", "Difference"]


class Difference(NamedTuple):
    mosquitto: str
    hub: str
    why: str


DIFFERENCES: dict[str, Difference] = {
    "a CONNECT of any size": Difference(
        "waits for the whole of a CONNECT that says it has 256 MB",
        "closes as soon as its head is there",
        "a bound before anybody is known; mosquitto has one only where it is configured",
    ),
    "a reason for every end": Difference(
        "often closes without a word, also when a client id is taken over",
        "sends DISCONNECT with the reason first, at MQTT 5",
        "MQTT 5 §4.13: it SHOULD",
    ),
    "an unknown id": Difference(
        "completes a PUBREL that it knows nothing of with success",
        "answers 0x92, packet identifier not found",
        "MQTT 5 §3.7.2.1; both end the exchange",
    ),
    "dollar names": Difference(
        "routes any name that begins with `$`",
        "has `$SYS` to read and `$share` alone, and refuses others",
        "MQTT 5 §4.7.2 leaves them to the server; here they are never topics",
    ),
    "lenient checks": Difference(
        "overlooks some packets, flags, properties and malformed `$share` filters that must not be",
        "ends the connection",
        "MQTT 5 §4.13: malformed packets and protocol errors",
    ),
    "long names": Difference(
        "takes names up to 65,535 bytes",
        "refuses one whose key is longer than `limits.key_size` with 0x97",
        "every protocol has to carry the key",
    ),
    "more in flight than agreed": Difference(
        "takes more QoS 2 messages at once than the Receive Maximum in its CONNACK",
        "ends the connection with 0x93",
        "[MQTT-3.3.4-7], [MQTT-3.3.4-9]",
    ),
    "names of users": Difference(
        "a password belongs to one user name",
        "an API key is enough: as the password beside any user name, or as the user name alone",
        "a key says whose it is",
    ),
    "overlapping subscriptions": Difference(
        "sends a copy for each, at MQTT 5",
        "sends one copy with all subscription identifiers",
        "MQTT 5 §3.3.4 leaves the choice",
    ),
    "QoS 2 after a cut": Difference(
        "sends no more than a window to a client that was cut with QoS 2 messages in flight",
        "goes on",
        "MQTT 5 §4.4: what is in flight is sent again, and §4.9: then the quota is free",
    ),
    "reason strings": Difference("sends none", "says in words why something was refused", "MQTT 5 §3.4.2.2.2"),
    "Receive Maximum at QoS 2": Difference(
        "counts a message twice when it is done, and sends more than the client asked for",
        "keeps to it",
        "[MQTT-3.3.4-9]",
    ),
    "retained messages and shares": Difference(
        "sends retained messages to a new member of a share",
        "sends none",
        "MQTT 5 §4.8.2: not sent to shared subscriptions",
    ),
    "rights of a will": Difference(
        "takes the will, and drops it when its time has come",
        "refuses CONNECT with 0x87",
        "who may not publish is told so at once; MQTT 5 §3.1.2.5 leaves it open",
    ),
    "rights to subscribe": Difference(
        "grants the subscription and sends nothing (`acl_file`)",
        "refuses it in SUBACK: 0x87, at 3.1.1 0x80",
        "MQTT 5 §3.9.3 has a code for it",
    ),
    "the will of a session that a Clean Start ends": Difference(
        "forgets a will that still waits for its delay",
        "publishes it",
        "MQTT 5 §3.1.3.2.2: when the session ends, if that comes first",
    ),
    "unacknowledged by a share": Difference(
        "loses what a member that left had not acknowledged",
        "gives it to another member",
        "MQTT 5 §4.8.2 allows both for sessions that end; here a share is a queue",
    ),
    "when QoS 2 is delivered": Difference(
        "once PUBREL has come",
        "once PUBLISH has come and is stored",
        "MQTT 5 §4.3.3 allows both",
    ),
    "wills and restarts": Difference(
        "forgets wills that wait for their delay",
        "stores them with the session",
        "MQTT 5 §4.1: the will is part of the session's state",
    ),
}
