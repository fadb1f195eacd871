"""Attempts sent over sockets that block, from any number of threads."""

from __future__ import annotations

import select
import socket
import ssl
import sys
import time
from collections import deque
from typing import Any

from langgraph_checkpoint_http._clients.address import Address
from langgraph_checkpoint_http._clients.attempt import (
    DEFAULT_TIMEOUTS,
    JOINED_BYTES,
    KEPT_SECONDS,
    Answer,
    Attempt,
    ConnectionFault,
    Mismatch,
    Settle,
    T,
    deadline_fault,
    silence,
)
from langgraph_checkpoint_http._clients.http1 import AnswerReader, Head

_READ_BYTES = 256 * 1024


class SocketClient:
    """See SyncClient."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None) -> None:
        self.timeouts = DEFAULT_TIMEOUTS
        self.where = address.origin
        self.is_closed = False
        self._address = address
        self._head = Head(address)
        self._tls = tls
        # The last one used comes first, so that the others may expire.
        self._idle: deque[_Connection] = deque()

    def send(self, attempt: Attempt, settle: Settle[T]) -> T:
        connection = None if attempt.is_fresh else self._kept()
        if connection is None:
            connection = _Connection(self._connect(attempt))
        try:
            answer = connection.exchange(self._head.of(attempt), attempt)
        except BaseException:
            connection.close()
            raise
        try:
            return settle(answer)
        except Mismatch:
            connection.is_reusable = False
            raise
        finally:
            self._put_back(connection)

    def close(self) -> None:
        self.is_closed = True
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> _Connection | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.is_usable():
                return connection
            connection.close()

    def _put_back(self, connection: _Connection) -> None:
        if not connection.is_reusable or self.is_closed:
            connection.close()
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        self._close_expired()
        if self.is_closed:  # Meanwhile.
            self.close()

    def _close_expired(self) -> None:
        """Those of a burst are not asked for again, so nobody else would notice that the service has closed them."""
        while self._idle:
            try:
                oldest = self._idle.popleft()
            except IndexError:  # Another thread has taken it.
                return
            if not oldest.is_expired:
                self._idle.appendleft(oldest)
                return
            oldest.close()

    def _connect(self, attempt: Attempt) -> socket.socket:
        address = self._address
        allowed = attempt.limit(attempt.timeouts.connect)
        ends = time.monotonic() + allowed
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            for left in range(len(found), 0, -1):
                # Those that come after it have their share, if it is silent.
                limit = max(ends - time.monotonic(), 0.001) / left
                try:
                    return self._open(found[-left], limit, attempt)
                except OSError as error:
                    if left == 1 or isinstance(error, ssl.SSLError):
                        raise
            raise OSError(f"{address.host} has no address")
        except TimeoutError as error:
            raise silence("ConnectTimeout", allowed) from error
        except OSError as error:
            raise ConnectionFault("ConnectError", str(error), suspects_address=True) from error

    def _open(self, found: Any, limit: float, attempt: Attempt) -> socket.socket:
        """`found` is what getaddrinfo says of an address."""
        family, kind, protocol, _, target = found
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(limit)
            sock.connect(target)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return sock
            sock.settimeout(attempt.limit(attempt.timeouts.connect))
            return self._tls.wrap_socket(sock, server_hostname=self._address.host)
        except BaseException:
            sock.close()
            raise


class _Connection:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._timeout = sock.gettimeout()
        self.is_reusable = False
        self.idle_since = 0.0

    def exchange(self, head: bytes, attempt: Attempt) -> Answer:
        """One answer. Raises ConnectionFault, after which the connection must be closed."""
        reader = AnswerReader()
        broken = self._send(head, attempt)
        try:
            while not reader.is_whole:
                limit = attempt.limit(attempt.timeouts.read)
                self._wait_at_most(limit)
                data = self._socket.recv(_READ_BYTES)
                if data:
                    reader.feed(data)
                else:
                    reader.end()
                if attempt.is_over:
                    raise deadline_fault()
        except TimeoutError as error:
            raise deadline_fault() if attempt.is_over else silence("ReadTimeout", limit) from error
        except OSError as error:
            raise ConnectionFault("ReadError", str(broken or error)) from broken or error
        self.is_reusable = reader.is_reusable and broken is None
        return reader.answer()

    def _send(self, head: bytes, attempt: Attempt) -> OSError | None:
        """The error that ended it early: a service that refuses a body answers before it has read all of it."""
        content = attempt.content
        pieces = [head + content] if len(content) <= JOINED_BYTES else [head, content]
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    limit = attempt.limit(attempt.timeouts.write)
                    self._wait_at_most(limit)
                    view = view[self._socket.send(view) :]
        except TimeoutError as error:
            raise deadline_fault() if attempt.is_over else silence("WriteTimeout", limit) from error
        except OSError as error:
            return error
        return None

    def _wait_at_most(self, seconds: float) -> None:
        if self._timeout != seconds:  # Setting it is a system call.
            self._socket.settimeout(seconds)
            self._timeout = seconds

    def is_usable(self) -> bool:
        """Whether it is neither too old nor closed by the other side: what comes while it is idle is its end."""
        return not self.is_expired and not _is_readable(self._socket)

    @property
    def is_expired(self) -> bool:
        return time.monotonic() - self.idle_since >= KEPT_SECONDS

    def close(self) -> None:
        self._socket.close()


if sys.platform == "win32":

    def _is_readable(sock: socket.socket) -> bool:
        return bool(select.select([sock], [], [], 0)[0])

else:

    def _is_readable(sock: socket.socket) -> bool:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
