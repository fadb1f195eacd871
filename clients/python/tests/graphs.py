"""Graphs without any model, what is done with each, and what came of it, told without ids and times."""

from __future__ import annotations

import dataclasses
import operator
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Interrupt, Send, StateSnapshot, interrupt

Saver = BaseCheckpointSaver[str]


class Run:
    """A compiled graph on one thread, driven through its asynchronous or its synchronous methods."""

    def __init__(self, build: Callable[[Saver], Any], saver: Saver, thread_id: str, *, synchronous: bool) -> None:
        self._build = build
        self.graph = build(saver)
        self.synchronous = synchronous
        self.config: dict[str, Any] = {"configurable": {"thread_id": thread_id}, "recursion_limit": 3000}
        self.outputs: list[Any] = []

    def switch(self, saver: Saver, *, synchronous: bool) -> None:
        """Goes on with another checkpointer, as another process would."""
        self.graph = self._build(saver)
        self.synchronous = synchronous

    async def invoke(self, value: Any, config: Any = None, **options: Any) -> Any:
        config = {**self.config, **(config or {})}
        if self.synchronous:
            output = self.graph.invoke(value, config, **options)
        else:
            output = await self.graph.ainvoke(value, config, **options)
        if isinstance(output, dict) and "__interrupt__" in output:
            # In the order in which the parallel tasks ended.
            output["__interrupt__"] = sorted(output["__interrupt__"], key=lambda item: str(item.value))
        self.outputs.append(output)
        return output

    async def update(self, config: Any, values: Any, **options: Any) -> Any:
        if self.synchronous:
            return self.graph.update_state(config, values, **options)
        return await self.graph.aupdate_state(config, values, **options)

    async def state(self, **options: Any) -> StateSnapshot:
        if self.synchronous:
            return self.graph.get_state(self.config, **options)
        return await self.graph.aget_state(self.config, **options)

    async def history(self, config: Any = None, **options: Any) -> list[StateSnapshot]:
        config = {**self.config, **(config or {})}
        if self.synchronous:
            return list(self.graph.get_state_history(config, **options))
        return [snapshot async for snapshot in self.graph.aget_state_history(config, **options)]

    async def result(self) -> Any:
        """Outputs, last state with its subgraphs, and history; ids are replaced by the order of their appearance."""
        seen: dict[str, str] = {}
        history = await self.history()
        # A task's own state is given as a config or a snapshot; the snapshot of the last state has it all.
        state = await self.state(subgraphs=True)
        return {
            "history": [normal(snapshot, seen) for snapshot in reversed(history)],
            "state": normal(state, seen),
            "outputs": normal(self.outputs, seen),
        }


IDS = ("checkpoint_id", "checkpoint_ns", "thread_id", "run_id", "langgraph_checkpoint_ns")


def normal(value: Any, seen: dict[str, str]) -> Any:
    def named(kind: str, id_: str) -> str:
        return seen.setdefault(id_, f"{kind} {len(seen)}") if id_ else id_

    if isinstance(value, StateSnapshot):
        return {
            "values": normal(value.values, seen),
            "next": value.next,
            "config": normal(value.config, seen),
            "metadata": normal(value.metadata, seen),
            "parent": normal(value.parent_config, seen),
            "tasks": [
                {
                    "name": task.name,
                    "path": normal(task.path, seen),
                    "error": repr(task.error),
                    "interrupts": normal(task.interrupts, seen),
                    "state": normal(task.state, seen),
                    "result": normal(task.result, seen),
                }
                for task in value.tasks
            ],
            "interrupts": normal(value.interrupts, seen),
        }
    if isinstance(value, Interrupt):
        return {"interrupt": normal(value.value, seen)}
    if isinstance(value, BaseMessage):
        return normal({"kind": type(value).__name__, **value.model_dump()}, seen)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__, **normal(dataclasses.asdict(value), seen)}
    if isinstance(value, dict):
        items = {}
        for key, item in value.items():
            if key in ("parents", "checkpoint_map") and isinstance(item, dict):
                items[key] = {named("ns", ns): named("checkpoint", id_) for ns, id_ in item.items()}
            elif key in IDS and isinstance(item, str):
                items[key] = named(key, item)
            else:
                items[key] = normal(item, seen)
        return items
    if isinstance(value, (list, tuple)):
        return [normal(item, seen) for item in value]
    # Of equal numbers 1 and 1.0 are two.
    return (type(value).__name__, value) if isinstance(value, (int, float)) else value


