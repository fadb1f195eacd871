"""A thread that an agent in TypeScript began, as its client stores it, and an agent in Python continues."""

from __future__ import annotations

import json
import operator
from base64 import b64encode
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from conftest import Service
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, StateGraph

from langgraph_checkpoint_http import HttpCheckpointSaver


class State(TypedDict):
    messages: Annotated[list[Any], operator.add]
    n: int
    kept: str


def graph(saver: HttpCheckpointSaver) -> Any:
    builder = StateGraph(State)
    builder.add_node("a", lambda state: {"messages": [AIMessage(f"a{state['n']}")], "n": state["n"] + 1})
    builder.add_node("b", lambda state: {"n": state["n"] + 1})
    builder.add_edge(START, "a")
    builder.add_conditional_edges("a", lambda state: END if state["n"] >= 3 else "b", ["b", END])
    builder.add_edge("b", "a")
    return builder.compile(checkpointer=saver)


def message(name: str, content: str) -> dict[str, Any]:
    return {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain_core", "messages", name],
        "kwargs": {"content": content, "additional_kwargs": {}, "response_metadata": {}},
    }


def of_typescript(thread_id: str) -> dict[str, Any]:
    """What the TypeScript client stores of this graph's last step: numbers as versions, JSON in blobs."""
    checkpoint_id = str(uuid6())
    values = {"n": 3, "kept": "k", "messages": [message("HumanMessage", "hi"), message("AIMessage", "a0")]}
    versions = {"n": 5.467014202888, "kept": 2.244542113968, "messages": 5.467014202888, "__start__": 2.244542113968}
    branches = {"branch:to:a": 5.467014202888, "branch:to:b": 4.697222514547}
    blobs = [
        {"channel": name, "version": versions[name], "type": "json", "blob": b64encode(json.dumps(value).encode())}
        for name, value in values.items()
    ]
    return {
        "thread_id": thread_id,
        "checkpoint_id": checkpoint_id,
        "checkpoint": {
            "v": 4,
            "id": checkpoint_id,
            "ts": "2026-11-28T03:32:20.913Z",
            "channel_versions": {**versions, **branches},
            "versions_seen": {
                "a": {"branch:to:a": 4.697222514547},
                "b": {"branch:to:b": 3.819902117959},
                "__input__": {},
                "__start__": {"__start__": 1.594611727078},
            },
        },
        "metadata": {"step": 3, "source": "loop", "parents": {}},
        "blobs": [{**blob, "blob": blob["blob"].decode()} for blob in blobs]
        + [{"channel": name, "version": version, "type": "empty", "blob": None} for name, version in branches.items()],
    }


def store(service: Service, body: dict[str, Any]) -> None:
    headers = {} if service.key is None else {"x-agent-api-key": service.key}
    httpx.post(f"{service.url}/checkpoints/put", json=body, headers=headers).raise_for_status()


@pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])
async def test_a_thread_of_typescript_goes_on_in_python(service: Service, thread_id: str, synchronous: bool) -> None:
    body = of_typescript(thread_id)
    store(service, body)
    config: Any = {"configurable": {"thread_id": thread_id}}
    async with HttpCheckpointSaver(service.url, service.key) as saver:
        runner = graph(saver)
        for _ in range(3):  # Each reads what the run before has stored.
            given = {"n": 0, "messages": [HumanMessage("again")]}
            result = runner.invoke(given, config) if synchronous else await runner.ainvoke(given, config)
        said = [(item.type, item.content) for item in result["messages"]]
        assert said == [("human", "hi"), ("ai", "a0"), *[("human", "again"), ("ai", "a0"), ("ai", "a2")] * 3]
        assert (result["n"], result["kept"]) == (3, "k")
        history = [item async for item in runner.aget_state_history(config)]
        assert len(history) == 1 + 3 * 5
        assert history[-1].values["kept"] == "k"
        item = await saver.aget_tuple(config)
        assert item is not None
        versions = item.checkpoint["channel_versions"]
        # A thread has versions of one kind: LangGraph compares them with each other.
        assert {type(version) for version in versions.values()} == {float}
        assert versions["kept"] == body["checkpoint"]["channel_versions"]["kept"]


def test_versions_that_are_numbers_grow() -> None:
    saver = HttpCheckpointSaver("http://service")
    current: Any = 5.999999999999
    for number in range(6, 2000):
        following: Any = saver.get_next_version(current, None)
        assert type(following) is float
        assert number <= following <= number + 1
        assert following > current
        # JSON and jsonb give it back.
        assert json.loads(json.dumps(following)) == following
        assert "e" not in repr(following)
        current = following if following < number + 1 else number + 0.5
    assert saver.get_next_version(1.5, None) != saver.get_next_version(1.5, None)
