"""What the saver does when the network or the service does not do its part."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from conftest import Service, free_port
from front import Fault, front_of
from graphs import DELTA, SCENARIOS, Run, Scenario
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_checkpoint_http import (
    CheckpointBackendError,
    CheckpointProblemError,
    CheckpointUnavailableError,
    HttpCheckpointSaver,
)
from langgraph_checkpoint_http._clients.attempt import ConnectionFault

CONFIG: Any = {"configurable": {"thread_id": "faults", "checkpoint_ns": ""}}
BOTH = pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])


async def get(saver: HttpCheckpointSaver, synchronous: bool) -> Any:
    return saver.get_tuple(CONFIG) if synchronous else await saver.aget_tuple(CONFIG)


def every_third_is_dropped(number: int) -> Fault | None:
    # Half of them after the service has done what it was asked.
    return Fault("drop", after=number % 2 == 0) if number % 3 == 0 else None


def some_get_503(number: int) -> Fault | None:
    return Fault("status", 503, {"retry-after": "0"}, after=number % 2 == 0) if number % 4 == 2 else None


def some_hang(number: int) -> Fault | None:
    return Fault("hang", after=number % 2 == 0) if number % 11 == 5 else None


@BOTH
@pytest.mark.parametrize("plan", [every_third_is_dropped, some_get_503, some_hang], ids=lambda plan: plan.__name__)
@pytest.mark.parametrize("scenario", [*SCENARIOS, DELTA], ids=lambda scenario: scenario.name)
async def test_a_graph_ends_right(
    service: Service,
    thread_id: str,
    scenario: Scenario,
    plan: Callable[[int], Fault | None],
    synchronous: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenario.skip_where_impossible(synchronous=synchronous)
    monkeypatch.setattr("langgraph_checkpoint_http._call._FIRST_PAUSE_SECONDS", 0.01)
    memory = Run(scenario.build, InMemorySaver(), thread_id, synchronous=synchronous)
    await scenario.play(memory)
    with front_of(service.url, plan) as front:
        async with HttpCheckpointSaver(front.url, timeout=0.5) as saver:
            run = Run(scenario.build, saver, thread_id, synchronous=synchronous)
            await scenario.play(run)
            assert await run.result() == await memory.result()
        assert any(plan(number) for number in range(1, len(front.seen) + 1))


@BOTH
@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
async def test_these_are_sent_again(service: Service, status: int, synchronous: bool) -> None:
    with front_of(service.url, lambda number: Fault("status", status) if number < 3 else None) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            assert await get(saver, synchronous) is None
        assert len(front.seen) == 3
        assert len({seen.headers["x-request-id"] for seen in front.seen}) == 1


@BOTH
@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 413, 415, 422, 500, 501])
async def test_these_are_not(service: Service, status: int, synchronous: bool) -> None:
    with front_of(service.url, lambda number: Fault("status", status)) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            with pytest.raises(CheckpointProblemError) as raised:
                await get(saver, synchronous)
        assert raised.value.status == status
        assert raised.value.type == "about:blank"
        assert len(front.seen) == 1


@BOTH
@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_honoured(service: Service, form: str, synchronous: bool) -> None:
    wait = 1 if form == "seconds" else 2

    def plan(number: int) -> Fault | None:
        date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=wait), usegmt=True)
        return Fault("status", 503, {"retry-after": str(wait) if form == "seconds" else date}) if number == 1 else None

    with front_of(service.url, plan) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            await get(saver, synchronous)
        waited = front.seen[1].at - front.seen[0].at
        # A date has no fractions of a second.
        assert 1 <= waited < wait + 1


@BOTH
async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(service: Service, synchronous: bool) -> None:
    with front_of(service.url, lambda number: Fault("status", 429, {"retry-after": "60"})) as front:
        async with HttpCheckpointSaver(front.url, deadline=5) as saver:
            began = time.monotonic()
            with pytest.raises(CheckpointProblemError):
                await get(saver, synchronous)
            assert time.monotonic() - began < 4


@BOTH
async def test_pauses_grow_and_are_random(synchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[tuple[float, float]] = []
    pauses: list[float] = []

    def longest(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    async def async_sleep(seconds: float) -> None:
        pauses.append(seconds)

    refuse = httpx.MockTransport(lambda request: httpx.Response(503) if len(pauses) < 9 else httpx.Response(500))
    saver = HttpCheckpointSaver(
        "http://service", client=httpx.Client(transport=refuse), async_client=httpx.AsyncClient(transport=refuse)
    )
    with monkeypatch.context() as patch:
        patch.setattr(random, "uniform", longest)
        patch.setattr(time, "sleep", pauses.append)
        patch.setattr(asyncio, "sleep", async_sleep)
        with pytest.raises(CheckpointProblemError, match="attempts: 10"):
            await get(saver, synchronous)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert bounds == [(0, pause) for pause in pauses]


@BOTH
@pytest.mark.parametrize("kind", ["hang", "drip", "drop", "status"])
async def test_the_deadline_is_for_the_whole_call(service: Service, kind: str, synchronous: bool) -> None:
    with front_of(service.url, lambda number: Fault(kind)) as front:
        async with HttpCheckpointSaver(front.url, timeout=0.4, deadline=1) as saver:
            began = time.monotonic()
            with pytest.raises(CheckpointBackendError) as raised:
                await get(saver, synchronous)
            assert time.monotonic() - began < 10
        if kind == "status":
            assert isinstance(raised.value, CheckpointProblemError)
        else:
            assert isinstance(raised.value, CheckpointUnavailableError)
            assert isinstance(raised.value.__cause__, (OSError, ConnectionFault))
        # The deadline may end the last one on its way.
        assert raised.value.attempts - len(front.seen) in (0, 1)


@BOTH
async def test_nobody_listens(synchronous: bool) -> None:
    origin = f"127.0.0.1:{free_port()}"
    async with HttpCheckpointSaver(f"http://user:secret@{origin}/path", deadline=0.5) as saver:
        with pytest.raises(CheckpointUnavailableError, match=r"get-tuple of thread 'faults': ConnectError") as raised:
            await get(saver, synchronous)
    assert raised.value.attempts > 1
    assert f"at http://{origin} " in str(raised.value)
    assert "secret" not in str(raised.value)


@BOTH
@pytest.mark.parametrize("key", ["one\ntwo", "caf\u00e9", "one\x00two"], ids=ascii)
async def test_what_no_header_can_hold_is_refused_and_not_quoted(key: str, synchronous: bool) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ValueError, match='"x-agent-api-key"') as given:
        HttpCheckpointSaver(url, api_key=key)
    with pytest.raises(ValueError, match='"x-token"') as of_headers:
        HttpCheckpointSaver(url, headers={"X-Token": key})
    async with HttpCheckpointSaver(url, api_key=lambda: key) as saver:
        with pytest.raises(ValueError, match='"x-agent-api-key"') as asked:
            await get(saver, synchronous)
    for raised in (given, of_headers, asked):
        assert key not in str(raised.value)
        assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    "name", ["x y", "", "x:", "näme", "a\r\nb", "Content-Length", "transfer-encoding", "Connection"]
)
def test_a_header_that_would_break_a_request_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be set"):
        HttpCheckpointSaver("http://service", headers={name: "1"})


def test_a_header_that_is_no_text_is_refused() -> None:
    headers: Any = {"x-team": 7}
    with pytest.raises(TypeError, match="x-team"):
        HttpCheckpointSaver("http://service", headers=headers)


@BOTH
async def test_a_key_may_have_the_newline_of_its_file(service: Service, synchronous: bool) -> None:
    key = service.key or "ckpt_key"
    with front_of(service.url) as front:
        for api_key in (f" {key}\r\n", lambda: f"{key}\n"):
            async with HttpCheckpointSaver(front.url, api_key=api_key) as saver:
                assert await get(saver, synchronous) is None
        assert [seen.headers["x-agent-api-key"] for seen in front.seen] == [key] * 2


@BOTH
async def test_what_no_repetition_will_mend_is_not_repeated(service: Service, synchronous: bool) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        try:
            raise ssl.SSLCertVerificationError("self-signed certificate")
        except ssl.SSLError as error:
            raise httpx.ConnectError("self-signed certificate") from error

    untrusted = httpx.MockTransport(refuse)
    clients: Any = {
        "client": httpx.Client(transport=untrusted),
        "async_client": httpx.AsyncClient(transport=untrusted),
    }
    with front_of(service.url) as front:
        async with HttpCheckpointSaver(front.url, deadline=5, **clients) as saver:
            with pytest.raises(CheckpointUnavailableError, match="attempts: 1"):
                await get(saver, synchronous)


@BOTH
async def test_an_answer_that_is_not_json(service: Service, synchronous: bool) -> None:
    with front_of(service.url, lambda number: Fault("status", 200, body=b"<html>")) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            with pytest.raises(CheckpointBackendError, match="not JSON"):
                await get(saver, synchronous)


@BOTH
async def test_a_refusal_says_what_where_and_which(service: Service, synchronous: bool) -> None:
    async with HttpCheckpointSaver(service.url) as saver:
        config: Any = {"configurable": {"thread_id": "x" * 3000, "checkpoint_ns": "", "checkpoint_id": "a"}}
        with pytest.raises(CheckpointProblemError) as raised:
            if synchronous:
                saver.put_writes(config, [("channel", 1)], "task")
            else:
                await saver.aput_writes(config, [("channel", 1)], "task")
    error = raised.value
    assert (error.operation, error.thread_id, error.status) == ("put-writes", "x" * 3000, 422)
    assert error.type == "/problems/invalid-request"
    assert error.errors and error.errors[0]["pointer"]
    assert error.request_id
    for part in ("put-writes", "xxx", "422", error.type, error.request_id, error.errors[0]["detail"]):
        assert part in str(error)


@pytest.mark.parametrize("moment", ["answer", "pause"])
async def test_cancellation_is_prompt_and_closes_the_connection(service: Service, moment: str) -> None:
    fault = Fault("hang") if moment == "answer" else Fault("status", 503, {"retry-after": "20"})
    with front_of(service.url, lambda number: fault) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            call = asyncio.create_task(saver.aget_tuple(CONFIG))
            assert await asyncio.to_thread(front.asked.wait, 5)
            await asyncio.sleep(0.1)
            began = time.monotonic()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert time.monotonic() - began < 10
            if moment == "answer":
                assert await asyncio.to_thread(front.gone.wait, 2)
            assert len(front.seen) == 1


async def test_a_timeout_of_the_caller_is_the_callers(service: Service) -> None:
    with front_of(service.url, lambda number: Fault("hang")) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(saver.aget_tuple(CONFIG), 0.2)


@BOTH
async def test_large_bodies_are_gzipped_when_that_pays(service: Service, thread_id: str, synchronous: bool) -> None:
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": "a"}}
    values = {
        "text": ["The quick brown fox jumps over the lazy dog. " * 4000],
        "noise": random.Random(0).randbytes(200_000),
        "small": "The quick brown fox. " * 10,
    }
    with front_of(service.url) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            for channel, value in values.items():
                if synchronous:
                    saver.put_writes(config, [(channel, value)], channel)
                else:
                    await saver.aput_writes(config, [(channel, value)], channel)
        text, noise, small = front.seen
    assert text.headers["content-encoding"] == "gzip"
    assert text.size * 3 < len(json.dumps(text.body))
    assert "content-encoding" not in noise.headers
    assert "content-encoding" not in small.headers
    # The service has read all three.
    async with HttpCheckpointSaver(service.url) as saver:
        checkpoint: Any = {"v": 4, "id": "a", "channel_values": {}, "channel_versions": {}}
        await saver.aput({"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}, checkpoint, {}, {})
        stored = await saver.aget_tuple(config)
    assert stored is not None and stored.pending_writes is not None
    assert {channel: value for _, channel, value in stored.pending_writes} == values
