"""A server that does with each connection, byte by byte, what it is told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

NOTHING = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull"


class Peer:
    """`heads` are those of all requests."""

    def __init__(self, serve: Callable[[Peer, socket.socket], object], tls: ssl.SSLContext | None = None) -> None:
        self.heads: list[bytes] = []
        self.connections = 0
        self.done = threading.Event()
        self._serve = serve
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def request(self, connection: socket.socket) -> bytes:
        """The head of the next request, whose body is read, too; empty when there is none."""
        seen = b""
        while b"\r\n\r\n" not in seen:
            data = connection.recv(65536)
            if not data:
                return b""
            seen += data
        head, _, body = seen.partition(b"\r\n\r\n")
        self.heads.append(head)
        [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")] or [b":0"]
        left = int(length.partition(b":")[2]) - len(body)
        while left > 0:
            left -= len(connection.recv(65536))
        return head

    def close(self) -> None:
        self.done.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # Else the accept that is under way takes one more.
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                stack.callback(connection.close)
            self._serve(self, connection)


@contextlib.contextmanager
def peer(serve: Callable[[Peer, socket.socket], object], tls: ssl.SSLContext | None = None) -> Iterator[Peer]:
    server = Peer(serve, tls)
    try:
        yield server
    finally:
        server.close()


def answer_all(server: Peer, connection: socket.socket) -> None:
    while server.request(connection):
        connection.sendall(NOTHING)


def answer_one(server: Peer, connection: socket.socket) -> None:
    server.request(connection)
    connection.sendall(NOTHING)
