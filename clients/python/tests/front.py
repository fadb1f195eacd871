"""A server in front of the service that misbehaves as it is told, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

HANG_SECONDS = 30


@dataclass(frozen=True)
class Fault:
    """What is done with one request. With `after`, the service gets it all the same, and only the answer is lost."""

    kind: str  # "drop", "hang", "status", "drip", "raw" (`body` alone) or "previous": the connection's last answer
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: bool = False
    echo: bool = False  # with "status": the answer carries the id of the request


@dataclass(frozen=True)
class Seen:
    at: float
    path: str
    headers: dict[str, str]
    size: int
    body: Any
    port: int


class Front:
    def __init__(self, target: str, plan: Callable[[int], Fault | None]) -> None:
        self.seen: list[Seen] = []
        self.ports: set[int] = set()  # of all connections that brought something, also what is no request
        self.asked = threading.Event()
        self.gone = threading.Event()  # a client went away while it was kept waiting
        self._plan = plan
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._client = httpx.Client(base_url=target, timeout=60)
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                with contextlib.suppress(ConnectionError):
                    front._handle(self)

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def operations(self) -> list[str]:
        return [seen.path.removeprefix("/checkpoints/") for seen in self.seen]

    def close(self) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._client.close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        self.ports.add(handler.client_address[1])
        content = handler.rfile.read(int(handler.headers["content-length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        plain = gzip.decompress(content) if headers.get("content-encoding") == "gzip" else content
        with self._lock:
            number = len(self.seen) + 1
            self.seen.append(
                Seen(
                    time.monotonic(),
                    handler.path,
                    headers,
                    len(content),
                    json.loads(plain),
                    handler.client_address[1],
                )
            )
        self.asked.set()
        fault = self._plan(number)
        if fault is not None and fault.kind == "previous":
            previous = getattr(handler, "previous", None)
            if previous is not None:
                self._answer(handler, *previous)
                return
            fault = None  # the first of its connection
        if fault is None or fault.after:
            sent = {name: value for name, value in headers.items() if name not in ("host", "connection")}
            answer = self._client.post(handler.path, content=content, headers=sent)
            if fault is None:
                kept = {
                    name: value
                    for name, value in answer.headers.items()
                    if name in ("content-type", "x-next-cursor", "x-request-id", "retry-after")
                }
                handler.previous = (answer.status_code, kept, answer.content)  # type: ignore[attr-defined]
                self._answer(handler, answer.status_code, kept, answer.content)
                return
        if fault.kind == "drop":
            # Linger of no time: the client gets a reset, not an end.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True
            handler.connection.close()
        elif fault.kind == "status":
            echoed = {"x-request-id": headers["x-request-id"]} if fault.echo else {}
            self._answer(handler, fault.status, fault.headers | echoed, fault.body)
        elif fault.kind == "raw":
            handler.close_connection = True
            handler.wfile.write(fault.body)
        elif fault.kind == "drip":
            handler.send_response(200)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", "100000")
            handler.end_headers()
            while not self._stop.wait(0.05):
                handler.wfile.write(b" ")
        else:
            self._hang(handler)

    def _hang(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.connection.settimeout(0.05)
        ends = time.monotonic() + HANG_SECONDS
        while time.monotonic() < ends and not self._stop.is_set():
            try:
                if handler.connection.recv(1) == b"":
                    self.gone.set()
                    return
            except TimeoutError:
                pass
            except OSError:
                self.gone.set()
                return

    @staticmethod
    def _answer(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if status != 204:
            handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@contextlib.contextmanager
def front_of(target: str, plan: Callable[[int], Fault | None] = lambda number: None) -> Iterator[Front]:
    front = Front(target, plan)
    try:
        yield front
    finally:
        front.close()
