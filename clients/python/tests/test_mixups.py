"""Answers that belong to another request, ids that are none, and values that jsonb would change."""

from __future__ import annotations

import asyncio
import enum
import json
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from conftest import Service
from front import Fault, Front, front_of
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_checkpoint_http import (
    CheckpointMismatchError,
    CheckpointProblemError,
    HttpCheckpointSaver,
)

BOTH = pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])
ID = "1f000000-0000-6000-8000-000000000001"


def config_of(thread_id: Any, **configurable: Any) -> Any:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **configurable}}


async def call(saver: HttpCheckpointSaver, synchronous: bool, method: str, *args: Any, **options: Any) -> Any:
    """The method, or its asynchronous twin."""
    if synchronous:
        result = getattr(saver, method)(*args, **options)
        return list(result) if method == "list" else result
    result = getattr(saver, f"a{method}")(*args, **options)
    return [item async for item in result] if method == "list" else await result


def put(saver: HttpCheckpointSaver, thread_id: Any, values: dict[str, Any], id_: str = ID) -> Any:
    versions: Any = {name: "1" for name in values}
    checkpoint: Any = {**empty_checkpoint(), "id": id_, "channel_values": values, "channel_versions": versions}
    return saver.put(config_of(thread_id), checkpoint, {"source": "input", "step": -1}, versions)


def an_item(thread_id: str, ns: str = "", id_: str = ID) -> dict[str, Any]:
    checkpoint = {"v": 4, "id": id_, "ts": "", "channel_values": {}, "channel_versions": {}, "versions_seen": {}}
    key = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": id_, "parent_checkpoint_id": None}
    return {**key, "checkpoint": checkpoint, "metadata": {}, "blobs": [], "pending_writes": [], "pending_sends": []}


def ok(data: Any, **options: Any) -> Fault:
    return Fault("status", 200, {"content-type": "application/json"}, json.dumps(data).encode(), **options)


@BOTH
@pytest.mark.parametrize("concurrent", [1, 8])
async def test_a_connection_that_is_one_answer_behind(service: Service, synchronous: bool, concurrent: int) -> None:
    """As after a fork, or a proxy that lost count: each answer is that of the request before."""
    threads = [f"mixed-{uuid4()}" for _ in range(8)]
    with HttpCheckpointSaver(service.url) as saver:
        for thread in threads:
            put(saver, thread, {"owner": thread})
    with front_of(service.url, lambda number: Fault("previous")) as front:
        async with HttpCheckpointSaver(front.url) as saver:

            async def owner(thread: str) -> Any:
                if synchronous and concurrent > 1:
                    item = await asyncio.to_thread(saver.get_tuple, config_of(thread))
                else:
                    item = await call(saver, synchronous, "get_tuple", config_of(thread))
                return item.checkpoint["channel_values"]["owner"]

            for _ in range(5):
                for start in range(0, len(threads), concurrent):
                    some = threads[start : start + concurrent]
                    assert await asyncio.gather(*map(owner, some)) == some
        # Over no connection came anything after its first wrong answer.
        assert max(uses(front).values()) == 2


def uses(front: Front) -> dict[int, int]:
    ports = [seen.port for seen in front.seen]
    return {port: ports.count(port) for port in ports}


MIXED_UP: list[tuple[str, str, tuple[Any, ...], Any]] = [
    ("another thread's checkpoint", "get_tuple", (config_of("mine"),), an_item("other")),
    ("another namespace's", "get_tuple", (config_of("mine", checkpoint_ns="a"),), an_item("mine", "b")),
    ("the root's, not a namespace's", "get_tuple", (config_of("mine", checkpoint_ns="a"),), an_item("mine")),
    ("another checkpoint", "get_tuple", (config_of("mine", checkpoint_id="a"),), an_item("mine", id_="b")),
    ("a list in place of a checkpoint", "get_tuple", (config_of("mine"),), [an_item("mine")]),
    ("one of another thread in a list", "list", (config_of("mine"),), [an_item("mine"), an_item("other")]),
    ("one of another namespace in a list", "list", (config_of("mine"),), [an_item("mine", "b")]),
    ("another checkpoint in a list", "list", (config_of("mine", checkpoint_id="a"),), [an_item("mine", id_="b")]),
    ("a checkpoint in place of a list", "list", (config_of("mine"),), an_item("mine")),
    ("that another thread was stored", "put", (config_of("mine"),), {"thread_id": "other", "checkpoint_ns": ""}),
    ("null in place of what was stored", "put", (config_of("mine"),), None),
    ("channels that were not asked for", "get_delta_channel_history", (), {"theirs": {"writes": []}}),
]


