"""HTTP/1.1 as far as an operation needs it: the head of a POST, and its answer out of the bytes of a connection.

h11 or http.client would take 250 µs of CPU for each request, and aiohttp 10 MB on disk. Whatever this does not know
is a fault, so that the connection is closed and another one tried.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Generator, Mapping

from langgraph_checkpoint_http._clients.address import Address
from langgraph_checkpoint_http._clients.attempt import Answer, Attempt, ConnectionFault

_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_HEADERS = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*(?:\r\n|\Z))*")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_HEAD_MAX_BYTES = 64 * 1024
# A record of TLS: the handshake, or the alert of a server that expected one.
_TLS = (b"\x15\x03", b"\x16\x03")


class Head:
    """The head of every request to one address."""

    def __init__(self, address: Address) -> None:
        self._path = address.path
        self._headers = {"host": address.authority, "accept": "*/*", "accept-encoding": "gzip"}
        if address.authorization is not None:
            self._headers["authorization"] = address.authorization

    def of(self, attempt: Attempt) -> bytes:
        headers = {**self._headers, **attempt.headers, "content-length": len(attempt.content)}
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        return f"POST {self._path}{attempt.path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("ascii")


class AnswerReader:
    """Takes the bytes of a connection until one answer is whole."""

    def __init__(self) -> None:
        self.is_whole = False
        # Whether the connection may be used again.
        self.is_reusable = False
        # Whether anything came at all.
        self.has_begun = False
        self._head: tuple[int, str, Mapping[str, str]] | None = None
        self._seen = bytearray()
        self._content = bytearray()
        # Bytes that the content still lacks; None when it ends with the connection.
        self._left: int | None = 0
        self._chunked: Generator[None, None, None] | None = None
        self._keeps = False

    def feed(self, data: bytes) -> bool:
        """Whether the answer is whole now. Raises ConnectionFault for what is no answer."""
        self.has_begun = True
        if self._head is None:
            self._seen += data
            self._read_heads()
        elif self._chunked is not None:
            self._seen += data
            next(self._chunked, None)
        else:
            self._take_content(data)
        return self.is_whole

    def end(self) -> None:
        """The connection has ended. Raises ConnectionFault when the answer is not whole."""
        if self._left is None:
            self.is_whole = True
        if not self.is_whole:
            how = "in the middle of an answer" if self.has_begun else "without an answer"
            raise ConnectionFault("RemoteProtocolError", f"the connection was closed {how}")

    def answer(self) -> Answer:
        assert self._head is not None
        status, reason, headers = self._head
        return Answer(status, reason, headers, _inflated(self._content, headers.get("content-encoding")))

    def _read_heads(self) -> None:
        """The head, after those of interim answers (1xx)."""
        while self._head is None:
            end = self._seen.find(b"\r\n\r\n")
            if end < 0:
                if self._seen[:2] in _TLS:
                    reason = "the service speaks TLS there: base_url must begin with https://"
                    raise ConnectionFault("RemoteProtocolError", reason, suspects_address=True)
                is_http = b"HTTP/1.".startswith(self._seen[:7]) and len(self._seen) <= _HEAD_MAX_BYTES
                if not is_http and len(self._seen) > 1:
                    raise _no_answer(f"what came is no HTTP: {bytes(self._seen[:40])!r}")
                return
            head = self._seen[:end].decode("latin-1")
            del self._seen[: end + 4]
            self._read_head(*head.partition("\r\n")[::2])

    def _read_head(self, first_line: str, lines: str) -> None:
        status_line = _STATUS_LINE.fullmatch(first_line)
        if status_line is None:
            raise _no_answer(f"what came is no HTTP: {first_line[:40]!r}")
        status = int(status_line[2])
        if 100 <= status < 200 and status != 101:
            return
        if not _HEADERS.fullmatch(lines):
            raise _no_answer("headers that HTTP does not allow")
        headers: dict[str, str] = {}
        for line in lines.split("\r\n") if lines else ():
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip("\t ")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self._head = status, status_line[3] or "", headers
        connection = {token.strip().lower() for token in headers.get("connection", "").split(",")}
        self._keeps = status_line[1] == "1" and "close" not in connection
        self._begin_content(status, headers)

    def _begin_content(self, status: int, headers: Mapping[str, str]) -> None:
        encoding = headers.get("transfer-encoding")
        length = headers.get("content-length")
        if status == 101:
            raise _no_answer("101, which was not asked for")
        if status in (204, 304):
            self._left = 0
        elif encoding is not None:
            # With both, readers disagree about where the answer ends.
            if encoding.lower() != "chunked" or length is not None:
                raise _no_answer(f"a transfer-encoding that is not supported: {encoding!r}")
            self._chunked = self._chunks()
            next(self._chunked, None)
            return
        elif length is not None:
            lengths = {part.strip() for part in length.split(",")}
            if len(lengths) != 1 or not _LENGTH.fullmatch(only := lengths.pop()):
                raise _no_answer(f"a content-length that is none: {length!r}")
            self._left = int(only)
        else:
            self._left = None
        rest, self._seen = self._seen, bytearray()
        self._take_content(rest)

    def _take_content(self, data: bytes | bytearray) -> None:
        self._content += data
        if self._left is None:
            return
        self._left -= len(data)
        if self._left <= 0:
            if self._left < 0:
                self._seen += self._content[self._left :]
                del self._content[self._left :]
            self._finish()

    def _chunks(self) -> Generator[None, None, None]:
        """Stops where bytes are missing, and goes on when there are more."""
        while True:
            line = yield from self._line()
            size = _CHUNK_SIZE.fullmatch(line)
            if size is None:
                raise _no_answer(f"a chunk without a size: {line[:40]!r}")
            left = int(size[1], 16)
            if left == 0:
                break
            while left > 0:
                piece = self._seen[:left]
                del self._seen[:left]
                self._content += piece
                left -= len(piece)
                if left > 0:
                    yield
            if (yield from self._line()) != b"":
                raise _no_answer("a chunk that is longer than it says")
        while (yield from self._line()) != b"":  # The trailers.
            pass
        self._finish()

    def _line(self) -> Generator[None, None, bytes]:
        while (end := self._seen.find(b"\r\n")) < 0:
            if len(self._seen) > _HEAD_MAX_BYTES:
                raise _no_answer("a line without an end")
            yield
        line = bytes(self._seen[:end])
        del self._seen[: end + 2]
        return line

    def _finish(self) -> None:
        self.is_whole = True
        # What follows an answer is nobody's answer.
        self.is_reusable = self._keeps and not self._seen


def _no_answer(reason: str) -> ConnectionFault:
    return ConnectionFault("RemoteProtocolError", reason)


def _inflated(content: bytearray, encoding: str | None) -> bytes | bytearray:
    if encoding is None or encoding.lower() == "identity" or not content:
        return content
    if encoding.lower() not in ("gzip", "x-gzip"):
        raise _no_answer(f"a content-encoding that was not asked for: {encoding!r}")
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ConnectionFault("DecodingError", str(error)) from error
