"""One attempt of an operation, its answer, what can go wrong with it, and what sends it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from langgraph_checkpoint_http._clients.process import this_process

T = TypeVar("T")


@dataclass(frozen=True)
class Timeouts:
    """Seconds that each step of an attempt may take without any progress; None is without a limit."""

    connect: float | None
    read: float | None
    write: float | None
    pool: float | None

    @classmethod
    def of(cls, given: Any) -> Timeouts:
        """From seconds for every step, or from an `httpx.Timeout`."""
        if isinstance(given, (int, float)):
            return cls(given, given, given, given)
        return cls(given.connect, given.read, given.write, given.pool)


# Longer than the service makes a request wait for a connection of its own (QUEUE_WAIT_MS) or for its database
# (OUTAGE_WAIT_MS) before it answers 503.
DEFAULT_TIMEOUTS = Timeouts(connect=5, read=60, write=60, pool=60)
# How many requests are under way at once; further ones wait their turn, here and not in a client: httpx's pool closes
# idle connections while requests queue, and goes through the whole queue for each of them.
CONCURRENCY = 64
# A body up to this size is sent in one piece with its head: copying it costs less than another packet.
JOINED_BYTES = 64 * 1024


@dataclass(frozen=True)
class Attempt:
    """What is sent. `path` follows the base URL, `headers` have lower-case names.

    No step goes on after `ends`, a time of `time.monotonic()`.
    """

    path: str
    headers: Mapping[str, str]
    content: bytes
    timeouts: Timeouts
    ends: float
    # Over a connection that nothing else has used: after a mix-up or a silence idle ones are suspect, too.
    is_fresh: bool = False

    def limit(self, seconds: float | None) -> float:
        """How long a step may take that has so many seconds by itself."""
        left = min(max(self.ends - time.monotonic(), 0.001), threading.TIMEOUT_MAX)
        return left if seconds is None else min(seconds, left)

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.ends


@dataclass(frozen=True)
class Answer:
    """What came back: `headers` have lower-case names, those that came twice are joined; `content` is inflated."""

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes | bytearray
    # What was sent in place of the attempt's own headers, by a client with hooks.
    sent_headers: Mapping[str, str] | None = None


class ConnectionFault(Exception):
    """No usable answer came. `__cause__` is the error of the socket, if it was one.

    `suspects_address`: no service was found there, or one that speaks TLS where none was expected or the other way
    round.
    `is_silence`: the connection was open, but nothing moved. The network may have dropped others with it.
    """

    def __init__(self, name: str, reason: str = "", *, may_repeat: bool = True, suspects_address: bool = False) -> None:
        self.may_repeat = may_repeat
        self.suspects_address = suspects_address
        self.is_silence = name in ("ReadTimeout", "WriteTimeout")
        super().__init__(f"{name}: {reason}" if reason else name)


class Mismatch(Exception):
    """The answer is another request's. Its connection is closed, since the next answer would be another's as well."""


Settle = Callable[[Answer], T]


class SyncClient(Protocol):
    """Sends attempts and keeps connections. `timeouts` hold unless the checkpointer was given others."""

    timeouts: Timeouts
    # Where it sends to, for people.
    where: str

    def send(self, attempt: Attempt, settle: Settle[T]) -> T:
        """What `settle` makes of the answer. The connection is kept, unless `settle` raises Mismatch.

        Raises:
            ConnectionFault: No usable answer came.
        """

    def close(self) -> None: ...


class AsyncClient(Protocol):
    """As SyncClient, for one event loop."""

    timeouts: Timeouts
    where: str

    async def send(self, attempt: Attempt, settle: Settle[T]) -> T: ...

    async def aclose(self) -> None: ...


def deadline_fault() -> ConnectionFault:
    return ConnectionFault("ReadTimeout", "the answer took longer than the deadline")


_SILENCES = {"ConnectTimeout": "no connection", "WriteTimeout": "nothing could be sent", "ReadTimeout": "nothing came"}


def silence(name: str, seconds: float | None) -> ConnectionFault:
    return ConnectionFault(name, f"{_SILENCES[name]} within {seconds:.3g} s")


if sys.version_info >= (3, 11):
    from asyncio import timeout
else:

    class timeout:
        """As asyncio's. No generator: those that begin while a loop ends are warned of."""

        def __init__(self, seconds: float) -> None:
            self._seconds = seconds
            self._is_over = False

        async def __aenter__(self) -> None:
            self._task = asyncio.current_task()
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._ring)

        async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
            self._timer.cancel()
            if self._is_over and kind is asyncio.CancelledError:
                raise TimeoutError

        def _ring(self) -> None:
            assert self._task is not None
            self._is_over = True
            self._task.cancel()


async def until_the_loop_ends(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """asyncio.run ends every generator that has begun, so connections do not outlive their loop.

    A child leaves them to its parent. `close` is a method of whoever holds the generator: held by each other, both stay
    until the collector finds them, since a generator that is dropped just before the end would not be ended.
    """
    process = this_process()
    try:
        yield
    finally:
        if process == this_process():
            await close()


def shares(found: Sequence[T], ends: float) -> Iterator[tuple[T, float, bool]]:
    """The addresses of a name, how many seconds each may be silent, and whether it is the last one.

    What is left until `ends`, a time of `time.monotonic()`, is divided among those that were not tried yet.
    """
    for left in range(len(found), 0, -1):
        yield found[-left], max(ends - time.monotonic(), 0.001) / left, left == 1