def arguments(method: str, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if method == "put":
        return (*args, {**empty_checkpoint(), "id": ID}, {}, {}), {}
    if method == "get_delta_channel_history":
        return (), {"config": config_of("mine"), "channels": ["ours"]}
    return args, {}


@BOTH
@pytest.mark.parametrize(("what", "method", "args", "data"), MIXED_UP, ids=[what for what, *_ in MIXED_UP])
async def test_what_was_not_asked_for_is_refused(
    service: Service, synchronous: bool, what: str, method: str, args: tuple[Any, ...], data: Any
) -> None:
    """With the right request id, too: then something behind the service's door mixes up threads."""
    positional, named = arguments(method, args)
    for fault in (ok(data, echo=True), ok(data)):  # Old servers send no id.
        with front_of(service.url, lambda number, fault=fault: fault) as front:
            async with HttpCheckpointSaver(front.url) as saver:
                with pytest.raises(CheckpointMismatchError, match="belongs to another request") as raised:
                    await call(saver, synchronous, method, *positional, **named)
            assert raised.value.attempts == len(front.seen) == 3
            assert raised.value.thread_id == "mine"
            assert set(uses(front).values()) == {1}


@BOTH
@pytest.mark.parametrize("status", [200, 204, 400, 401, 404, 422, 500])
async def test_another_request_id_is_refused(service: Service, synchronous: bool, status: int) -> None:
    """Whatever comes with it: also a refusal may be somebody else's."""
    foreign = {"x-request-id": "another", "content-type": "application/json"}
    body = b"" if status == 204 else json.dumps(an_item("mine") if status == 200 else {}).encode()
    with front_of(service.url, lambda number: Fault("status", status, foreign, body)) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            with pytest.raises(CheckpointMismatchError, match=f"{status} with x-request-id 'another'") as raised:
                await call(saver, synchronous, "get_tuple", config_of("mine"))
        assert raised.value.request_id == front.seen[0].headers["x-request-id"]
        assert raised.value.attempts == len(front.seen) == 3
        assert set(uses(front).values()) == {1}


@BOTH
@pytest.mark.parametrize("status", [200, 404, 503])
async def test_one_mix_up_is_survived(service: Service, thread_id: str, synchronous: bool, status: int) -> None:
    foreign = Fault("status", status, {"x-request-id": "another"}, json.dumps(an_item("other")).encode())
    with front_of(service.url, lambda number: foreign if number == 1 else None) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            assert await call(saver, synchronous, "get_tuple", config_of(thread_id)) is None
            assert await call(saver, synchronous, "get_tuple", config_of(thread_id)) is None
        assert len(front.seen) == 3


@BOTH
@pytest.mark.parametrize(
    "form", ["none", "another beside it", "another, and it does not matter"], ids=lambda form: form.split(",")[0]
)
async def test_what_proxies_do_to_request_ids(service: Service, thread_id: str, synchronous: bool, form: str) -> None:
    def rewrite(request: httpx.Request) -> httpx.Response:
        sent = request.headers["x-request-id"]
        ids = {"none": [], "another beside it": ["proxy", sent]}.get(form, ["proxy"])
        return httpx.Response(200, headers=[("x-request-id", id_) for id_ in ids], json=an_item(thread_id))

    proxy = httpx.MockTransport(rewrite)
    options: Any = {"client": httpx.Client(transport=proxy), "async_client": httpx.AsyncClient(transport=proxy)}
    saver = HttpCheckpointSaver(service.url, check_request_id="matter" not in form, **options)
    item = await call(saver, synchronous, "get_tuple", config_of(thread_id))
    assert item.config["configurable"]["thread_id"] == thread_id
    if "matter" in form:
        saver = HttpCheckpointSaver(service.url, check_request_id=False, **options)
        with pytest.raises(CheckpointMismatchError, match="thread_id"):
            await call(saver, synchronous, "get_tuple", config_of("other"))


async def test_the_id_of_an_error_is_the_one_in_the_log(service: Service) -> None:
    """The service gives back what is sent, so that errors name the request as its log does."""
    async with HttpCheckpointSaver(service.url) as saver:
        with pytest.raises(CheckpointProblemError) as raised:
            await saver.adelete_thread("\0")
    assert UUID(raised.value.request_id).version == 4


class Text(str, enum.Enum):
    MEMBER = "a"


class Number(enum.IntEnum):
    MEMBER = 1


NO_IDS: list[Any] = [
    *(None, "", True, False, 1.5, math.nan, 1.0, b"a", [], ["a"], {}, {"id": "a"}, ("a",), object()),
    *(Text.MEMBER, Number.MEMBER),
]
CHECKPOINT: Any = {**empty_checkpoint(), "id": ID}

TAKERS: list[tuple[str, str, Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]]] = [
    ("get_tuple", "thread_id", lambda id_: ((config_of(id_),), {})),
    ("list", "thread_id", lambda id_: ((config_of(id_),), {})),
    ("put", "thread_id", lambda id_: ((config_of(id_), CHECKPOINT, {}, {}), {})),
    ("put_writes", "thread_id", lambda id_: ((config_of(id_, checkpoint_id="a"), [("c", 1)], "task"), {})),
    ("delete_thread", "thread_id", lambda id_: ((id_,), {})),
    ("copy_thread", "source_thread_id", lambda id_: ((id_, "b"), {})),
    ("copy_thread", "target_thread_id", lambda id_: (("a", id_), {})),
    ("prune", r"thread_ids\[1\]", lambda id_: ((["a", id_],), {"strategy": "delete"})),
    ("delete_for_runs", r"run_ids\[1\]", lambda id_: ((["a", id_],), {})),
    ("get_delta_channel_history", "thread_id", lambda id_: ((), {"config": config_of(id_), "channels": ["a"]})),
    ("put", "checkpoint", lambda id_: ((config_of("a"), {**CHECKPOINT, "id": id_}, {}, {}), {})),
    ("put_writes", "checkpoint_id", lambda id_: ((config_of("a", checkpoint_id=id_), [("c", 1)], "task"), {})),
]


