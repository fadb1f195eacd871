"""What is said of a wrong address or a service that is away, how soon, and what is logged."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import pickle
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from conftest import Service, free_port
from front import Fault, front_of
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from peer import Peer, peer

from langgraph_checkpoint_http import (
    CheckpointProblemError,
    CheckpointUnavailableError,
    HttpCheckpointSaver,
    create_checkpointer,
)

BOTH = pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])
CONFIG: Any = {"configurable": {"thread_id": "troubles", "checkpoint_ns": ""}}
LOGGER = "langgraph_checkpoint_http"


async def get(saver: HttpCheckpointSaver, synchronous: bool) -> Any:
    return saver.get_tuple(CONFIG) if synchronous else await saver.aget_tuple(CONFIG)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifteen seconds are one."""
    monkeypatch.setattr("langgraph_checkpoint_http._call._FIRST_CONNECTION_SECONDS", 1.0)
    monkeypatch.setattr("langgraph_checkpoint_http._call._MAX_PAUSE_SECONDS", 0.2)


@BOTH
@pytest.mark.parametrize("kind", ["refused", "unknown", "no TLS", "TLS"])
async def test_an_address_where_nothing_has_answered_fails_soon(
    service: Service, synchronous: bool, kind: str, impatient: None
) -> None:
    tls_alert = Fault("raw", body=b"\x15\x03\x01\x00\x02\x02\x46")
    with front_of(service.url, lambda number: tls_alert) as front:
        url = {
            "refused": f"http://127.0.0.1:{free_port()}",
            "unknown": "http://no-such-host.invalid:5003",
            "no TLS": front.url.replace("http:", "https:"),
            "TLS": front.url,
        }[kind]
        async with HttpCheckpointSaver(url) as saver:
            began = time.monotonic()
            with pytest.raises(CheckpointUnavailableError) as raised:
                await get(saver, synchronous)
            assert 0.5 < time.monotonic() - began < 10
    assert f"at {url} where nothing has answered yet: check base_url" in str(raised.value)
    assert raised.value.attempts > 1
    assert 0.5 < raised.value.seconds < 10
    assert f"attempts: {raised.value.attempts} in {raised.value.seconds:.1f} s" in str(raised.value)


@BOTH
@pytest.mark.parametrize("after", ["an answer", "a refusal"])
async def test_a_service_that_has_answered_is_waited_for(synchronous: bool, after: str, impatient: None) -> None:
    """Such as one that is started again: until the deadline, and without doubts about its address."""
    status = {"an answer": b"200 OK", "a refusal": b"401 Unauthorized"}[after]

    def serve(server: Peer, connection: socket.socket) -> None:
        server.request(connection)
        connection.sendall(b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: 4\r\n\r\nnull" % status)

    with peer(serve) as server:
        async with HttpCheckpointSaver(f"http://127.0.0.1:{server.port}", deadline=2.5) as saver:
            with contextlib.suppress(CheckpointProblemError):
                await get(saver, synchronous)
            server.close()
            with pytest.raises(CheckpointUnavailableError, match="Errno 111") as raised:
                await get(saver, synchronous)
    assert raised.value.seconds > 1.5
    assert "nothing has answered" not in str(raised.value)


@BOTH
async def test_a_service_that_starts_beside_its_agents_is_found(synchronous: bool) -> None:
    port = free_port()

    async def serve_later() -> None:
        await asyncio.sleep(1)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nnull")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", port):
            await asyncio.sleep(6)

    server = asyncio.create_task(serve_later())
    async with HttpCheckpointSaver(f"http://127.0.0.1:{port}") as saver:
        call = asyncio.to_thread(saver.get_tuple, CONFIG) if synchronous else saver.aget_tuple(CONFIG)
        assert await asyncio.wait_for(call, 10) is None
    server.cancel()


