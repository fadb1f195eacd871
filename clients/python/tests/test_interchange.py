"""The same rows as LangGraph's Postgres savers, and threads that change hands, on the database behind the service."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from conftest import Service
from graphs import DELTA, SCENARIOS, Run, Saver, Scenario
from langgraph.checkpoint.base import ERROR, INTERRUPT, RESUME, CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot
from langgraph.types import Send
from psycopg.rows import tuple_row

from langgraph_checkpoint_http import HttpCheckpointSaver, UnstorableValueError

BOTH = pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])

TABLES = {
    "checkpoints": "checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint::text, metadata::text",
    "checkpoint_blobs": "checkpoint_ns, channel, version, type, blob",
    "checkpoint_writes": "checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, task_path",
}


@pytest.fixture
def postgres(database_url: str) -> Iterator[PostgresSaver]:
    with PostgresSaver.from_conn_string(database_url) as saver:
        saver.setup()
        yield saver


@pytest.fixture
async def async_postgres(database_url: str) -> AsyncIterator[AsyncPostgresSaver]:
    async with AsyncPostgresSaver.from_conn_string(database_url) as saver:
        yield saver


def rows(database_url: str, thread_id: str) -> dict[str, list[tuple[Any, ...]]]:
    with psycopg.connect(database_url, row_factory=tuple_row) as connection:
        return {
            table: connection.execute(
                f"select {columns} from {table} where thread_id = %s order by 1, 2, 3, 4", (thread_id,)
            ).fetchall()
            for table, columns in TABLES.items()
        }


def plain(tuples: list[CheckpointTuple | None]) -> list[Any]:
    """Tuples of different threads become equal; 1 and 1.0 stay different."""

    def without_thread(config: Any) -> Any:
        return config and {name: value for name, value in config["configurable"].items() if name != "thread_id"}

    return [
        item
        and (
            without_thread(item.config),
            repr(sorted(item.checkpoint.items())),
            repr(sorted(item.metadata.items())),
            without_thread(item.parent_config),
            repr(item.pending_writes),
        )
        for item in tuples
    ]


def a_checkpoint(values: dict[str, Any], versions: dict[str, Any] | None = None, **fields: Any) -> Any:
    return {
        **empty_checkpoint(),
        "v": 4,
        "id": str(uuid6()),
        "channel_values": values,
        "channel_versions": versions if versions is not None else {name: "1.0" for name in values},
        **fields,
    }


VALUES: dict[str, Any] = {
    "none": None,
    "text": "naïve 🎉",
    "empty text": "",
    "whole": 12345678901234567890123,
    "real": 1.0,
    "tiny": 5e-324,
    "huge": 1e300,
    "sum": 0.1 + 0.2,
    "negative zero": -0.0,
    "flag": True,
    "list": [1, 2.0, "3"],
    "empty list": [],
    "dict": {"a": {"b": None}},
    "bytes": b"\x00\xff",
    "snapshot": _DeltaSnapshot(["a", "b"]),
    "primitive snapshot": _DeltaSnapshot(7),
}

#: jsonb prints these floats in another way, so that they come back as another value or type: ours become blobs.
BLOBS_OF_OURS = {"tiny", "huge", "negative zero"}
SAME_VALUES = {name: value for name, value in VALUES.items() if name not in BLOBS_OF_OURS}

CASES: dict[str, tuple[Any, Any, Any, Any]] = {
    "every kind of value": (
        a_checkpoint(SAME_VALUES),
        {"source": "loop", "step": 1, "parents": {}},
        {name: "1.0" for name in SAME_VALUES},
        {},
    ),
    "only what is new becomes a blob": (
        a_checkpoint({"old": [1], "new": [2], "snapshot": _DeltaSnapshot(1)}),
        {},
        {"new": "1.0", "gone": "2.0"},
        {},
    ),
    "versions that are numbers": (
        a_checkpoint({"whole": [1], "real": [2]}, {"whole": 3, "real": 3.5}),
        {},
        {"whole": 3, "real": 3.5},
        {},
    ),
    "metadata": (
        a_checkpoint({}),
        {
            "source": "update",
            "step": -1,
            "text": "nul \x00 goes",
            "score": 1.0,
            "big": 2**70,
            "writes": {"not": "kept"},
            "counters_since_delta_snapshot": {"ch": (1, 2)},
        },
        {},
        {
            "metadata": {"run_id": "run-1", "tag": "a\x00b", "object": {"not": "kept"}, "step": 9},
            "configurable": {"user": "u", "__private": "x", "langgraph_node": "n", "ratio": 0.5},
        },
    ),
    "fields of its own": (
        a_checkpoint({}, updated_channels=["a"], versions_seen={"node": {"a": "1.0"}}, pending_sends=[]),
        {},
        {},
        {},
    ),
}


@BOTH
@pytest.mark.parametrize("case", CASES)
async def test_a_put_makes_the_same_rows(
    service: Service,
    postgres: PostgresSaver,
    async_postgres: AsyncPostgresSaver,
    database_url: str,
    case: str,
    synchronous: bool,
) -> None:
    checkpoint, metadata, new_versions, extra = CASES[case]
    threads = [str(uuid4()), str(uuid4())]
    returned, tuples = [], []
    async with HttpCheckpointSaver(service.url) as http:
        for thread_id, saver in zip(threads, (http, postgres if synchronous else async_postgres), strict=True):
            configurable = {
                "thread_id": thread_id,
                "checkpoint_ns": "ns|1",
                "checkpoint_id": "the parent",
                **extra.get("configurable", {}),
            }
            config: Any = {**extra, "configurable": configurable}
            if synchronous:
                returned.append(saver.put(config, checkpoint, metadata, new_versions))
                tuples.append(saver.get_tuple(config | {"configurable": {**configurable, "checkpoint_id": None}}))
            else:
                returned.append(await saver.aput(config, checkpoint, metadata, new_versions))
                tuples.append(
                    await saver.aget_tuple(config | {"configurable": {**configurable, "checkpoint_id": None}})
                )
    ours, theirs = (rows(database_url, thread_id) for thread_id in threads)
    assert ours == theirs
    assert len(ours["checkpoints"]) == 1
    assert plain(tuples[:1]) == plain(tuples[1:])
    assert returned[0]["configurable"] == {**returned[1]["configurable"], "thread_id": threads[0]}


@BOTH
async def test_writes_make_the_same_rows(
    service: Service, postgres: PostgresSaver, async_postgres: AsyncPostgresSaver, database_url: str, synchronous: bool
) -> None:
    calls: list[tuple[list[tuple[str, Any]], str, str]] = [
        ([("a", 1), ("b", [2]), ("a", None)], "task-1", "~__pregel_pull, node"),
        ([("a", "kept out"), ("c", "new")], "task-1", "another path"),
        ([(INTERRUPT, ["first"])], "task-2", ""),
        ([(INTERRUPT, ["second"])], "task-2", "kept out"),
        ([(ERROR, "one"), ("d", 1)], "task-3", "p"),
        ([(ERROR, "kept out"), ("d", 2)], "task-3", "p"),
        ([(RESUME, 1), (RESUME, 2)], "task-4", ""),
        ([("twice", b"\x00"), (TASKS, Send("node", {"x": 1}))], "task-5", "~p"),
        ([], "task-6", ""),
    ]
    threads = [str(uuid4()), str(uuid4())]
    async with HttpCheckpointSaver(service.url) as http:
        for thread_id, saver in zip(threads, (http, postgres if synchronous else async_postgres), strict=True):
            config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": "a"}}
            for writes, task_id, task_path in calls:
                if synchronous:
                    saver.put_writes(config, writes, task_id, task_path)
                else:
                    await saver.aput_writes(config, writes, task_id, task_path)
    ours, theirs = (rows(database_url, thread_id) for thread_id in threads)
    assert ours == theirs
    assert len(ours["checkpoint_writes"]) == 9


@BOTH
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_what_jsonb_refuses_is_kept_as_a_blob_and_refused_in_metadata(
    saver: HttpCheckpointSaver,
    async_saver: HttpCheckpointSaver,
    postgres: PostgresSaver,
    thread_id: str,
    value: float,
    synchronous: bool,
) -> None:
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    checkpoint = a_checkpoint({"score": value})
    with pytest.raises(psycopg.DataError):
        postgres.put(config, checkpoint, {}, {})
    with pytest.raises(UnstorableValueError, match=r"thread .* (nan|-?inf) at metadata\.score"):
        if synchronous:
            saver.put(config, a_checkpoint({}), {"score": value}, {})  # type: ignore[typeddict-unknown-key]
        else:
            await async_saver.aput(config, a_checkpoint({}), {"score": value}, {})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(UnstorableValueError, match="not JSON serializable"):
        saver.put(config, a_checkpoint({}), {"object": object()}, {})  # type: ignore[typeddict-unknown-key]
    assert saver.get_tuple(config) is None
    if synchronous:
        saver.put(config, checkpoint, {}, {"score": "1.0"})
    else:
        await async_saver.aput(config, checkpoint, {}, {"score": "1.0"})
    found = saver.get_tuple(config)
    assert found is not None
    assert repr(found.checkpoint["channel_values"]["score"]) == repr(value)


@BOTH
@pytest.mark.parametrize("v", [1, 2, 3, 4])
async def test_sends_of_an_old_checkpoint_come_from_its_parent(
    service: Service,
    postgres: PostgresSaver,
    async_postgres: AsyncPostgresSaver,
    thread_id: str,
    v: int,
    synchronous: bool,
) -> None:
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    parent = postgres.put(config, a_checkpoint({}, {}, v=v), {"step": 0}, {})
    for task_id, task_path, sends in (("z", "~1", ["first"]), ("a", "~2", ["second", "third"]), ("b", "~2", ["last"])):
        postgres.put_writes(parent, [(TASKS, Send("node", send)) for send in sends] + [("x", 1)], task_id, task_path)
    with_versions = postgres.put(parent, a_checkpoint({"a": [1]}, {"a": "7.1", "b": "8.2"}, v=v), {}, {"a": "7.1"})
    postgres.put(with_versions, a_checkpoint({}, {}, v=v), {}, {})
    async with HttpCheckpointSaver(service.url) as http:
        if synchronous:
            ours, theirs = list(http.list(config)), list(postgres.list(config))
            ours.append(http.get_tuple(with_versions))
            theirs.append(postgres.get_tuple(with_versions))
        else:
            ours = [item async for item in http.alist(config)]
            theirs = [item async for item in async_postgres.alist(config)]
            ours.append(await http.aget_tuple(with_versions))
            theirs.append(await async_postgres.aget_tuple(with_versions))
    assert plain(ours) == plain(theirs)
    sent = ours[-1].checkpoint["channel_values"].get(TASKS, [])
    assert [send.arg for send in sent] == (["first", "second", "third", "last"] if v < 4 else [])


def test_an_empty_channel_is_absent(service: Service, saver: HttpCheckpointSaver, thread_id: str) -> None:
    """Savers before 3.2 wrote a row of type `empty` for a channel that a step had left without a value."""
    checkpoint = a_checkpoint({"inline": 1}, {"gone": "2.0", "inline": "1.0", "null": "1.0"})
    blobs = [
        {"channel": "gone", "version": "2.0", "type": "empty", "blob": None},
        {"channel": "null", "version": "1.0", "type": "null", "blob": None},
    ]
    body = {"thread_id": thread_id, "checkpoint_id": checkpoint["id"], "checkpoint": checkpoint, "blobs": blobs}
    assert httpx.post(f"{service.url}/checkpoints/put", json=body).status_code == 200
    stored = saver.get_tuple({"configurable": {"thread_id": thread_id}})
    assert stored is not None
    assert stored.checkpoint["channel_values"] == {"inline": 1, "null": None}


def test_an_encrypted_thread_is_read_by_both(
    service: Service, postgres: PostgresSaver, database_url: str, thread_id: str
) -> None:
    class Cipher:
        def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
            return "reverse", plaintext[::-1]

        def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
            assert ciphername == "reverse"
            return ciphertext[::-1]

    serde = EncryptedSerializer(Cipher())
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    postgres.serde = serde
    first = a_checkpoint({"secret": ["word"], "kept": "inline"})
    parent = postgres.put(config, first, {}, {"secret": "1.0", "kept": "1.0"})
    with HttpCheckpointSaver(service.url, serde=serde) as http:
        http.put(parent, a_checkpoint({"secret": ["word"], "kept": "inline", "text": "new"}), {}, {"text": "1.0"})
        for saver in (http, postgres):
            stored = saver.get_tuple(config)
            assert stored is not None
            assert stored.checkpoint["channel_values"] == {"secret": ["word"], "kept": "inline", "text": "new"}
    assert [row[3] for row in rows(database_url, thread_id)["checkpoint_blobs"]] == ["msgpack+reverse"] * 3


def test_a_version_such_as_3_0_finds_its_blob(saver: HttpCheckpointSaver, thread_id: str) -> None:
    """psycopg writes it as 3, which is why the Postgres savers lose the value."""
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    saver.put(config, a_checkpoint({"a": [1]}, {"a": 3.0}), {}, {"a": 3.0})
    stored = saver.get_tuple(config)
    assert stored is not None and stored.checkpoint["channel_values"] == {"a": [1]}


def test_nul_in_a_document_stays(saver: HttpCheckpointSaver, thread_id: str) -> None:
    """Postgres's own savers fail on it; only strings right inside of metadata lose theirs."""
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    saver.put(config, a_checkpoint({"text": "a\x00b\ud800"}), {"top": "a\x00b", "deep": {"text": "a\x00b"}}, {})  # type: ignore[typeddict-unknown-key]
    stored = saver.get_tuple(config)
    assert stored is not None
    assert stored.checkpoint["channel_values"] == {"text": "a\x00b\ud800"}
    assert stored.metadata == {"top": "ab", "deep": {"text": "a\x00b"}}


