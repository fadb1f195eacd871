"""What a caller meets beside the checkpointer interface: settings, paging, clients, closing."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any
from uuid import uuid4

import httpx
import pytest
from conftest import Service
from front import front_of
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_checkpoint_http import CheckpointProblemError, HttpCheckpointSaver, create_checkpointer
from langgraph_checkpoint_http._call import retry_after_seconds

VARIABLES = ("CHECKPOINT_URL", "CHECKPOINT_API_KEY", "AGENTEX_BASE_URL", "AGENT_API_KEY")
BOTH = pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])


def config_of(thread_id: str, ns: str = "") -> Any:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ns}}


def fill(saver: HttpCheckpointSaver, thread_id: str, count: int, size: int = 1, mark: str = "") -> list[str]:
    ids = []
    config = config_of(thread_id)
    for n in range(count):
        ids.append(str(uuid6()))
        checkpoint: Any = {
            "v": 4,
            "id": ids[-1],
            "ts": "",
            "channel_values": {"text": "x" * size},
            "channel_versions": {},
            "versions_seen": {},
        }
        config = saver.put(config, checkpoint, {"step": n, "parity": n % 2, "mark": mark}, {})  # type: ignore[typeddict-unknown-key]
    return ids[::-1]


def test_every_method_of_the_base_class_is_its_own() -> None:
    inherited = {"config_specs", "get", "aget", "with_allowlist"}  # made of the others
    for name, method in inspect.getmembers(BaseCheckpointSaver):
        if name.startswith("_") or name == "serde" or name in inherited:
            continue
        ours = getattr(HttpCheckpointSaver, name)
        assert ours is not method, name
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(method).parameters), name


@BOTH
async def test_settings_reach_the_wire(service: Service, thread_id: str, synchronous: bool) -> None:
    with front_of(service.url) as front:
        options: Any = {"headers": {"X-Team": "blue"}}
        async with HttpCheckpointSaver(front.url + "/", "secret", **options) as saver:
            await saver.aget_tuple(config_of(thread_id)) if not synchronous else saver.get_tuple(config_of(thread_id))
        [seen] = front.seen
    assert seen.path == "/checkpoints/get-tuple"
    assert seen.headers["x-agent-api-key"] == "secret"
    assert seen.headers["x-team"] == "blue"
    assert seen.headers["user-agent"].startswith("langgraph-checkpoint-http/")
    assert seen.headers["content-type"] == "application/json"


def test_a_key_is_not_shown() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        assert request.headers["x-agent-api-key"] == "s3cret"
        return httpx.Response(401, json={"type": "/problems/unauthorized", "title": "No valid key"})

    client = httpx.Client(transport=httpx.MockTransport(refuse))
    with HttpCheckpointSaver("http://service", "s3cret", client=client) as saver:
        with pytest.raises(CheckpointProblemError, match="/problems/unauthorized") as raised:
            saver.delete_thread("t")
        assert "s3cret" not in f"{raised.value} {raised.value!r} {saver!r}"


def test_the_path_of_the_base_url_is_kept() -> None:
    urls = []

    def answer(request: httpx.Request) -> httpx.Response:
        urls.append(str(request.url))
        return httpx.Response(204)

    client = httpx.Client(transport=httpx.MockTransport(answer))
    HttpCheckpointSaver("https://host/some/prefix/", client=client).delete_thread("t")
    assert urls == ["https://host/some/prefix/checkpoints/delete-thread"]


@pytest.mark.parametrize(
    ("environment", "url", "key"),
    [
        ({"CHECKPOINT_URL": "http://a", "CHECKPOINT_API_KEY": "k"}, "http://a", "k"),
        ({"AGENTEX_BASE_URL": "http://b", "AGENT_API_KEY": "l"}, "http://b", "l"),
        ({"CHECKPOINT_URL": "http://a", "AGENTEX_BASE_URL": "http://b", "AGENT_API_KEY": "l"}, "http://a", None),
        ({"CHECKPOINT_URL": "", "AGENTEX_BASE_URL": "http://b", "CHECKPOINT_API_KEY": "k"}, "http://b", None),
    ],
)
async def test_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, key: str | None
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(204)

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    async with await create_checkpointer(async_client=client) as saver:
        await saver.adelete_thread("t")
        # An agent may get its key after its start.
        for name in ("CHECKPOINT_API_KEY", "AGENT_API_KEY"):
            monkeypatch.setenv(name, "later")
        await saver.adelete_thread("t")
    assert str(seen[0].url) == f"{url}/checkpoints/delete-thread"
    assert [request.headers.get("x-agent-api-key") for request in seen] == [key, "later"]


async def test_an_environment_without_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="CHECKPOINT_URL or AGENTEX_BASE_URL must be set"):
        await create_checkpointer()


@pytest.fixture(scope="module")
def long_thread(service: Service) -> tuple[str, list[str]]:
    thread_id = str(uuid4())
    with HttpCheckpointSaver(service.url) as saver:
        return thread_id, fill(saver, thread_id, 1100)


@BOTH
async def test_a_list_has_no_end_of_its_own(
    service: Service, long_thread: tuple[str, list[str]], synchronous: bool
) -> None:
    thread_id, ids = long_thread
    with front_of(service.url) as front:
        async with HttpCheckpointSaver(front.url) as saver:

            async def listed(**options: Any) -> list[str]:
                config = config_of(thread_id)
                if synchronous:
                    return [item.checkpoint["id"] for item in saver.list(config, **options)]
                return [item.checkpoint["id"] async for item in saver.alist(config, **options)]

            assert await listed() == ids
            assert len(front.seen) < 10
            assert await listed(limit=1050) == ids[:1050]
            assert await listed(limit=1) == ids[:1]
            assert await listed(limit=0) == []
            assert await listed(limit=1000, before={"configurable": {"checkpoint_id": ids[99]}}) == ids[100:]
            assert await listed(filter={"parity": 0}) == [id_ for n, id_ in enumerate(ids) if n % 2 == 1]
            assert await listed(filter={"parity": 2}) == []


@BOTH
async def test_pages_are_fetched_as_they_are_needed(service: Service, thread_id: str, synchronous: bool) -> None:
    with front_of(service.url) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            ids = fill(saver, thread_id, 60, size=500_000)
            front.seen.clear()
            taken = []
            if synchronous:
                for item in saver.list(config_of(thread_id)):
                    taken.append(item.checkpoint["id"])
                    if len(taken) == 20:
                        break
            else:
                async for item in saver.alist(config_of(thread_id)):
                    taken.append(item.checkpoint["id"])
                    if len(taken) == 20:
                        break
            assert taken == ids[:20]
            assert len(front.seen) == 1
            rest = [item.checkpoint["id"] for item in saver.list(config_of(thread_id))]
            assert rest == ids
            # Large checkpoints come in small pages.
            assert [seen.body["limit"] for seen in front.seen[1:4]] == [20, 8, 8]


def test_a_list_of_all_threads_and_of_one_checkpoint(saver: HttpCheckpointSaver) -> None:
    mark = str(uuid4())
    threads = {f"{mark}-{n}" for n in range(3)}
    for thread in threads:
        fill(saver, thread, 2, mark=mark)
    every = list(saver.list(None, filter={"mark": mark}))
    assert [item.config["configurable"]["thread_id"] in threads for item in every] == [True] * 6
    one = every[3].config
    assert [item.config for item in saver.list(one)] == [one]


def test_ids_need_not_be_text(saver: HttpCheckpointSaver) -> None:
    thread_id: Any = uuid4().int % 10**9
    fill(saver, thread_id, 1)
    assert saver.get_tuple(config_of(thread_id)) is not None
    assert saver.get_tuple(config_of(str(thread_id))) is not None
    saver.delete_thread(thread_id)
    assert saver.get_tuple(config_of(thread_id)) is None


async def test_connections_are_kept(service: Service, thread_id: str) -> None:
    with front_of(service.url) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            for _ in range(5):
                await saver.aget_tuple(config_of(thread_id))
            for _ in range(5):
                saver.get_tuple(config_of(thread_id))
        ports = [seen.port for seen in front.seen]
        assert len(set(ports[:5])) == 1
        assert len(set(ports[5:])) == 1


def test_one_saver_serves_many_loops_and_threads(service: Service, thread_id: str) -> None:
    saver = HttpCheckpointSaver(service.url)
    ids = fill(saver, thread_id, 3)
    found: list[Any] = []

    async def latest() -> None:
        found.extend(
            item and item.checkpoint["id"]
            for item in await asyncio.gather(*(saver.aget_tuple(config_of(thread_id)) for _ in range(20)))
        )

    def blocking() -> None:
        for _ in range(5):
            item = saver.get_tuple(config_of(thread_id))
            found.append(item and item.checkpoint["id"])

    for _ in range(3):
        asyncio.run(latest())
    threads = [threading.Thread(target=target) for target in [lambda: asyncio.run(latest()), blocking] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    saver.close()
    assert found == ids[:1] * (3 * 20 + 4 * 20 + 4 * 5)


async def test_closing(service: Service, thread_id: str) -> None:
    with HttpCheckpointSaver(service.url) as saver:
        saver.get_tuple(config_of(thread_id))
        own: Any = saver._http._own
    assert own._kept.is_closed
    with pytest.raises(RuntimeError, match="closed"):
        saver.get_tuple(config_of(thread_id))
    async with HttpCheckpointSaver(service.url) as saver:
        await saver.aget_tuple(config_of(thread_id))
        own_async: Any = next(iter(saver._http._own_async.values()))
    assert own_async._kept.is_closed
    with pytest.raises(RuntimeError, match="closed"):
        await saver.aget_tuple(config_of(thread_id))


async def test_given_clients_are_used_and_left_open(service: Service, thread_id: str) -> None:
    with httpx.Client(headers={"x-mine": "1"}) as client:
        async with httpx.AsyncClient(headers={"x-mine": "2"}) as async_client:
            with front_of(service.url) as front:
                async with HttpCheckpointSaver(front.url, client=client, async_client=async_client) as saver:
                    saver.get_tuple(config_of(thread_id))
                    await saver.aget_tuple(config_of(thread_id))
                assert [seen.headers["x-mine"] for seen in front.seen] == ["1", "2"]
            assert not client.is_closed
            assert not async_client.is_closed


@pytest.mark.parametrize(("given", "expected"), [(None, 3), (7, 7), (9999, 50)])
def test_timeouts(given: float | None, expected: float) -> None:
    """A client's own, unless there is one; never longer than what is left of the deadline."""
    timeouts: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        timeouts.append(request.extensions["timeout"])
        return httpx.Response(204)

    client = httpx.Client(transport=httpx.MockTransport(answer), timeout=3)
    HttpCheckpointSaver("http://service", timeout=given, deadline=50, client=client).delete_thread("t")
    assert timeouts[0]["read"] == pytest.approx(expected, abs=0.1)