# --- messages and tools


@tool
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


class Messages(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def chat_graph(saver: Saver) -> Any:
    def model(state: Messages) -> Any:
        last = state["messages"][-1]
        n = len(state["messages"])
        if isinstance(last, HumanMessage) and str(last.content).startswith("add "):
            _, a, b = str(last.content).split()
            call = {"name": "add", "args": {"a": int(a), "b": int(b)}, "id": f"call-{n}", "type": "tool_call"}
            return {"messages": [AIMessage("", id=f"ai-{n}", tool_calls=[call])]}
        return {"messages": [AIMessage(f"You said: {last.content}", id=f"ai-{n}")]}

    def tools_or_end(state: Messages) -> str:
        return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END

    def tools(state: Messages) -> Any:
        answer = ToolNode([add]).invoke(state, _NO_RUNTIME)
        for message in answer["messages"]:
            message.id = f"tool-{len(state['messages'])}"
        return answer

    graph = StateGraph(Messages)
    graph.add_node("model", model)
    graph.add_node("tools", tools)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_or_end, ["tools", END])
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=saver)


_NO_RUNTIME: Any = None


async def chat(run: Run) -> None:
    await run.invoke({"messages": [HumanMessage("hello", id="human-1")]})
    await run.invoke({"messages": [HumanMessage("add 2 40", id="human-2")]})
    await run.invoke({"messages": [HumanMessage("naïve 🎉 " * 50, id="human-3")]})


# --- Send fan-out


class Fan(TypedDict):
    items: list[int]
    out: Annotated[list[int], operator.add]
    total: float


def fan_graph(saver: Saver) -> Any:
    graph = StateGraph(Fan)
    graph.add_node("plan", lambda state: {"items": [item + 1 for item in state["items"]]})
    graph.add_node("work", lambda item: {"out": [item["n"] * 10]})
    graph.add_node("sum", lambda state: {"total": sum(state["out"]) / 4})
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", lambda state: [Send("work", {"n": n}) for n in state["items"]], ["work"])
    graph.add_edge("work", "sum")
    return graph.compile(checkpointer=saver)


async def fan_out(run: Run) -> None:
    await run.invoke({"items": list(range(12)), "out": []})
    await run.invoke({"items": [7], "out": []})


# --- a subgraph that asks


class Sub(TypedDict):
    question: str
    answers: Annotated[list[str], operator.add]


def subgraph_graph(saver: Saver) -> Any:
    inner = StateGraph(Sub)
    inner.add_node("prepare", lambda state: {"answers": ["prepared"]})
    inner.add_node("ask", lambda state: {"answers": [interrupt({"ask": state["question"]})]})
    inner.add_edge(START, "prepare")
    inner.add_edge("prepare", "ask")
    outer = StateGraph(Sub)
    outer.add_node("before", lambda state: {"question": state["question"] + "?"})
    outer.add_node("inner", inner.compile())
    outer.add_node("after", lambda state: {"answers": ["done"]})
    outer.add_edge(START, "before")
    outer.add_edge("before", "inner")
    outer.add_edge("inner", "after")
    return outer.compile(checkpointer=saver)


async def subgraph(run: Run) -> None:
    await run.invoke({"question": "who", "answers": []})
    run.outputs.append(await run.state(subgraphs=True))
    await run.invoke(Command(resume="me"))


# --- interrupts


class Approval(TypedDict):
    log: Annotated[list[str], operator.add]