@BOTH
@pytest.mark.parametrize(("method", "key", "args"), TAKERS, ids=[f"{method} {key}" for method, key, _ in TAKERS])
async def test_what_is_no_id_is_refused(
    service: Service, synchronous: bool, method: str, key: str, args: Callable[[Any], Any]
) -> None:
    with front_of(service.url) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            for id_ in NO_IDS:
                positional, named = args(id_)
                with pytest.raises(ValueError, match=key):
                    await call(saver, synchronous, method, *positional, **named)
        assert front.seen == []


@BOTH
async def test_filters_that_are_no_ids_are_refused(service: Service, synchronous: bool) -> None:
    """A filter that were left out would show what was not asked for."""
    with front_of(service.url) as front:
        async with HttpCheckpointSaver(front.url) as saver:
            for wrong in [id_ for id_ in NO_IDS if id_ is not None and id_ != ""]:
                for config in (config_of("a", checkpoint_id=wrong), config_of("a", checkpoint_ns=wrong)):
                    if isinstance(wrong, (str, bytes)) and not isinstance(wrong, (bytes, enum.Enum)):
                        continue
                    for method in ("get_tuple", "list"):
                        with pytest.raises(ValueError, match="checkpoint_"):
                            await call(saver, synchronous, method, config)
                with pytest.raises(ValueError, match="before"):
                    before = {"configurable": {"checkpoint_id": wrong}}
                    await call(saver, synchronous, "list", config_of("a"), before=before)
            for config in ({"configurable": {"checkpoint_ns": ""}}, {"configurable": {}}, {"metadata": {}}):
                for method in ("get_tuple", "list"):
                    with pytest.raises(ValueError, match="thread_id'\\] is missing"):
                        await call(saver, synchronous, method, config)
        assert front.seen == []


@BOTH
@pytest.mark.parametrize("id_", [UUID(int=7), 0, -1, 2**70, "None", " ", "a" * 200, "ö"], ids=repr)
async def test_texts_integers_and_uuids_are_ids(service: Service, synchronous: bool, id_: Any) -> None:
    checkpoint_id = str(uuid4())
    checkpoint: Any = {**empty_checkpoint(), "id": checkpoint_id}
    async with HttpCheckpointSaver(service.url) as saver:
        await call(saver, synchronous, "delete_thread", id_)  # A service that is given may know it.
        config = await call(saver, synchronous, "put", config_of(id_), checkpoint, {}, {})
        assert config["configurable"]["thread_id"] == id_
        for same in (config, config_of(id_), config_of(str(id_), checkpoint_id=UUID(checkpoint_id))):
            item = await call(saver, synchronous, "get_tuple", same)
            assert item.config["configurable"] == {
                **{"thread_id": str(id_), "checkpoint_ns": "", "checkpoint_id": checkpoint_id},
            }
        assert len(await call(saver, synchronous, "list", config_of(id_))) == 1
        await call(saver, synchronous, "delete_thread", id_)
        assert await call(saver, synchronous, "get_tuple", config_of(str(id_))) is None


