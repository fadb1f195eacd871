"""The connections of the checkpointer: when they end, TLS, proxies, loops that end, and bodies that are not taken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Service, free_port
from front import front_of
from peer import NOTHING, Peer, answer_all, answer_one, peer

from langgraph_checkpoint_http import CheckpointProblemError, CheckpointUnavailableError, HttpCheckpointSaver
from langgraph_checkpoint_http._clients.address import Address
from langgraph_checkpoint_http._clients.environment import proxy_for

BOTH = pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])
CONFIG: Any = {"configurable": {"thread_id": "connections", "checkpoint_ns": ""}}
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def get(saver: HttpCheckpointSaver, synchronous: bool) -> Any:
    if synchronous:  # Beside the loop, which may have a server to run.
        return await asyncio.to_thread(saver.get_tuple, CONFIG)
    return await saver.aget_tuple(CONFIG)


def repetitions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "langgraph_checkpoint_http"]


@BOTH
async def test_a_connection_that_was_closed_while_idle_is_not_used(
    synchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with peer(answer_one) as server:
        async with HttpCheckpointSaver(f"http://127.0.0.1:{server.port}", deadline=5) as saver:
            for _ in range(3):
                assert await get(saver, synchronous) is None
                await asyncio.sleep(0.05)
        assert (len(server.heads), server.connections) == (3, 3)
    assert repetitions(caplog) == []


@BOTH
async def test_connections_of_a_burst_are_closed_later(synchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langgraph_checkpoint_http._clients.kept.KEPT_SECONDS", 0.5)
    together = threading.Barrier(5)
    ended: list[int] = []

    def serve(server: Peer, connection: socket.socket) -> None:
        server.request(connection)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(5)
        connection.sendall(NOTHING)
        answer_all(server, connection)
        ended.append(1)

    with peer(serve) as server:
        async with HttpCheckpointSaver(f"http://127.0.0.1:{server.port}", deadline=5) as saver:
            await asyncio.gather(*(get(saver, synchronous) for _ in range(5)))
            ends = time.monotonic() + 5
            while len(ended) < 4 and time.monotonic() < ends:  # One is enough for these.
                await get(saver, synchronous)
                await asyncio.sleep(0.02)
            assert (len(ended), server.connections) == (4, 5)


@BOTH
async def test_a_connection_that_says_something_unasked_is_not_used(synchronous: bool) -> None:
    def talk(server: Peer, connection: socket.socket) -> None:
        answer_one(server, connection)
        time.sleep(0.02)  # In a packet of its own.
        connection.sendall(NOTHING)
        server.done.wait(5)

    with peer(talk) as server:
        async with HttpCheckpointSaver(f"http://127.0.0.1:{server.port}", deadline=5) as saver:
            for _ in range(3):
                assert await get(saver, synchronous) is None
                await asyncio.sleep(0.1)
        assert server.connections == 3


@BOTH
async def test_a_connection_with_the_answer_of_another_request_is_closed(synchronous: bool) -> None:
    closed = threading.Event()

    def mix_up(server: Peer, connection: socket.socket) -> None:
        server.request(connection)
        if server.connections > 1:
            connection.sendall(NOTHING)
            server.done.wait(5)
            return
        connection.sendall(NOTHING.replace(b"\r\n\r\n", b"\r\nx-request-id: another\r\n\r\n"))
        connection.settimeout(2)
        if connection.recv(1) == b"":
            closed.set()

    with peer(mix_up) as server:
        async with HttpCheckpointSaver(f"http://127.0.0.1:{server.port}", deadline=5) as saver:
            assert await get(saver, synchronous) is None
            assert await asyncio.to_thread(closed.wait, 1)


@BOTH
async def test_connections_expire(synchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with peer(answer_all) as server:
        async with HttpCheckpointSaver(f"http://127.0.0.1:{server.port}", deadline=5) as saver:
            for _ in range(3):
                await get(saver, synchronous)
            assert server.connections == 1
            monkeypatch.setattr("langgraph_checkpoint_http._clients.kept.KEPT_SECONDS", 0.05)
            await asyncio.sleep(0.1)
            await get(saver, synchronous)
            assert server.connections == 2


@BOTH
async def test_a_request_that_met_silence_is_sent_again_over_a_new_connection(synchronous: bool) -> None:
    """Whatever made one kept connection silent may have done so to the others."""
    together = threading.Barrier(3)

    def serve(server: Peer, connection: socket.socket) -> None:
        if server.connections > 3:
            answer_all(server, connection)
            return
        server.request(connection)
        together.wait(5)
        connection.sendall(NOTHING)
        server.request(connection)
        server.done.wait(10)

    with peer(serve) as server:
        async with HttpCheckpointSaver(f"http://127.0.0.1:{server.port}", timeout=0.5, deadline=10) as saver:
            await asyncio.gather(*(get(saver, synchronous) for _ in range(3)))
            assert await get(saver, synchronous) is None
        assert (len(server.heads), server.connections) == (3 + 2, 4)


def large_writes() -> list[tuple[str, Any]]:
    return [("noise", os.urandom(12_000_000))]


async def put_large(saver: HttpCheckpointSaver, synchronous: bool) -> None:
    config: Any = {"configurable": {**CONFIG["configurable"], "checkpoint_id": "a"}}
    if synchronous:
        await asyncio.to_thread(saver.put_writes, config, large_writes(), "task")
    else:
        await saver.aput_writes(config, large_writes(), "task")


@BOTH
async def test_a_body_that_nobody_takes_ends_with_the_timeout(synchronous: bool) -> None:
    with peer(lambda server, connection: server.done.wait(10)) as server:
        async with HttpCheckpointSaver(f"http://127.0.0.1:{server.port}", timeout=0.3, deadline=0.8) as saver:
            began = time.monotonic()
            with pytest.raises(CheckpointUnavailableError, match=r"nothing could be sent within 0.3 s|deadline"):
                await put_large(saver, synchronous)
            assert time.monotonic() - began < 8


@BOTH
async def test_a_body_that_is_taken_slowly_is_sent(synchronous: bool) -> None:
    def slow(server: Peer, connection: socket.socket) -> None:
        seen = 0
        while seen < 15_900_000:
            seen += len(connection.recv(100_000))
            time.sleep(0.02)
        connection.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while connection.recv(300_000):
                pass
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        server.done.wait(5)

    with peer(slow) as server:
        async with HttpCheckpointSaver(f"http://127.0.0.1:{server.port}", timeout=2, deadline=30) as saver:
            began = time.monotonic()
            await put_large(saver, synchronous)
            assert time.monotonic() - began > 2
        assert server.connections == 1


@BOTH
@pytest.mark.parametrize("end", ["stays", "closes", "resets"])
async def test_a_refusal_before_the_whole_body_is_heard(synchronous: bool, end: str) -> None:
    def refuse(server: Peer, connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n")
        if end == "closes":
            connection.shutdown(socket.SHUT_WR)
        elif end == "resets":
            time.sleep(0.2)
            return  # With bytes that nobody has read.
        with contextlib.suppress(TimeoutError):
            connection.settimeout(3)
            while connection.recv(1_000_000):
                pass

    with peer(refuse) as server:
        async with HttpCheckpointSaver(f"http://127.0.0.1:{server.port}", timeout=2, deadline=4) as saver:
            with pytest.raises(CheckpointProblemError) as raised:
                await put_large(saver, synchronous)
            assert (raised.value.status, raised.value.attempts) == (413, 1)


# --- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """The file of a private authority, and a server's context with a certificate of it for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    for command in (
        [
            *("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Test authority"),
            *("-addext", "keyUsage=critical,keyCertSign"),  # Python 3.13 asks for it.
        ],
        ["req", *key[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"],
        [
            *("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "2", "-out", "server.crt", "-extfile", "names"),
        ],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    return folder / "ca.crt", context


@BOTH
@pytest.mark.parametrize("way", ["ssl_context", "SSL_CERT_FILE", "both"])
async def test_a_private_authority(
    authority: tuple[Path, ssl.SSLContext], synchronous: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, tls = authority
    options: dict[str, Any] = {}
    if way != "ssl_context":
        monkeypatch.setenv("SSL_CERT_FILE", str(file) if way == "SSL_CERT_FILE" else "/nowhere")
    if way != "SSL_CERT_FILE":
        options = {"ssl_context": ssl.create_default_context(cafile=str(file))}
    with peer(answer_all, tls) as server:
        async with HttpCheckpointSaver(f"https://localhost:{server.port}", deadline=5, **options) as saver:
            for _ in range(3):
                assert await get(saver, synchronous) is None
        assert (len(server.heads), server.connections) == (3, 1)


@BOTH
@pytest.mark.parametrize("kind", ["unknown authority", "another name"])
async def test_a_certificate_that_does_not_fit_is_refused_at_once(
    authority: tuple[Path, ssl.SSLContext], synchronous: bool, kind: str
) -> None:
    file, tls = authority
    options = {"ssl_context": ssl.create_default_context(cafile=str(file))} if kind == "another name" else {}
    host = "127.0.0.1" if kind == "another name" else "localhost"
    with peer(answer_all, tls) as server:
        async with HttpCheckpointSaver(f"https://{host}:{server.port}", deadline=5, **options) as saver:
            with pytest.raises(CheckpointUnavailableError, match="attempts: 1") as raised:
                await get(saver, synchronous)
        assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)
        assert server.heads == []


@BOTH
async def test_a_file_of_authorities_that_is_missing_is_named(
    synchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.crt")
    saver = HttpCheckpointSaver("https://localhost:1")
    with pytest.raises(ValueError, match=r"SSL_CERT_FILE: no certificates can be read from /nowhere/ca.crt"):
        await get(saver, synchronous)


@BOTH
async def test_http_to_a_port_of_tls_says_so(synchronous: bool) -> None:
    def alert(server: Peer, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"\x15\x03\x01\x00\x02\x02\x46")

    with peer(alert) as server:
        async with HttpCheckpointSaver(f"http://127.0.0.1:{server.port}", deadline=0.5) as saver:
            with pytest.raises(CheckpointUnavailableError, match="base_url must begin with https://"):
                await get(saver, synchronous)


# --- proxies

ADDRESSES = [
    *("http://a.example", "https://a.example", "http://a.example:5003", "http://example", "http://b.a.example:5003"),
    *("http://localhost:5003", "http://127.0.0.1:5003", "http://10.1.2.3", "http://[::1]:5003", "http://xa.example"),
]
ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"http_proxy": "http://p:1"},
    {"https_proxy": "http://p:1"},
    {"all_proxy": "http://p:1"},
    {"http_proxy": "p:1", "all_proxy": "http://q:1"},
    *(
        {"all_proxy": "http://p:1", "no_proxy": no}
        for no in (
            *("*", "a.example", ".a.example", "A.EXAMPLE", "example", "a.example:5003", "a.example:1", "localhost"),
            *("127.0.0.1", "10.1.2.3,::1", " a.example , b ", "b.example", ",", "http://a.example", "all://a.example"),
            *("https://a.example", "::1", "all://*a.example"),
        )
    ),
]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
def test_proxies_are_those_of_httpx(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with httpx.Client() as client:
        for url in ADDRESSES:
            theirs = client._transport_for_url(httpx.URL(url)) is not client._transport
            assert (proxy_for(Address.of(url)) is not None) is theirs, url


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("10.0.0.0/8", "http://10.1.2.3:5003", True),
        ("10.0.0.0/8", "http://11.1.2.3:5003", False),
        ("10.0.0.0/8", "http://a.example", False),
        ("fd00::/8", "http://[fd00::7]:5003", True),
        ("fd00::/8,10.0.0.0/8", "http://[::1]:5003", False),
        ("*.svc", "http://checkpoints.svc:5003", True),
    ],
)
def test_ranges_of_addresses_need_no_proxy(
    no_proxy: str, url: str, is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for(Address.of(url)) is None) is is_direct


@BOTH
async def test_a_proxy_is_used_unless_the_host_is_excepted(synchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with peer(answer_all) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://ada:secret@127.0.0.1:{proxy.port}")
        async with HttpCheckpointSaver("http://checkpoints.internal:5003/x", deadline=5) as saver:
            assert await get(saver, synchronous) is None
        [head] = proxy.heads
        assert head.startswith(b"POST http://checkpoints.internal:5003/x/checkpoints/get-tuple HTTP/1.1\r\n")
        assert b"Basic YWRhOnNlY3JldA==" in head
        with peer(answer_all) as server:
            monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
            async with HttpCheckpointSaver(f"http://127.0.0.1:{server.port}", deadline=5) as saver:
                assert await get(saver, synchronous) is None
            assert (len(server.heads), len(proxy.heads)) == (1, 1)


@BOTH
async def test_https_goes_through_a_proxy_as_a_tunnel(
    authority: tuple[Path, ssl.SSLContext], synchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, tls = authority

    def tunnel(proxy: Peer, connection: socket.socket) -> None:
        head = proxy.request(connection)
        assert head.startswith(b"CONNECT checkpoints.internal:5003 ")
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with tls.wrap_socket(connection, server_side=True) as inner:
            answer_all(proxy, inner)

    with peer(tunnel) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        context = ssl.create_default_context(cafile=str(file))
        context.check_hostname = False
        url = "https://checkpoints.internal:5003"
        async with HttpCheckpointSaver(url, deadline=5, ssl_context=context) as saver:
            assert await get(saver, synchronous) is None
        assert len(proxy.heads) == 2


@BOTH
async def test_a_proxy_that_does_not_answer_is_named_without_its_password(
    synchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("HTTP_PROXY", f"http://ada:secret@{proxy}")
    async with HttpCheckpointSaver("http://checkpoints.internal:5003", deadline=0.5) as saver:
        with pytest.raises(
            CheckpointUnavailableError,
            match=f"at http://checkpoints\\.internal:5003 through the proxy http://{proxy} ",
        ) as raised:
            await get(saver, synchronous)
    assert "secret" not in str(raised.value)


# --- event loops

LOOPS = """
import asyncio, gc, os, sys
from langgraph_checkpoint_http import HttpCheckpointSaver
saver = HttpCheckpointSaver(sys.argv[1])
config = {"configurable": {"thread_id": "loops", "checkpoint_ns": ""}}

async def main():
    assert await asyncio.gather(*(saver.aget_tuple(config) for _ in range(3))) == [None] * 3

def files():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))

asyncio.run(main())
before = files()
for _ in range(int(sys.argv[2])):
    asyncio.run(main())
assert files() <= before, (before, files())
assert len(saver._http._own_async) <= 1
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")
def test_connections_end_with_their_loop(service: Service) -> None:
    """Without a warning of a transport that nobody closed."""
    command = [sys.executable, "-W", "error", "-c", LOOPS]
    with front_of(service.url) as front:
        run = subprocess.run([*command, front.url, "20"], capture_output=True, text=True, timeout=120)
        assert (run.returncode, run.stderr) == (0, "")
        assert len(front.ports) <= 21 * 3


CANCELLED = """
import asyncio, sys
from langgraph_checkpoint_http import HttpCheckpointSaver
from langgraph_checkpoint_http._clients import event_loop
config = {"configurable": {"thread_id": "cancelled", "checkpoint_ns": ""}}

async def cancel(saver, seconds):
    calls = [asyncio.create_task(saver.aget_tuple(config)) for _ in range(5)]
    await asyncio.sleep(seconds)
    for call in calls:
        call.cancel()
    return await asyncio.gather(*calls, return_exceptions=True)

async def main():
    for n in range(60):
        async with HttpCheckpointSaver(sys.argv[1]) as saver:
            await cancel(saver, 0.0002 * (n % 20))
            assert await saver.aget_tuple(config) is None

async def end_while_connecting(saver, seconds):
    for _ in range(5):
        asyncio.ensure_future(saver.aget_tuple(config))
    await asyncio.sleep(seconds)

async def cancel_when_connected(saver):
    call = asyncio.ensure_future(saver.aget_tuple(config))
    made = event_loop._Connection.connection_made

    def make_and_cancel(self, transport):
        made(self, transport)
        call.cancel()

    event_loop._Connection.connection_made = make_and_cancel
    await asyncio.gather(call, return_exceptions=True)
    assert call.cancelled()

asyncio.run(main())
for n in range(20):
    asyncio.run(end_while_connecting(HttpCheckpointSaver(sys.argv[1]), 0.0005 * n))
asyncio.run(cancel_when_connected(HttpCheckpointSaver(sys.argv[1])))
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "tls"])
def test_calls_that_are_cancelled_while_they_connect_lose_no_socket(
    service: Service, authority: tuple[Path, ssl.SSLContext], host: str
) -> None:
    """Nor do those that are under way when their event loop ends."""
    file, tls = authority
    command = [sys.executable, "-W", "error", "-c", CANCELLED]

    def serve(server: Peer, connection: socket.socket) -> None:
        if server.request(connection):
            connection.sendall(NOTHING)
            answer_all(server, connection)
        else:
            server.done.wait(60)  # The end of a TLS session is not confirmed.

    with peer(serve, tls if host == "tls" else None) as server:
        url = f"https://localhost:{server.port}" if host == "tls" else f"http://{host}:{server.port}"
        environment = {**os.environ, "SSL_CERT_FILE": str(file)}
        run = subprocess.run([*command, url], env=environment, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")


DROPPED = """
import asyncio, gc, sys
from langgraph_checkpoint_http import HttpCheckpointSaver
url = sys.argv[1]
config = {"configurable": {"thread_id": "dropped", "checkpoint_ns": ""}}

class Graph:
    def __init__(self):
        self.saver, self.itself = HttpCheckpointSaver(url), self

async def use(saver):
    await asyncio.gather(*(saver.aget_tuple(config) for _ in range(3)))
    saver.get_tuple(config)

async def stream(saver):
    try:
        yield
    finally:
        await use(saver)

async def use_when_the_loop_ends(saver):
    sys.stream = stream(saver)
    await anext(sys.stream)
    await use(saver)

async def use_and_drop():
    await use(HttpCheckpointSaver(url))
    await use(Graph().saver)
    gc.collect()
    await asyncio.sleep(0.1)
"""
DROPS = {
    "sync": "HttpCheckpointSaver(url).get_tuple(config); gc.collect()",
    "sync, in a cycle": "Graph().saver.get_tuple(config); gc.collect()",
    "sync, at the end": "saver = HttpCheckpointSaver(url); saver.get_tuple(config)",
    "async": "asyncio.run(use_and_drop())",
    "async, in a cycle at the end": "graph = Graph(); asyncio.run(use(graph.saver))",
    "async, used when the loop ends": "asyncio.run(use_when_the_loop_ends(HttpCheckpointSaver(url)))",
    "async, with httpx": "import httpx; asyncio.run(use(HttpCheckpointSaver(url, async_client=httpx.AsyncClient)))",
    "async, at the end": "saver = HttpCheckpointSaver(url); asyncio.run(use(saver)); asyncio.run(use(saver))",
}


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("drop", list(DROPS))
def test_a_checkpointer_that_is_dropped_without_being_closed_warns_of_nothing(
    authority: tuple[Path, ssl.SSLContext], drop: str, is_tls: bool
) -> None:
    file, tls = authority
    command = [sys.executable, "-W", "error", "-c", DROPPED + DROPS[drop]]
    with peer(answer_all, tls if is_tls else None) as server:
        url = f"{'https' if is_tls else 'http'}://localhost:{server.port}"
        environment = {**os.environ, "SSL_CERT_FILE": str(file)}
        run = subprocess.run([*command, url], env=environment, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")


IMPORTS = """
import sys
import threading
import langgraph_checkpoint_http as package
from langgraph.checkpoint.base import empty_checkpoint
config = {"configurable": {"thread_id": sys.argv[2], "checkpoint_ns": ""}}
with package.HttpCheckpointSaver(sys.argv[1]) as saver:
    saver.put(config, empty_checkpoint(), {}, {})
    assert saver.get_tuple(config) is not None
print([name for name in ("httpx", "httpcore", "aiohttp") if name in sys.modules])
"""


def test_httpx_is_not_loaded_unless_it_is_needed(front_url: str, thread_id: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", IMPORTS, front_url, thread_id], capture_output=True, text=True, timeout=60
    )
    assert (run.stdout, run.stderr) == ("[]\n", "")


@pytest.fixture
def front_url(service: Service) -> Iterator[str]:
    with front_of(service.url) as front:
        yield front.url


async def test_a_cancelled_call_leaves_no_answer_for_the_next(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection that a cancelled call used is closed, whether its answer is under way or not."""
    with front_of(service.url) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            await saver.aget_tuple(CONFIG)
            for delay in (0, 0.0005, 0.001, 0.002, 0.004, 0.008) * 5:
                call = asyncio.create_task(saver.aget_tuple(CONFIG))
                await asyncio.sleep(delay)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
                assert await saver.aget_tuple(CONFIG) is None
    # A mixed-up answer would have been one.
    assert repetitions(caplog) == []


@BOTH
async def test_silence_after_a_large_body_is_noticed_by_the_read_timeout(synchronous: bool) -> None:
    def take(server: Peer, connection: socket.socket) -> None:
        server.request(connection)
        server.done.wait(30)

    config: Any = {"configurable": {**CONFIG["configurable"], "checkpoint_id": "1"}}
    body = [("said", os.urandom(8 * 1024 * 1024))]
    with peer(take) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with HttpCheckpointSaver(url, timeout=httpx.Timeout(60, read=0.3), deadline=5) as saver:
            with pytest.raises(CheckpointUnavailableError) as caught:
                if synchronous:
                    await asyncio.to_thread(saver.put_writes, config, body, "task")
                else:
                    await saver.aput_writes(config, body, "task")
    assert caught.value.attempts > 1
