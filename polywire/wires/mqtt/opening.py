"""CONNECT: who it is, whether they may, and what CONNACK tells them (MQTT 5 §3.1, §3.2)."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from polywire.core.access import Principal
from polywire.core.errors import Invalid, Unauthenticated
from polywire.wires.mqtt.packets import Connack, Connect, Properties, Property
from polywire.wires.mqtt.reasons import MqttError, Reason
from polywire.wires.mqtt.replies import reply_topic

if TYPE_CHECKING:
    from polywire.wires.mqtt.client_session import ClientSession
    from polywire.wires.mqtt.server import Mqtt

__all__ = ["Opening"]

_CLIENT_ID = 250
"""Characters: a client id is the name of its queue."""


class Opening:
    """A CONNECT that is about to be answered. Raises the core's errors, and `MqttError`, for one that is refused."""

    def __init__(self, wire: Mqtt, connect: Connect, principal: Principal | None) -> None:
        self.connect = connect
        self._wire = wire
        wire.require_ready()
        self.assigned = not connect.client_id
        self.client_id = self._client_id()
        self.account = self._authenticated(principal)
        """Whose connections are counted together."""
        self.principal = self.account.of_client(self.client_id)
        if self.principal.powerless:
            raise Unauthenticated("MQTT needs an API key")
        self.keep_alive_seconds = self._keep_alive()
        wire.sessions.require(self.principal, self.client_id)
        self._require_will()

    @property
    def keep_alive(self) -> int:
        """After so many ms of silence the client is gone: one and a half times what it said [MQTT-3.1.2-22]."""
        return 1_500 * self.keep_alive_seconds

    def _client_id(self) -> str:
        connect = self.connect
        if not connect.client_id:
            if connect.level == 3 or (connect.level == 4 and not connect.clean_start):
                raise Invalid("a client id is missing", hint="at this level only clean sessions may leave it out")
            return f"auto-{secrets.token_hex(12)}"
        if len(connect.client_id) > _CLIENT_ID or not connect.client_id.isprintable():
            raise Invalid(f"a client id has 1 to {_CLIENT_ID} printable characters")
        return connect.client_id

    def _authenticated(self, principal: Principal | None) -> Principal:
        """By the API key in the password, or in the user name where there is no password."""
        access, connect = self._wire.core.access, self.connect
        if connect.username is None and connect.password is None:
            return principal or access.anonymous
        given = connect.password.decode("utf-8", "surrogateescape") if connect.password else connect.username or ""
        try:
            return access.authenticate(given)
        except Unauthenticated:
            if access.open:  # everybody may do everything: tutorials with a password of their own, too
                return access.anonymous
            raise

    def _keep_alive(self) -> int:
        asked, longest = self.connect.keep_alive, self._wire.settings.max_keepalive
        if self.connect.level < 5:
            return asked
        return min(asked or longest, longest) if longest < 0xFFFF else asked

    def _require_will(self) -> None:
        will = self.connect.will
        if will is None:
            return
        try:
            self._wire.sessions.require_will(self.principal, will)
        except MqttError as error:
            raise MqttError(error.reason, f"the will: {error.detail}") from None

    def session(self) -> tuple[ClientSession, bool]:
        """The client's session and whether it was there; another connection of the client is ended first."""
        self._wire.sessions.take_over(self.client_id)
        return self._wire.sessions.open(self.connect, self.client_id, self.principal)

    def connack(self, session: ClientSession, present: bool) -> Connack:
        if self.connect.level < 5:
            return Connack(Reason.SUCCESS, present)
        return Connack(Reason.SUCCESS, present, self._properties(session))

    def _properties(self, session: ClientSession) -> Properties:
        settings, asked = self._wire.settings, self.connect.properties
        told: Properties = {
            Property.RECEIVE_MAXIMUM: settings.receive_maximum,
            Property.MAXIMUM_PACKET_SIZE: settings.max_packet_size,
            Property.TOPIC_ALIAS_MAXIMUM: settings.topic_alias_maximum,
        }
        if asked.get(Property.SESSION_EXPIRY_INTERVAL, 0) != session.expiry:
            told[Property.SESSION_EXPIRY_INTERVAL] = session.expiry
        if self.assigned:
            told[Property.ASSIGNED_CLIENT_IDENTIFIER] = self.client_id
        if self.keep_alive_seconds != self.connect.keep_alive:
            told[Property.SERVER_KEEP_ALIVE] = self.keep_alive_seconds
        if asked.get(Property.REQUEST_RESPONSE_INFORMATION):
            told[Property.RESPONSE_INFORMATION] = reply_topic(self.client_id)
        return told
