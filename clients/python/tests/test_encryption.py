"""What LangGraph's EncryptedSerializer hides from the service and its database, with real graphs, and what not."""

from __future__ import annotations

import json
import operator
import os
from base64 import b64decode
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import psycopg
import pytest
from conftest import REPOSITORY, Service
from Crypto.Cipher import AES
from graphs import DELTA, SCENARIOS, Run, Saver, Scenario, skip_without_context
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from langgraph_checkpoint_http import HttpCheckpointSaver

BOTH = pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])

KEY = os.urandom(32)
Savers = Callable[[], HttpCheckpointSaver]

SECRETS = {
    name: f"SECRET-{name}"
    for name in ("text", "list", "bytes", "sent", "question", "answer", "by-hand", "state-of-subgraph", "error")
}


def serializer(key: bytes = KEY) -> EncryptedSerializer:
    return EncryptedSerializer.from_pycryptodome_aes(key=key)


@pytest.fixture
def encrypted(service: Service) -> Savers:
    """Makes a saver as another process would, which knows nothing but the key."""
    return lambda: HttpCheckpointSaver(service.url, serde=serializer())


@pytest.fixture
def plain(service: Service) -> Savers:
    return lambda: HttpCheckpointSaver(service.url)


class State(TypedDict):
    text: str
    items: Annotated[list[Any], operator.add]


class Inner(TypedDict):
    items: Annotated[list[Any], operator.add]
    note: str


def secret_graph(saver: Saver) -> Any:
    """Fans out, asks in a subgraph, and fails when it finds `fail`."""

    def last(state: State) -> Any:
        if "fail" in state["items"]:
            raise ValueError(SECRETS["error"])
        return {"items": ["done"]}

    inner = StateGraph(Inner)
    inner.add_node("note", lambda state: {"note": SECRETS["state-of-subgraph"]})
    inner.add_node("ask", lambda state: {"items": [interrupt({"question": SECRETS["question"]})]})
    inner.add_edge(START, "note")
    inner.add_edge("note", "ask")
    graph = StateGraph(State)
    graph.add_node("first", lambda state: {"text": SECRETS["text"], "items": [SECRETS["list"]]})
    graph.add_node("work", lambda word: {"items": [SECRETS["bytes"].encode(), word]})
    graph.add_node("inner", inner.compile())
    graph.add_node("last", last)
    graph.add_edge(START, "first")
    graph.add_conditional_edges("first", lambda state: [Send("work", SECRETS["sent"])], ["work"])
    graph.add_edge("work", "inner")
    graph.add_edge("inner", "last")
    graph.add_edge("last", END)
    return graph.compile(checkpointer=saver)


async def live(savers: Savers, thread_id: str, *, synchronous: bool) -> Any:
    """Asks, is answered, is forked, and fails; each step with a saver of its own. Returns the last state."""
    skip_without_context(synchronous=synchronous)
    run = Run(secret_graph, savers(), thread_id, synchronous=synchronous)
    await run.invoke({"items": []})
    run.switch(savers(), synchronous=synchronous)
    assert (await run.state()).interrupts[0].value == {"question": SECRETS["question"]}
    output = await run.invoke(Command(resume=SECRETS["answer"]))
    assert output["items"][-2:] == [SECRETS["answer"], "done"]
    run.switch(savers(), synchronous=synchronous)
    before_last = next(snapshot for snapshot in await run.history() if snapshot.next == ("last",))
    fork = await run.update(before_last.config, {"items": [SECRETS["by-hand"], "fail"]})
    run.switch(savers(), synchronous=synchronous)
    with pytest.raises(ValueError, match=SECRETS["error"]):
        await run.invoke(None, fork)
    return (await run.state()).values


def found_in_database(database_url: str, thread_id: str, words: list[str]) -> list[str]:
    """The words that stand in any column of any row of the thread, as text or in bytes."""
    with psycopg.connect(database_url) as connection:
        rows = "\n".join(
            row
            for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
            for (row,) in connection.execute(
                f"select to_jsonb(t)::text from {table} t where thread_id = %s", (thread_id,)
            )
        )
    return [word for word in words if word in rows or word.encode().hex() in rows]


