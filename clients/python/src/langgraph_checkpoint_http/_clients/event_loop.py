"""Attempts sent by one event loop of asyncio (or uvloop)."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

from langgraph_checkpoint_http._clients.address import Address
from langgraph_checkpoint_http._clients.attempt import (
    DEFAULT_TIMEOUTS,
    JOINED_BYTES,
    Answer,
    Attempt,
    ConnectionFault,
    Mismatch,
    Settle,
    T,
    deadline_fault,
    shares,
    silence,
    timeout,
    until_the_loop_ends,
)
from langgraph_checkpoint_http._clients.http1 import AnswerReader, Head
from langgraph_checkpoint_http._clients.kept import Kept

# How long the end of a TLS session is waited for.
_CLOSE_SECONDS = 1.0


class EventLoopClient:
    """See AsyncClient. Made in the loop that it is for."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None) -> None:
        self.timeouts = DEFAULT_TIMEOUTS
        self.where = address.origin
        self._address = address
        self._head = Head(address)
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._kept: Kept[_Connection] = Kept()
        self._end: AsyncGenerator[None, None] | None = None

    async def send(self, attempt: Attempt, settle: Settle[T]) -> T:
        connection = None if attempt.is_fresh else self._kept.take()
        if connection is None:
            connection = await self._connect(attempt)
        try:
            answer = await connection.exchange(self._head.of(attempt), attempt)
        except BaseException:
            connection.abort()
            raise
        try:
            return settle(answer)
        except Mismatch:
            connection.is_reusable = False
            raise
        finally:
            self._kept.put(connection)

    async def aclose(self) -> None:
        self._kept.is_closed = True
        end, self._end = self._end, None
        if end is not None:
            await end.aclose()

    async def _connect(self, attempt: Attempt) -> _Connection:
        if self._end is None and not self._kept.is_closed:  # Once it is, no connection is kept any more.
            self._end = until_the_loop_ends(self._close)
            await anext(self._end)
        allowed = attempt.limit(attempt.timeouts.connect)
        ends = time.monotonic() + allowed
        try:
            async with timeout(allowed):
                found = await self._addresses()
                for one, seconds, is_last in shares(found, ends):
                    try:
                        return await self._open(one, seconds)
                    except OSError as error:
                        if is_last or isinstance(error, ssl.SSLError):
                            raise
                raise OSError(f"{self._address.host} has no address")
        except TimeoutError as error:
            raise silence("ConnectTimeout", allowed) from error
        except OSError as error:
            raise ConnectionFault("ConnectError", str(error), suspects_address=True) from error

    async def _addresses(self) -> Sequence[Any]:
        """What getaddrinfo says. Only a name is looked up, by another thread."""
        host, port = self._address.host, self._address.port
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            return await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    async def _open(self, found: Any, seconds: float) -> _Connection:
        """The socket is made here and not by asyncio, whose race of addresses loses sockets when it is cancelled."""
        family, kind, protocol, _, target = found
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            async with timeout(seconds):
                await self._loop.sock_connect(sock, target)
        except BaseException:
            sock.close()
            raise
        connection = _Connection(self._loop)
        options: dict[str, Any] = {} if self._tls is None else {"ssl": self._tls, "server_hostname": self._address.host}
        try:
            await self._loop.create_connection(lambda: connection, sock=sock, **options)
        except BaseException:
            if connection.is_made:  # Else asyncio has given it up, and with it the socket.
                connection.abort()
            raise
        return connection

    async def _close(self) -> None:
        self._end = None
        idle = self._kept.close()
        for connection in idle:
            connection.close()
        if idle:
            await asyncio.wait([connection.closed for connection in idle], timeout=_CLOSE_SECONDS)
            for connection in idle:
                connection.abort()


class _Connection(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.closed: asyncio.Future[None] = loop.create_future()
        self.is_made = False
        self.is_reusable = False
        self.idle_since = 0.0
        self._loop = loop
        self._transport: asyncio.Transport
        self._reader = AnswerReader()
        self._answer: asyncio.Future[Answer] | None = None
        self._attempt: Attempt
        self._unsent = 0
        # When the attempt is given up, unless something happens before. The timer may ring earlier, and is then set
        # again: one that were set for each packet would cost more than the packet.
        self._expires = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._rings = 0.0

    async def exchange(self, head: bytes, attempt: Attempt) -> Answer:
        """One answer. Raises ConnectionFault, after which the connection must be aborted."""
        self.is_reusable = False
        self._reader = AnswerReader()
        self._attempt = attempt
        self._answer = self._loop.create_future()
        if len(attempt.content) <= JOINED_BYTES:
            self._transport.write(head + attempt.content)
        else:
            self._transport.write(head)
            self._transport.write(attempt.content)
        self._unsent = self._transport.get_write_buffer_size()
        self._wait()
        try:
            return await self._answer
        finally:
            self._answer = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_made = True

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.abort()  # Nothing was asked for.
            return
        try:
            if self._reader.feed(data):
                self._settle()
            else:
                self._wait()
        except ConnectionFault as fault:
            self._answer.set_exception(fault)

    def eof_received(self) -> None:
        self.is_reusable = False
        if self._answer is not None and not self._answer.done():
            try:
                self._reader.end()
                self._settle()
            except ConnectionFault as fault:
                self._answer.set_exception(fault)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)
        if error is None:
            self.eof_received()
        elif self._answer is not None and not self._answer.done():
            fault = ConnectionFault("ReadError", str(error))
            fault.__cause__ = error
            self._answer.set_exception(fault)

    @property
    def is_open(self) -> bool:
        return self.is_reusable and not self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self.is_reusable = False
        if not self._loop.is_closed():
            self._transport.abort()

    def _settle(self) -> None:
        assert self._answer is not None
        answer = self._reader.answer()
        # A service that refuses a body may answer before it has read all of it.
        self.is_reusable = self._reader.is_reusable and self._transport.get_write_buffer_size() == 0
        self._answer.set_result(answer)

    def _wait(self) -> None:
        """Something has happened; waits for the next thing."""
        timeouts = self._attempt.timeouts
        limit = self._attempt.limit(timeouts.write if self._unsent else timeouts.read)
        self._expires = time.monotonic() + limit
        if self._timer is None or self._expires < self._rings:
            if self._timer is not None:
                self._timer.cancel()
            self._set_timer(limit)

    def _set_timer(self, seconds: float) -> None:
        if self._unsent:  # Nobody tells when the body has been sent; from then on the other timeout counts.
            seconds = min(seconds, self._attempt.limit(self._attempt.timeouts.read))
        self._rings = time.monotonic() + seconds
        self._timer = self._loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._answer is None or self._answer.done():
            return
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._unsent = unsent
            self._wait()
            return
        left = self._expires - time.monotonic()
        if left > 0:
            self._set_timer(left)
        elif self._attempt.is_over:
            self._answer.set_exception(deadline_fault())
        elif unsent:
            self._answer.set_exception(silence("WriteTimeout", self._attempt.timeouts.write))
        else:
            self._answer.set_exception(silence("ReadTimeout", self._attempt.timeouts.read))
