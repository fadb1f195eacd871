"""The reader of answers, next to h11."""

from __future__ import annotations

import gzip
import random
from typing import Any

import h11
import pytest

from langgraph_checkpoint_http._clients.address import Address
from langgraph_checkpoint_http._clients.attempt import DEFAULT_TIMEOUTS, Answer, Attempt, ConnectionFault
from langgraph_checkpoint_http._clients.http1 import AnswerReader, Head

GZIPPED = gzip.compress(b'{"a": 1}' * 1000)
NO_END = "what ends with its connection"

WHOLE: dict[str, bytes] = {
    "a length": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n" + b'{"a": 1}',
    "no content": b"HTTP/1.1 204 No Content\r\nx-request-id: 7\r\n\r\n",
    "no content of a length": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "no reason": b"HTTP/1.1 200\r\ncontent-length: 1\r\n\r\n1",
    "an empty reason": b"HTTP/1.1 200 \r\ncontent-length: 1\r\n\r\n1",
    "no headers": b"HTTP/1.1 204 No Content\r\n\r\n",
    "blanks around values": b"HTTP/1.1 200 OK\r\nX:  \t a b \t\r\nY:\r\ncontent-length:1\r\n\r\n1",
    "bytes beyond ASCII": b"HTTP/1.1 500 caf\xe9\r\nx-name: \xc3\xa9\r\ncontent-length: 2\r\n\r\n\xff\x00",
    "a header twice": b"HTTP/1.1 200 OK\r\nx-request-id: a\r\nX-Request-Id: b\r\ncontent-length: 0\r\n\r\n",
    "the same length twice": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nContent-Length: 1\r\n\r\n1",
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
    b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"3\r\nabc\r\n0A;name=value\r\n0123456789\r\n0\r\n\r\n",
    "no chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "trailers": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n\r\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n",
    "a large one": b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + bytes(range(250)) * 1200,
    "a large chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n493E0\r\n"
    + b"\r\n" * 150000
    + b"\r\n0\r\n\r\n",
    NO_END: b"HTTP/1.1 200 OK\r\n\r\nall that comes",
}


def read(data: bytes, sizes: list[int]) -> tuple[AnswerReader, Answer]:
    """The answer, when its bytes come in pieces of these sizes, again and again."""
    reader = AnswerReader()
    position = turn = 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        assert not reader.is_whole
        assert reader.feed(data[position : position + size]) is reader.is_whole
        position += size
        turn += 1
    if not reader.is_whole:
        reader.end()
    return reader, reader.answer()


def read_by_h11(data: bytes) -> tuple[int, bytes, list[tuple[bytes, bytes]], bytes]:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("host", "a"), ("content-length", "0")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    response: Any = None
    content = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            content += bytes(event.data)
        elif event is h11.NEED_DATA:
            connection.receive_data(b"")
    return response.status_code, response.reason, list(response.headers), content


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_is_read_as_h11_reads_it(name: str) -> None:
    data = WHOLE[name]
    status, reason, headers, content = read_by_h11(data)
    joined: dict[str, str] = {}
    for key, value in headers:
        text = value.decode("latin-1")
        joined[key.decode()] = f"{joined[key.decode()]}, {text}" if key.decode() in joined else text
    sizes = random.Random(0)
    cuts = [[len(data)], *([sizes.choice([1, 2, 3, 7, 50, 5000]) for _ in range(9)] for _ in range(20))]
    if len(data) < 1000:
        cuts.append([1])
    for cut in cuts:
        reader, answer = read(data, cut)
        assert (answer.status, answer.reason, bytes(answer.content)) == (status, reason.decode("latin-1"), content)
        # h11 keeps one of two lengths that agree, and makes small letters of the encoding.
        ignored = {"content-length": None, "transfer-encoding": None}
        assert {**answer.headers, **ignored} == {**joined, **ignored}
        assert reader.is_reusable is (name != NO_END)


