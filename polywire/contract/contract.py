"""Everything that a hub declares, for those who serve it and those who describe it."""

from __future__ import annotations

from typing import Any

from polywire.contract.operations import OperationContract
from polywire.contract.topics import TopicContract
from polywire.core.errors import NotFound

__all__ = ["Contract"]


class Contract:
    """Of one hub: its topics and operations, each in the order of declaration.

    ``version`` and ``description`` are the application's own.
    """

    def __init__(
        self,
        name: str,
        topics: tuple[TopicContract[Any], ...],
        operations: tuple[OperationContract, ...],
        *,
        version: str = "",
        description: str = "",
    ) -> None:
        self.name = name
        self.version = version
        self.description = description
        self.topics = topics
        self.operations = operations
        self._operations = {operation.name: operation for operation in operations}
        self._topics = {topic.settings.name: topic for topic in topics}

    def operation(self, name: str) -> OperationContract:
        """Raises `NotFound`."""
        found = self._operations.get(name)
        if found is None:
            raise NotFound(f"there is no operation {name[:80]!r}")
        return found

    def topic(self, name: str) -> TopicContract[Any] | None:
        """None for a topic that is not declared."""
        return self._topics.get(name)
