"""Connections that are kept for the next attempt."""

from __future__ import annotations

import time
from collections import deque
from typing import Generic, Protocol, TypeVar

# Between two steps of an agent a model thinks; connections wait for it this long.
KEPT_SECONDS = 60.0


class Connection(Protocol):
    # Whether the next answer would be that of the next request.
    is_reusable: bool
    idle_since: float

    @property
    def is_open(self) -> bool:
        """Whether the other side has neither closed it nor said anything unasked."""

    def abort(self) -> None: ...


C = TypeVar("C", bound=Connection)


class Kept(Generic[C]):
    """The last one used is taken first, so that the others may expire. Threads may share it."""

    def __init__(self) -> None:
        self.is_closed = False
        self._idle: deque[C] = deque()

    def take(self) -> C | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if not _is_expired(connection) and connection.is_open:
                return connection
            connection.abort()

    def put(self, connection: C) -> None:
        """Keeps it, or aborts it if it cannot be used again."""
        if not connection.is_reusable or self.is_closed:
            connection.abort()
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        self._abort_expired()
        if self.is_closed:  # Meanwhile, by another thread.
            self.abort()

    def close(self) -> list[C]:
        """Takes all of them. Those that are put later are aborted."""
        self.is_closed = True
        taken: list[C] = []
        while True:
            try:
                taken.append(self._idle.pop())
            except IndexError:
                return taken

    def abort(self) -> None:
        for connection in self.close():
            connection.abort()

    def _abort_expired(self) -> None:
        """Those of a burst are not asked for again, so nobody else would notice that the service has closed them."""
        while True:
            try:
                oldest = self._idle.popleft()
            except IndexError:
                return
            if not _is_expired(oldest):
                self._idle.appendleft(oldest)
                return
            oldest.abort()


def _is_expired(connection: Connection) -> bool:
    return time.monotonic() - connection.idle_since >= KEPT_SECONDS