def approval_graph(saver: Saver) -> Any:
    def ask(state: Approval) -> Any:
        first = interrupt("first")
        second = interrupt({"second": first})
        return {"log": [first, second]}

    def both(name: str) -> Callable[[Approval], Any]:
        return lambda state: {"log": [f"{name}: {interrupt(name)}"]}

    graph = StateGraph(Approval)
    graph.add_node("ask", ask)
    graph.add_node("left", both("left"))
    graph.add_node("right", both("right"))
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "left")
    graph.add_edge("ask", "right")
    return graph.compile(checkpointer=saver)


async def approval(run: Run) -> None:
    await run.invoke({"log": ["start"]})
    await run.invoke(Command(resume="one"))
    run.outputs.append(await run.state())
    await run.invoke(Command(resume="two"))
    state = await run.state()
    await run.invoke(Command(resume={item.id: f"yes {item.value}" for item in state.interrupts}))


# --- time travel


class Count(TypedDict):
    n: int
    trail: Annotated[list[str], operator.add]


def count_graph(saver: Saver) -> Any:
    graph = StateGraph(Count)
    for name in "abc":
        graph.add_node(name, lambda state, name=name: {"n": state["n"] + 1, "trail": [f"{name}{state['n']}"]})
    graph.add_edge(START, "a")
    graph.add_edge("a", "b")
    graph.add_edge("b", "c")
    return graph.compile(checkpointer=saver)


async def time_travel(run: Run) -> None:
    await run.invoke({"n": 0, "trail": []})
    await run.invoke({"n": 100, "trail": ["again"]})
    history = await run.history()
    before_c = next(snapshot for snapshot in history if snapshot.next == ("c",) and snapshot.values["n"] < 100)
    await run.invoke(None, before_c.config)
    fork = await run.update(before_c.config, {"n": 1000})
    await run.invoke(None, fork)
    await run.update(run.config, {"n": -1, "trail": ["by hand"]}, as_node="a")
    await run.invoke(None)
    run.outputs.append(await run.history(limit=3))
    run.outputs.append(await run.history(before=history[2].config))
    run.outputs.append(await run.history(filter={"source": "fork"}))
    run.outputs.append(await run.history(filter={"source": "update"}))


# --- a node that fails


def failing_graph(saver: Saver) -> Any:
    def fail(state: Approval) -> Any:
        if "mended" not in state["log"]:
            time.sleep(0.3)  # so that the other one has ended, and is not cancelled
            raise ValueError("broken")
        return {"log": ["fixed"]}

    graph = StateGraph(Approval)
    graph.add_node("works", lambda state: {"log": ["works"]})
    graph.add_node("fails", fail)
    graph.add_node("end", lambda state: {"log": ["end"]})
    graph.add_edge(START, "works")
    graph.add_edge(START, "fails")
    graph.add_edge(["works", "fails"], "end")
    return graph.compile(checkpointer=saver)


async def failing(run: Run) -> None:
    for value in ({"log": ["start"]}, None):
        try:
            await run.invoke(value)
        except ValueError as error:
            run.outputs.append(str(error))
    run.outputs.append(await run.state())
    await run.invoke({"log": ["mended"]})


# --- DeltaChannel


def append(value: list[str], writes: list[list[str]]) -> list[str]:
    return value + [item for write in writes for item in write]


class Delta(TypedDict):
    rare: Annotated[list[str], DeltaChannel(append, snapshot_frequency=1000)]
    often: Annotated[list[str], DeltaChannel(append, snapshot_frequency=3)]
    turn: int


def delta_graph(saver: Saver) -> Any:
    graph = StateGraph(Delta)
    # Enough parallel tasks that the order of their ids is, all but surely, not the order in which they are applied.
    names = [f"node{n}" for n in range(8)]
    graph.add_node("first", lambda state: {"turn": state.get("turn", 0) + 1})
    for name in names:
        graph.add_node(
            name,
            lambda state, name=name: {"rare": [f"{name} {state['turn']}"], "often": [f"{name} {state['turn']}"]},
        )
        graph.add_edge("first", name)
    graph.add_node("last", lambda state: {"often": [f"last {len(state['rare'])} {len(state['often'])}"]})
    graph.add_edge(START, "first")
    graph.add_edge(names, "last")
    return graph.compile(checkpointer=saver)


