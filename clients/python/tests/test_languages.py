"""Threads that an agent in TypeScript began, and an agent in Python continues."""

from __future__ import annotations

import json
import operator
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from conftest import Service
from graphs import skip_without_context
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Interrupt, Send, interrupt

from langgraph_checkpoint_http import HttpCheckpointSaver, OtherLanguageError

BOTH = pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])


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


@BOTH
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


# --- questions

QUESTIONS = {
    "one": ["send"],
    "two": ["send", "when"],
    "beside": ["send"],
    "both": ["left", "right"],
    "within": ["send"],
    "sent": ["send"],
}
ENDS = {
    "one": ["begin", "before", "send: yes", "after"],
    "two": ["begin", "send: yes", "when: yes"],
    "beside": ["begin", "send: yes", "side"],
    "both": ["begin", "left: yes", "right: yes"],
    "within": ["begin", "begin", "inner", "send: yes", "after"],  # A subgraph gives back what it was given.
    "sent": ["begin", "plan", "send: yes"],
}


class Log(TypedDict):
    log: Annotated[list[str], operator.add]


def say(word: str) -> Any:
    return lambda state: {"log": [word]}


def ask(*questions: str) -> Any:
    return lambda state: {"log": [f"{question}: {interrupt(question)}" for question in questions]}


def chain(**nodes: Any) -> Any:
    builder = StateGraph(Log)
    previous = START
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(previous, name)
        previous = name
    return builder


def together(**nodes: Any) -> Any:
    builder = StateGraph(Log)
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(START, name)
    return builder


def sending(**nodes: Any) -> Any:
    builder = StateGraph(Log)
    builder.add_node("plan", say("plan"))
    builder.add_edge(START, "plan")
    for name, node in nodes.items():
        builder.add_node(name, node)
    builder.add_conditional_edges("plan", lambda state: [Send(name, {"log": []}) for name in nodes], list(nodes))
    return builder


GRAPHS: dict[str, Any] = {
    "one": chain(before=say("before"), ask=ask("send"), after=say("after")),
    "two": chain(ask=ask("send", "when")),
    "beside": together(side=say("side"), ask=ask("send")),
    "both": together(left=ask("left"), right=ask("right")),
    "within": chain(sub=chain(inner=say("inner"), ask=ask("send")).compile(), after=say("after")),
    "sent": sending(ask=ask("send")),
}


class TypeScript:
    """The same graphs, run by typescript_agent.mjs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, graph: str, thread_id: str, resume: str | None = None) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        task = {"graph": graph, "threadId": thread_id} | ({} if resume is None else {"resume": resume})
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def typescript(service: Service) -> Iterator[TypeScript]:
    agent = str(Path(__file__).parent / "typescript_agent.mjs")
    command = ["node", agent, service.url, *([] if service.key is None else [service.key])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield TypeScript(process)


class Python:
    def __init__(self, graph: str, saver: HttpCheckpointSaver, thread_id: str, synchronous: bool) -> None:
        skip_without_context(synchronous=synchronous)
        self._graph = GRAPHS[graph].compile(checkpointer=saver)
        self._config: Any = {"configurable": {"thread_id": thread_id}}
        self._synchronous = synchronous

    async def run(self, given: Any) -> Any:
        """The log, and the questions that are open."""
        run = self._graph.invoke(given, self._config) if self._synchronous else self._graph.ainvoke(given, self._config)
        result = run if self._synchronous else await run
        return result["log"], sorted(question.value for question in result.get("__interrupt__", []))

    async def questions(self) -> list[Interrupt]:
        return list((await self._graph.aget_state(self._config)).interrupts)

    async def answer_all(self) -> list[str]:
        """The log after that."""
        while questions := await self.questions():
            log, _ = await self.run(Command(resume={questions[0].id: "yes"}))
        return sorted(log)


@BOTH
async def test_a_question_of_typescript_is_answered_in_python(
    async_saver: HttpCheckpointSaver, typescript: TypeScript, thread_id: str, synchronous: bool
) -> None:
    assert typescript.run("one", thread_id) == {"log": ["begin", "before"], "asked": ["send"]}
    python = Python("one", async_saver, thread_id, synchronous)
    assert await python.run(Command(resume="yes")) == (ENDS["one"], [])
    assert typescript.run("one", thread_id) == {"error": "OtherLanguageError"}


@BOTH
async def test_a_node_that_was_asked_in_typescript_asks_on_in_python(
    async_saver: HttpCheckpointSaver, typescript: TypeScript, thread_id: str, synchronous: bool
) -> None:
    assert typescript.run("two", thread_id)["asked"] == ["send"]
    python = Python("two", async_saver, thread_id, synchronous)
    assert await python.run(Command(resume="yes")) == (["begin"], ["when"])
    assert [question.value for question in await python.questions()] == ["when"]
    assert await python.run(Command(resume="now")) == (["begin", "send: yes", "when: now"], [])


def ask_in_typescript(typescript: TypeScript, graph: str, thread_id: str) -> None:
    assert typescript.run(graph, thread_id)["asked"] == QUESTIONS[graph][: 1 if graph == "two" else None]
    if graph == "two":  # Of which the first has an answer.
        assert typescript.run(graph, thread_id, "yes")["asked"] == ["when"]


@BOTH
@pytest.mark.parametrize("graph", ["two", "beside", "both", "within", "sent"])
async def test_an_answer_that_would_go_astray_is_refused(
    async_saver: HttpCheckpointSaver, typescript: TypeScript, graph: str, thread_id: str, synchronous: bool
) -> None:
    ask_in_typescript(typescript, graph, thread_id)
    python = Python(graph, async_saver, thread_id, synchronous)
    with pytest.raises(OtherLanguageError, match=f"thread '{thread_id}'.*None as input"):
        await python.run(Command(resume="no"))
    if graph != "both":  # Which takes ids. The others are as they were.
        assert sorted(typescript.run(graph, thread_id, "yes")["log"]) == sorted(ENDS[graph])


@BOTH
@pytest.mark.parametrize("graph", list(GRAPHS))
async def test_python_asks_again_what_typescript_has_asked(
    async_saver: HttpCheckpointSaver, typescript: TypeScript, graph: str, thread_id: str, synchronous: bool
) -> None:
    ask_in_typescript(typescript, graph, thread_id)
    python = Python(graph, async_saver, thread_id, synchronous)
    _, asked = await python.run(None)
    assert asked == sorted(QUESTIONS[graph][: 1 if graph == "two" else None])
    assert await python.answer_all() == sorted(ENDS[graph])


@BOTH
async def test_a_run_with_new_input_leaves_the_question_of_typescript_behind(
    async_saver: HttpCheckpointSaver, typescript: TypeScript, thread_id: str, synchronous: bool
) -> None:
    ask_in_typescript(typescript, "within", thread_id)
    python = Python("within", async_saver, thread_id, synchronous)
    log, asked = await python.run({"log": ["again"]})
    assert (log, asked) == (["begin", "again"], ["send"])


@BOTH
@pytest.mark.parametrize("graph", list(GRAPHS))
async def test_typescript_refuses_a_question_of_python(
    async_saver: HttpCheckpointSaver, typescript: TypeScript, graph: str, thread_id: str, synchronous: bool
) -> None:
    python = Python(graph, async_saver, thread_id, synchronous)
    await python.run({"log": ["begin"]})
    assert typescript.run(graph, thread_id, "yes") == {"error": "OtherLanguageError"}
    assert await python.answer_all() == sorted(ENDS[graph])