@BOTH
async def test_the_first_repetition_is_logged_once(
    service: Service, synchronous: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langgraph_checkpoint_http._call._FIRST_PAUSE_SECONDS", 0.01)
    unavailable = Fault("status", 503, {"content-type": "application/problem+json"}, b'{"title": "Database away"}')
    with front_of(service.url, lambda number: unavailable if number % 3 else None) as front:
        async with HttpCheckpointSaver(front.url, "s3cret", headers={"x-token": "s3cret"}) as saver:
            with caplog.at_level(logging.DEBUG, LOGGER):
                for _ in range(4):
                    assert await get(saver, synchronous) is None
                [record] = caplog.records
                assert (record.name, record.levelno) == (LOGGER, logging.WARNING)
                message = record.getMessage()
                for part in ("get-tuple of thread 'troubles'", "503", "Database away", "attempts: 1", "for 120 s"):
                    assert part in message
                assert "s3cret" not in message
                # Troubles that last are logged again.
                monkeypatch.setattr("langgraph_checkpoint_http._call._REPORT_SECONDS", 0.0)
                await get(saver, synchronous)
                assert len(caplog.records) == 3


@BOTH
async def test_what_succeeds_at_once_logs_nothing(
    service: Service, synchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), front_of(service.url) as front:
        caplog.clear()
        async with HttpCheckpointSaver(front.url) as saver:
            await get(saver, synchronous)
    of_front = ("httpx", "httpcore", "asyncio")
    assert [record for record in caplog.records if not record.name.startswith(of_front)] == []


@BOTH
async def test_an_attempt_that_the_deadline_ends_does_not_hide_the_one_before(
    service: Service, synchronous: bool
) -> None:
    plan = {1: Fault("status", 503, body=b"")}
    with front_of(service.url, lambda number: plan.get(number, Fault("hang"))) as front:
        async with HttpCheckpointSaver(front.url, deadline=0.7) as saver:
            with pytest.raises(CheckpointUnavailableError, match=r"deadline.*; the attempt before: 503 about:blank"):
                await get(saver, synchronous)


async def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECKPOINT_URL", "http://environment")
    monkeypatch.setenv("CHECKPOINT_API_KEY", "of-environment")
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(204)

    for options in ({"api_key": "given"}, {"base_url": "http://given"}, {"base_url": "http://given", "api_key": "k"}):
        client = httpx.Client(transport=httpx.MockTransport(answer))
        for saver in (
            HttpCheckpointSaver.from_env(client=client, **options),
            await create_checkpointer(client=client, **options),
        ):
            saver.delete_thread("t")
    assert [(request.url.host, request.headers.get("x-agent-api-key")) for request in seen] == [
        *[("environment", "given")] * 2,
        *[("given", None)] * 2,
        *[("given", "k")] * 2,
    ]


PICKLED = """
import pickle, sys
saver = pickle.loads(sys.stdin.buffer.read())
item = saver.get_tuple({"configurable": {"thread_id": sys.argv[1], "checkpoint_ns": ""}})
print(type(saver).__name__, item.metadata["owner"])
"""


def test_a_pickle_opens_connections_of_its_own(service: Service, thread_id: str) -> None:
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    checkpoint: Any = {"v": 4, "id": "a", "channel_values": {}, "channel_versions": {}}
    with front_of(service.url) as front, HttpCheckpointSaver(front.url, "k", headers={"x-team": "blue"}) as saver:
        saver.put(config, checkpoint, {"owner": thread_id}, {})  # type: ignore[typeddict-unknown-key]
        run = subprocess.run(
            [sys.executable, "-c", PICKLED, thread_id], input=pickle.dumps(saver), capture_output=True, timeout=60
        )
        assert run.stdout.decode() == f"HttpCheckpointSaver {thread_id}\n", run.stderr
        assert saver.get_tuple(config) is not None
        assert len(front.ports) == 2
        assert {seen.headers["x-team"] for seen in front.seen} == {"blue"}
        assert {seen.headers["x-agent-api-key"] for seen in front.seen} == {"k"}


def test_a_pickle_of_a_closed_one_is_open(service: Service) -> None:
    with HttpCheckpointSaver(service.url) as saver:
        pass
    with pickle.loads(pickle.dumps(saver)) as loaded:
        assert loaded.get_tuple(CONFIG) is None


def test_what_cannot_be_pickled_says_why() -> None:
    client = httpx.Client()
    for options in ({"client": client}, {"async_client": httpx.AsyncClient()}):
        with pytest.raises(TypeError, match="functions that make one"):
            pickle.dumps(HttpCheckpointSaver("http://service", **options))  # type: ignore[arg-type]


def test_copies_share_connections_and_keep_their_serializer(service: Service) -> None:
    class Saver(HttpCheckpointSaver):
        pass

    serde = JsonPlusSerializer(allowed_msgpack_modules=None)
    for options in ({}, {"serde": serde}):
        with Saver(service.url, **options) as saver:  # type: ignore[arg-type]
            saver.get_tuple(CONFIG)
            for copied in (copy.copy(saver), *([copy.deepcopy(saver)] if not options else [])):
                assert type(copied) is Saver
                assert copied._http is saver._http
                assert copied.serde is saver.serde


@pytest.mark.parametrize("options", [{}, {"base_url": None}, {"base_url": ""}])
def test_a_missing_address_is_named(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((TypeError, ValueError), match="base_url"):
        HttpCheckpointSaver(**options)
    for name in ("CHECKPOINT_URL", "AGENTEX_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    if not options.get("base_url", "absent"):
        return
    with pytest.raises(ValueError, match="CHECKPOINT_URL or AGENTEX_BASE_URL must be set"):
        HttpCheckpointSaver.from_env()


def test_a_name_that_resolves_to_several_addresses_is_tried_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that refuses is no reason to give up while the next one serves."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.9", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nnull")
        writer.close()

    async def main() -> None:
        url = f"http://checkpoints.test:{port}"
        async with await asyncio.start_server(serve, sock=listener), HttpCheckpointSaver(url, deadline=3) as saver:
            assert await saver.aget_tuple(CONFIG) is None
            assert await asyncio.to_thread(saver.get_tuple, CONFIG) is None

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="a full queue of connections is silent on Linux")
@BOTH
async def test_a_deadline_is_kept_for_a_host_of_many_silent_addresses(
    synchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = socket.getaddrinfo

    def found(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host != "many":
            return known(host, port, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in range(1, 5)]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with contextlib.ExitStack() as stack:
        port = 0
        for n in range(1, 5):
            listener = stack.enter_context(socket.socket())
            listener.bind((f"127.0.0.{n}", port))
            listener.listen(0)
            port = listener.getsockname()[1]
            for _ in range(3):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex((f"127.0.0.{n}", port))
        async with HttpCheckpointSaver(f"http://many:{port}", deadline=1) as saver:
            began = time.monotonic()
            with pytest.raises(CheckpointUnavailableError, match="ConnectTimeout"):
                await get(saver, synchronous)
            assert time.monotonic() - began < 3


@pytest.mark.parametrize("deadline", [float("inf"), 1e10])
async def test_a_deadline_may_be_as_long_as_one_likes(service: Service, deadline: float) -> None:
    async with HttpCheckpointSaver(service.url, api_key=service.key, deadline=deadline) as saver:
        # More than may be under way at once.
        calls = [asyncio.to_thread(saver.get_tuple, CONFIG) for _ in range(80)]
        with ThreadPoolExecutor(80) as threads:
            asyncio.get_running_loop().set_default_executor(threads)
            assert await asyncio.gather(*calls) == [None] * 80
        assert await saver.aget_tuple(CONFIG) is None


@BOTH
async def test_a_problem_of_another_shape_is_repeated_and_named(service: Service, synchronous: bool) -> None:
    body = b'{"detail": [{"loc": ["header"], "msg": "field required"}]}'
    answers = {
        1: Fault("status", 503, {"content-type": "application/json"}, body),
        3: Fault("status", 422, {"content-type": "application/json"}, body, echo=True),
    }
    with front_of(service.url, answers.get) as front:
        async with HttpCheckpointSaver(front.url, api_key=service.key) as saver:
            assert await asyncio.to_thread(saver.get_tuple, CONFIG) is None
            with pytest.raises(CheckpointProblemError, match="field required") as caught:
                await get(saver, synchronous)
    assert caught.value.status == 422
