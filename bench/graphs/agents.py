"""Agents in one process, each a graph of two nodes in a loop, and what a superstep costs this process.

Reads a Task of scenarios.ts from standard input, and prints a Sample of it.
"""

from __future__ import annotations

import asyncio
import json
import operator
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any
from uuid import uuid4

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from typing_extensions import TypedDict

from langgraph_checkpoint_http import HttpCheckpointSaver

CONNECTIONS = 10
POOL: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}

task = json.load(sys.stdin)
SUPERSTEPS, MESSAGE = task["supersteps"], "x" * task["messageBytes"]


class State(TypedDict):
    messages: Annotated[list[str], operator.add]
    left: int


def say(state: State) -> dict[str, Any]:
    return {"messages": [MESSAGE], "left": state["left"] - 1}


async def asay(state: State) -> dict[str, Any]:
    return say(state)


def graph_of(saver: Any, node: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("model", node)
    graph.add_node("tool", node)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", lambda state: "tool" if state["left"] > 0 else END)
    graph.add_conditional_edges("tool", lambda state: "model" if state["left"] > 0 else END)
    return graph.compile(checkpointer=saver)


def call(supersteps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The input of a run on a thread of its own, with the messages that were said before, and its config."""
    config = {"configurable": {"thread_id": str(uuid4())}, "recursion_limit": supersteps + 10}
    return {"messages": [MESSAGE] * task["messagesBefore"], "left": supersteps}, config


class Meter:
    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def sample(self) -> dict[str, float]:
        supersteps = task["agents"] * SUPERSTEPS
        return {
            "wallMs": (time.perf_counter() - self.wall) * 1000 / supersteps,
            "cpuMs": (time.process_time() - self.cpu) * 1000 / supersteps,
        }


@asynccontextmanager
async def async_savers() -> AsyncIterator[list[Any]]:
    agents = range(task["agents"])
    if task["saver"] == "memory":
        yield [InMemorySaver() for _ in agents]
    elif task["saver"] == "service":
        async with HttpCheckpointSaver(task["serviceUrl"]) as saver:
            yield [saver for _ in agents]
    else:
        async with AsyncConnectionPool(task["databaseUrl"], max_size=CONNECTIONS, kwargs=POOL) as pool:
            # A saver holds a lock while it uses a connection, so each agent has one of its own.
            own = [AsyncPostgresSaver(pool) for _ in agents]
            await own[0].setup()
            yield own


@contextmanager
def savers() -> Iterator[list[Any]]:
    agents = range(task["agents"])
    if task["saver"] == "memory":
        yield [InMemorySaver() for _ in agents]
    elif task["saver"] == "service":
        with HttpCheckpointSaver(task["serviceUrl"]) as saver:
            yield [saver for _ in agents]
    else:
        with ConnectionPool(task["databaseUrl"], max_size=CONNECTIONS, kwargs=POOL) as pool:
            own = [PostgresSaver(pool) for _ in agents]
            own[0].setup()
            yield own


async def run_async() -> dict[str, float]:
    async with async_savers() as own:
        graphs = [graph_of(saver, asay) for saver in own]

        async def run(graph: Any, supersteps: int) -> None:
            given, config = call(supersteps)
            state = await graph.ainvoke(given, config, durability=task["durability"])
            check(state, supersteps)

        await asyncio.gather(*(run(graph, task["warmUp"]) for graph in graphs))
        meter = Meter()
        await asyncio.gather(*(run(graph, SUPERSTEPS) for graph in graphs))
        return meter.sample()


def run_sync() -> dict[str, float]:
    with savers() as own, ThreadPoolExecutor(task["agents"]) as threads:
        graphs = [graph_of(saver, say) for saver in own]

        def run(graph: Any, supersteps: int) -> None:
            given, config = call(supersteps)
            check(graph.invoke(given, config, durability=task["durability"]), supersteps)

        list(threads.map(lambda graph: run(graph, task["warmUp"]), graphs))
        meter = Meter()
        list(threads.map(lambda graph: run(graph, SUPERSTEPS), graphs))
        return meter.sample()


def check(state: Any, supersteps: int) -> None:
    if len(state["messages"]) != task["messagesBefore"] + supersteps:
        raise RuntimeError(f"A run of {supersteps} supersteps ended with {len(state['messages'])} messages")


print(json.dumps(asyncio.run(run_async()) if task["language"] == "Python, async" else run_sync()))