async def delta(run: Run) -> None:
    for turn in range(6):
        await run.invoke({"rare": [f"input {turn}"], "often": []})
    history = await run.history()
    old = next(snapshot for snapshot in reversed(history) if snapshot.next == ("last",))
    fork = await run.update(old.config, {"rare": ["by hand"]}, as_node="first")
    await run.invoke(None, fork)


# --- the functional interface


def functional_graph(saver: Saver) -> Any:
    @task
    def square(n: int) -> int:
        return n * n

    @entrypoint(checkpointer=saver)
    def work(n: int, *, previous: int | None) -> Any:
        numbers = [square(i).result() for i in range(n)]
        answer = interrupt(sum(numbers))
        return entrypoint.final(value=f"{answer} {previous}", save=sum(numbers) + (previous or 0))

    return work


async def functional(run: Run) -> None:
    for n in (4, 6):
        await run.invoke(n)
        await run.invoke(Command(resume=f"resumed {n}"))


# --- values of all kinds


@dataclass
class Point:
    x: float
    y: int


class Kinds(TypedDict):
    text: str
    whole: int
    real: float
    flag: bool
    none: None
    blob: bytes
    when: datetime
    numbers: set[int]
    nested: dict[str, Any]
    point: Point


def kinds_graph(saver: Saver) -> Any:
    graph = StateGraph(Kinds)
    graph.add_node("echo", lambda state: {"real": state["real"], "whole": state["whole"] + 1})
    graph.add_edge(START, "echo")
    return graph.compile(checkpointer=saver)


async def kinds(run: Run) -> None:
    await run.invoke(
        {
            "text": 'naïve 🎉 " \\ \n',
            "whole": 12345678901234567890,
            "real": 1.0,
            "flag": True,
            "none": None,
            "blob": bytes(range(256)),
            "when": datetime(2024, 2, 29, 12, 30, 1, 5, timezone.utc),
            "numbers": {1, 2, 3},
            "nested": {"a": [1, 2.0, {"b": None}]},
            "point": Point(1.0, 2),
        }
    )
    await run.invoke({"real": 5e-324, "whole": -(2**63)})
    await run.invoke({"real": 0.1 + 0.2, "text": ""})


# --- many steps


def long_graph(saver: Saver) -> Any:
    graph = StateGraph(Count)
    graph.add_node(
        "step", lambda state: {"n": state["n"] + 1, "trail": [str(state["n"])] if state["n"] % 50 == 0 else []}
    )
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: END if state["n"] >= 1000 else "step", ["step", END])
    return graph.compile(checkpointer=saver)


async def long(run: Run) -> None:
    await run.invoke({"n": 0, "trail": []})


def skip_without_context(*, synchronous: bool) -> None:
    """Of a node that asks, or streams."""
    if not synchronous and sys.version_info < (3, 11):
        pytest.skip("LangGraph's asynchronous nodes have no context before Python 3.11")


@dataclass(frozen=True)
class Scenario:
    name: str
    build: Callable[[Saver], Any]
    play: Callable[[Run], Awaitable[None]]
    # Whether nodes ask for their context, which asynchronous graphs have since Python 3.11.
    context: bool = False

    def skip_where_impossible(self, *, synchronous: bool) -> None:
        if self.context:
            skip_without_context(synchronous=synchronous)


SCENARIOS = [
    Scenario("messages and tools", chat_graph, chat, context=True),
    Scenario("send fan-out", fan_graph, fan_out),
    Scenario("subgraph with interrupt", subgraph_graph, subgraph, context=True),
    Scenario("interrupt and resume", approval_graph, approval, context=True),
    Scenario("time travel and fork", count_graph, time_travel),
    Scenario("failing node", failing_graph, failing),
    Scenario("functional", functional_graph, functional, context=True),
    Scenario("kinds of values", kinds_graph, kinds),
]
DELTA = Scenario("delta channel", delta_graph, delta)
LONG = Scenario("1,000 steps", long_graph, long)