@BOTH
async def test_a_thread_goes_on_with_the_key_and_nothing_that_was_said_is_in_the_database(
    encrypted: Savers, plain: Savers, database_url: str, thread_id: str, synchronous: bool
) -> None:
    words = list(SECRETS.values())
    values = await live(encrypted, thread_id, synchronous=synchronous)
    assert values["text"] == SECRETS["text"]
    assert values["items"][-2:] == [SECRETS["by-hand"], "fail"]
    assert found_in_database(database_url, thread_id, words) == []
    # Without encryption the same search finds each of them.
    await live(plain, f"{thread_id}-plain", synchronous=synchronous)
    assert found_in_database(database_url, f"{thread_id}-plain", words) == words


@BOTH
@pytest.mark.parametrize("scenario", [*SCENARIOS, DELTA], ids=lambda scenario: scenario.name)
async def test_graphs_end_as_they_do_in_memory(
    encrypted: Savers, thread_id: str, scenario: Scenario, synchronous: bool
) -> None:
    scenario.skip_where_impossible(synchronous=synchronous)
    memory = Run(scenario.build, InMemorySaver(), thread_id, synchronous=synchronous)
    await scenario.play(memory)
    run = Run(scenario.build, encrypted(), thread_id, synchronous=synchronous)
    await scenario.play(run)
    run.switch(encrypted(), synchronous=synchronous)
    assert await run.result() == await memory.result()


@BOTH
async def test_ids_names_and_metadata_stay_readable(
    encrypted: Savers, database_url: str, thread_id: str, synchronous: bool
) -> None:
    skip_without_context(synchronous=synchronous)
    run = Run(secret_graph, encrypted(), thread_id, synchronous=synchronous)
    run.config["configurable"]["customer"] = "readable-configurable"
    run.config["metadata"] = {"tag": "readable-metadata"}
    await run.invoke({"items": []})
    words = [
        thread_id,
        "text",
        "items",
        "branch:to:inner",
        "__interrupt__",
        "readable-metadata",
        "readable-configurable",
    ]
    assert found_in_database(database_url, thread_id, words) == words
    assert await run.history(filter={"tag": "readable-metadata"})


@BOTH
async def test_another_key_is_refused_and_changes_nothing(
    encrypted: Savers, service: Service, database_url: str, thread_id: str, synchronous: bool
) -> None:
    skip_without_context(synchronous=synchronous)
    run = Run(secret_graph, encrypted(), thread_id, synchronous=synchronous)
    await run.invoke({"items": []})
    state = await run.state()
    for serde, reason in ((serializer(os.urandom(32)), "MAC check failed"), (JsonPlusSerializer(), r"\+aes")):
        other = Run(secret_graph, HttpCheckpointSaver(service.url, serde=serde), thread_id, synchronous=synchronous)
        with pytest.raises((ValueError, NotImplementedError), match=reason):
            await other.state()
        with pytest.raises((ValueError, NotImplementedError), match=reason):
            await other.invoke(Command(resume="by somebody else"))
    assert await run.state() == state
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "update checkpoint_blobs set blob = set_byte(blob, length(blob) - 1, get_byte(blob, length(blob) - 1) # 1)"
            " where thread_id = %s and channel = 'text'",
            (thread_id,),
        )
    with pytest.raises(ValueError, match="MAC check failed"):
        await run.state()


def test_langgraphs_serializer_takes_what_is_not_encrypted_for_true(
    encrypted: Savers, database_url: str, thread_id: str
) -> None:
    """Whoever may write to the database can replace encrypted values: see docs/explain/security.md."""
    graph = secret_graph(encrypted())
    config: Any = {"configurable": {"thread_id": thread_id}}
    graph.invoke({"items": []}, config)
    type_, blob = JsonPlusSerializer().dumps_typed("forged")
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "update checkpoint_blobs set type = %s, blob = %s where thread_id = %s and channel = 'text'",
            (type_, blob, thread_id),
        )
    assert graph.get_state(config).values["text"] == "forged"


def test_a_value_of_the_typescript_client_is_read_which_reads_these_in_turn() -> None:
    serde = EncryptedSerializer.from_pycryptodome_aes(key=bytes(range(32)), mode=AES.MODE_GCM)
    values = json.loads((REPOSITORY / "test/fixtures/encrypted-values.json").read_text())
    assert [item["by"] for item in values] == ["Python", "JavaScript"]
    for item in values:
        assert serde.loads_typed((item["type"], b64decode(item["blob"]))) == item["value"]