def test_a_clone_with_another_serializer_shares_the_connections(service: Service, thread_id: str) -> None:
    serde = JsonPlusSerializer(allowed_msgpack_modules=None)
    with HttpCheckpointSaver(service.url, serde=serde) as saver:
        clone = saver.with_allowlist([("some", "Module")])
        fill(saver, thread_id, 1)
        assert clone.get_tuple(config_of(thread_id)) is not None
        assert getattr(clone, "_http") is saver._http  # noqa: B009


def test_versions_grow() -> None:
    saver = HttpCheckpointSaver("http://service")
    first = saver.get_next_version(None, None)
    second = saver.get_next_version(first, None)
    assert first.startswith("0" * 31 + "1.")
    assert second.startswith("0" * 31 + "2.")
    assert first < second < saver.get_next_version(41, None)
    assert saver.get_next_version(first, None) != second


def test_what_is_asked_wrongly(saver: HttpCheckpointSaver) -> None:
    with pytest.raises(TypeError, match="thread_ids"):
        saver.prune("thread")
    with pytest.raises(ValueError, match="keep_latest, delete"):
        saver.prune(["thread"], strategy="keep_all")
    with pytest.raises(TypeError, match="run_ids"):
        saver.delete_for_runs("run")
    with pytest.raises(ValueError, match="deadline"):
        HttpCheckpointSaver("http://service", deadline=0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("soon", None),
        ("-1", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value) == seconds