VALUES: list[Any] = [
    *(0.0, -0.0, 1.5, 1e15, 1e16, -1e16, 1.5e16, 2.0**63, 1e22, 1e300, 1.7e308, 5e-324, 1e-7, 0.1 + 0.2),
    *(math.nan, math.inf, -math.inf, 1, 2**53 + 1, -(2**63), True, False, None, "", "a", "\0"),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_of_its_own_comes_back_as_it_was(saver: HttpCheckpointSaver, thread_id: str, value: Any) -> None:
    put(saver, thread_id, {"v": value})
    for _ in range(2):
        item = saver.get_tuple(config_of(thread_id))
        assert item is not None
        found = item.checkpoint["channel_values"]["v"]
        assert (type(found), repr(found)) == (type(value), repr(value))
        # What was read can be stored again, as the next step does.
        checkpoint: Any = {**item.checkpoint, "id": str(uuid4())}
        saver.put(config_of(thread_id, checkpoint_id=ID), checkpoint, {"source": "loop", "step": 1}, {})


class Id(int):
    pass


class Word(str):
    pass


class Table(dict[str, Any]):
    pass


class Ratio(float, enum.Enum):
    HALF = 0.5


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


NEIGHBOURS: list[Any] = [
    *(Text.MEMBER, Number.MEMBER, Ratio.HALF, Rights.READ | Rights.WRITE, Id(7), Word("a"), Table(a=1), [Word("a")]),
    *(OrderedDict(a=1), {"a": -0.0, "b": math.inf, "c": [1e16]}),
]


@pytest.mark.filterwarnings("ignore:Deserializing unregistered type")
@pytest.mark.parametrize("value", NEIGHBOURS, ids=repr)
def test_a_value_of_a_subclass_comes_back_as_from_memory(
    saver: HttpCheckpointSaver, thread_id: str, value: Any
) -> None:
    """Members of an Enum keep their class; what LangGraph's serializer makes plain is plain here, too."""
    memory = InMemorySaver()
    found = []
    for one in (saver, memory):
        versions: Any = {"v": one.get_next_version(None, None)}
        values = {"v": value}
        checkpoint: Any = {**empty_checkpoint(), "id": ID, "channel_values": values, "channel_versions": versions}
        one.put(config_of(thread_id), checkpoint, {"source": "input", "step": -1}, versions)
        item = one.get_tuple(config_of(thread_id))
        assert item is not None
        found.append(item.checkpoint["channel_values"]["v"])
    assert (type(found[0]), repr(found[0])) == (type(found[1]), repr(found[1]))
    assert found[0] == value


@pytest.mark.parametrize("value", [2**63, 2**64, -(2**64), 10**40])
def test_an_integer_beyond_64_bits_stays(saver: HttpCheckpointSaver, thread_id: str, value: int) -> None:
    put(saver, thread_id, {"v": value})
    item = saver.get_tuple(config_of(thread_id))
    assert item is not None and item.checkpoint["channel_values"] == {"v": value}


def test_a_value_that_another_saver_left_inline_stays(
    service: Service, saver: HttpCheckpointSaver, thread_id: str
) -> None:
    values = {"small": 1e-05, "large": 1e16, "text": "a"}
    checkpoint = {
        **an_item(thread_id)["checkpoint"],
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, "1"),
    }
    body = {"thread_id": thread_id, "checkpoint_id": ID, "checkpoint": checkpoint}
    httpx.post(f"{service.url}/checkpoints/put", json=body).raise_for_status()
    for step in range(2):
        item = saver.get_tuple(config_of(thread_id))
        assert item is not None and item.checkpoint["channel_values"] == values
        saver.put(item.config, {**item.checkpoint, "id": f"2{step}"}, {"source": "loop", "step": step}, {})


async def test_more_requests_than_connections_wait_their_turn(service: Service, thread_id: str) -> None:
    with front_of(service.url) as front:
        async with HttpCheckpointSaver(front.url) as saver:

            async def agent() -> None:
                for _ in range(4):
                    await saver.aget_tuple(config_of(thread_id))

            await asyncio.gather(*(agent() for _ in range(150)))
        assert len(front.seen) == 600
        # httpx's own queue closes idle connections while others wait: it opened hundreds.
        assert len(uses(front)) <= 64