NO_ANSWERS: dict[str, tuple[bytes, str]] = {
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "no HTTP: b'SS"),
    "HTTP/2": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", "no HTTP"),
    "HTTP/2 in words": (b"HTTP/2 200 OK\r\n\r\n", "no HTTP"),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x46", "https://"),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", "no HTTP"),
    "a status beyond all": (b"HTTP/1.1 600 OK\r\n\r\n", "no HTTP"),
    "another protocol": (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n", "101"),
    "a header without a name": (b"HTTP/1.1 200 OK\r\n: a\r\n\r\n", "headers"),
    "a header without a colon": (b"HTTP/1.1 200 OK\r\nabc\r\n\r\n", "headers"),
    "a name with a blank": (b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n1", "headers"),
    "a folded header": (b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n", "headers"),
    "a line feed alone": (b"HTTP/1.1 200 OK\r\nx: a\ncontent-length: 1\r\n\r\n1", "headers"),
    "NUL": (b"HTTP/1.1 200 OK\r\nx: a\x00\r\n\r\n", "headers"),
    "two lengths": (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n1", "content-length"),
    "a length below zero": (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "content-length"),
    "a length that int() takes": (b"HTTP/1.1 200 OK\r\ncontent-length: 1_0\r\n\r\n", "content-length"),
    "a length and chunks": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding",
    ),
    "another transfer-encoding": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", "transfer-encoding"),
    "a chunk without a size": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", "size"),
    "a chunk of a size below zero": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n", "size"),
    "a chunk that is too long": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n", "longer"),
    "a head without an end": (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000, "no HTTP"),
    "a line without an end": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1;" * 40_000, "line"),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_what_is_no_answer_is_refused(name: str, size: int) -> None:
    data, reason = NO_ANSWERS[name]
    with pytest.raises(ConnectionFault, match=reason):
        read(data, [size])


@pytest.mark.parametrize("name", [name for name in WHOLE if name != NO_END])
def test_an_answer_that_ends_early_is_refused(name: str) -> None:
    data = WHOLE[name]
    for size in {0, 1, 20, len(data) // 2, len(data) - 1}:
        with pytest.raises(ConnectionFault, match="in the middle of" if size else "without an answer"):
            read(data[:size], [1000])


@pytest.mark.parametrize("name", [name for name in WHOLE if name != NO_END])
def test_what_follows_an_answer_ends_its_connection(name: str) -> None:
    reader = AnswerReader()
    assert reader.feed(WHOLE[name] + b"HTTP/1.1 200 OK\r\n\r\n")
    assert not reader.is_reusable
    assert bytes(reader.answer().content) == read_by_h11(WHOLE[name])[3]


@pytest.mark.parametrize(
    "head", [b"HTTP/1.0 204 No Content\r\n", b"HTTP/1.1 204 No Content\r\nConnection: x, Close\r\n"]
)
def test_a_connection_that_its_server_ends_is_not_kept(head: bytes) -> None:
    reader, _ = read(head + b"\r\n", [100])
    assert not reader.is_reusable


@pytest.mark.parametrize("length", ["content-length", "transfer-encoding"])
def test_compressed_content_is_inflated(length: str) -> None:
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(GZIPPED), GZIPPED)
    framing = b"transfer-encoding: chunked\r\n\r\n" + chunk
    if length == "content-length":
        framing = b"content-length: %d\r\n\r\n%b" % (len(GZIPPED), GZIPPED)
    _, answer = read(b"HTTP/1.1 200 OK\r\ncontent-encoding: GZIP\r\n" + framing, [70])
    assert answer.content == b'{"a": 1}' * 1000


@pytest.mark.parametrize(
    ("encoding", "content", "reason"),
    [("gzip", b"no gzip", "DecodingError"), ("gzip", GZIPPED[:-9], "DecodingError"), ("br", GZIPPED, "not asked for")],
)
def test_what_cannot_be_inflated_is_refused(encoding: str, content: bytes, reason: str) -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {len(content)}\r\n\r\n".encode()
    with pytest.raises(ConnectionFault, match=reason):
        read(head + content, [100])


@pytest.mark.parametrize(
    ("url", "line", "host", "authorization"),
    [
        ("http://a", "/checkpoints/put", "a", None),
        ("http://a:80/", "/checkpoints/put", "a", None),
        ("https://a:443/b/c/", "/b/c/checkpoints/put", "a", None),
        ("http://A.example:5003", "/checkpoints/put", "a.example:5003", None),
        ("http://[::1]:5003/x", "/x/checkpoints/put", "[::1]:5003", None),
        ("http://bücher.example/é ü%20", "/%C3%A9%20%C3%BC%20/checkpoints/put", "xn--bcher-kva.example", None),
        ("http://ada:s%40crët@a", "/checkpoints/put", "a", b"Basic YWRhOnNAY3LDq3Q="),
    ],
)
def test_the_head_is_that_of_the_address(url: str, line: str, host: str, authorization: bytes | None) -> None:
    attempt = Attempt("/checkpoints/put", {"x-request-id": "7", "accept": "a/b"}, b"123", DEFAULT_TIMEOUTS, 0)
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(Head(Address.of(url)).of(attempt) + b"123")
    request: Any = connection.next_event()
    headers = dict(request.headers)
    assert (request.method, request.target.decode(), headers[b"host"].decode()) == (b"POST", line, host)
    assert (headers[b"x-request-id"], headers[b"accept"], headers[b"content-length"]) == (b"7", b"a/b", b"3")
    assert headers[b"accept-encoding"] == b"gzip"
    assert headers.get(b"authorization") == authorization


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, "must begin with http:// or https://, not None"),
        ("", "must begin with"),
        ("localhost:5003", "must begin with"),
        ("ftp://a", "must begin with"),
        ("http://", "no host"),
        ("http://:5003", "no host"),
        ("http://a:b", "no URL"),
        ("http://a:99999", "no URL"),
        ("http://[::1", "no URL"),
        ("http://a/?b=c", "query"),
        ("http://a/#b", "fragment"),
    ],
)
def test_what_is_no_address_is_refused(url: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"base_url .*{reason}"):
        Address.of(url)
