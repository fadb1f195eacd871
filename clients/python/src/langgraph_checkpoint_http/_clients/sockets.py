"""Attempts sent over sockets that block, from any number of threads."""

from __future__ import annotations

import select
import socket
import ssl
import sys
import time
import weakref
from typing import Any

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
)
from langgraph_checkpoint_http._clients.http1 import AnswerReader, Head
from langgraph_checkpoint_http._clients.kept import Kept

_READ_BYTES = 256 * 1024


class SocketClient:
    """See SyncClient."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None) -> None:
        self.timeouts = DEFAULT_TIMEOUTS
        self.where = address.origin
        self._address = address
        self._head = Head(address)
        self._tls = tls
        self._kept: Kept[_Connection] = Kept()
        # A checkpointer that nobody closes, such as one that lives as long as the process, is no fault of its owner's.
        weakref.finalize(self, self._kept.abort)

    def send(self, attempt: Attempt, settle: Settle[T]) -> T:
        connection = None if attempt.is_fresh else self._kept.take()
        if connection is None:
            connection = _Connection(self._connect(attempt))
        try:
            answer = connection.exchange(self._head.of(attempt), attempt)
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

    def close(self) -> None:
        self._kept.abort()

    def _connect(self, attempt: Attempt) -> socket.socket:
        address = self._address
        allowed = attempt.limit(attempt.timeouts.connect)
        ends = time.monotonic() + allowed
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            for one, seconds, is_last in shares(found, ends):
                try:
                    return self._open(one, seconds, attempt)
                except OSError as error:
                    if is_last or isinstance(error, ssl.SSLError):
                        raise
            raise OSError(f"{address.host} has no address")
        except TimeoutError as error:
            raise silence("ConnectTimeout", allowed) from error
        except OSError as error:
            raise ConnectionFault("ConnectError", str(error), suspects_address=True) from error

    def _open(self, found: Any, seconds: float, attempt: Attempt) -> socket.socket:
        """`found` is what getaddrinfo says of an address."""
        family, kind, protocol, _, target = found
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(seconds)
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
        """One answer. Raises ConnectionFault, after which the connection must be aborted."""
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

    @property
    def is_open(self) -> bool:
        return not _is_readable(self._socket)

    def abort(self) -> None:
        self._socket.close()


if sys.platform == "win32":

    def _is_readable(sock: socket.socket) -> bool:
        return bool(select.select([sock], [], [], 0)[0])

else:

    def _is_readable(sock: socket.socket) -> bool:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