class Relay:
    """Hands a thread from one checkpointer to the next after every call of its graph."""

    def __init__(self, run: Run, savers: list[Saver]) -> None:
        self.calls = 0
        invoke = run.invoke

        async def invoke_and_hand_over(value: Any, config: Any = None, **options: Any) -> Any:
            try:
                return await invoke(value, config, **options)
            finally:
                self.calls += 1
                run.switch(savers[self.calls % len(savers)], synchronous=run.synchronous)

        run.invoke = invoke_and_hand_over  # type: ignore[method-assign]


@BOTH
@pytest.mark.parametrize("first", ["http", "postgres"])
@pytest.mark.parametrize("scenario", [*SCENARIOS, DELTA], ids=lambda scenario: scenario.name)
async def test_a_thread_changes_hands(
    service: Service,
    database_url: str,
    thread_id: str,
    scenario: Scenario,
    first: str,
    synchronous: bool,
) -> None:
    scenario.skip_where_impossible(synchronous=synchronous)
    memory = Run(scenario.build, InMemorySaver(), thread_id, synchronous=synchronous)
    await scenario.play(memory)
    expected = await memory.result()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(HttpCheckpointSaver(service.url))
        theirs: Saver
        if synchronous:
            theirs = stack.enter_context(PostgresSaver.from_conn_string(database_url))
        else:
            theirs = await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(database_url))
        savers: list[Saver] = [http, theirs] if first == "http" else [theirs, http]
        run = Run(scenario.build, savers[0], thread_id, synchronous=synchronous)
        relay = Relay(run, savers)
        await scenario.play(run)
        assert relay.calls > 1
        for saver in savers:
            run.switch(saver, synchronous=synchronous)
            assert await run.result() == expected
        config: Any = {"configurable": {"thread_id": thread_id}}
        if synchronous:
            ours, others = list(http.list(config)), list(theirs.list(config))
        else:
            ours = [item async for item in http.alist(config)]
            others = [item async for item in theirs.alist(config)]
        assert plain(ours) == plain(others)
