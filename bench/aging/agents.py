"""A process that holds a checkpointer for long: what it gains in memory over operations, event loops and aborted runs.

Reads `{"serviceUrl": …, "scale": 1}` from standard input, and prints a line of JSON for each sample.
"""

from __future__ import annotations

import asyncio
import gc
import json
import operator
import os
import sys
import threading
from collections.abc import Callable
from typing import Annotated, Any
from uuid import uuid4

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from langgraph_checkpoint_http import HttpCheckpointSaver

SAMPLES = 5
AT_ONCE = 16
METADATA: Any = {"source": "loop", "step": 1, "parents": {}}

task = json.load(sys.stdin)


def sample(phase: str, done: int) -> None:
    gc.collect()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    mb = pages * os.sysconf("SC_PAGE_SIZE") / 1024 / 1024
    descriptors = len(os.listdir("/proc/self/fd"))
    print(json.dumps({"phase": phase, "done": done, "mb": mb, "descriptors": descriptors}), flush=True)


def config_of(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}


async def a_step(saver: HttpCheckpointSaver, thread_id: str) -> None:
    """Five operations."""
    versions: Any = {"said": str(uuid4())}
    checkpoint: Any = {**empty_checkpoint(), "channel_values": {"said": ["x" * 500]}, "channel_versions": versions}
    config = await saver.aput(config_of(thread_id), checkpoint, METADATA, versions)
    await saver.aput_writes(config, [("said", ["y"])], str(uuid4()))
    await saver.aget_tuple(config_of(thread_id))
    async for _ in saver.alist(config_of(thread_id), limit=2):
        pass
    await saver.adelete_thread(thread_id)


async def operations(saver: HttpCheckpointSaver, count: int) -> None:
    async def agent() -> None:
        for _ in range(count // (5 * AT_ONCE)):
            await a_step(saver, str(uuid4()))

    await asyncio.gather(*(agent() for _ in range(AT_ONCE)))


def sync_operations(saver: HttpCheckpointSaver, count: int) -> None:
    def agent() -> None:
        for _ in range(count // AT_ONCE):
            saver.get_tuple(config_of("none"))

    threads = [threading.Thread(target=agent) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class State(TypedDict):
    said: Annotated[list[str], operator.add]


async def think(state: State) -> dict[str, Any]:
    await asyncio.sleep(0.005)
    return {"said": ["x" * 500]}


def endless(saver: HttpCheckpointSaver) -> Any:
    graph = StateGraph(State)
    graph.add_node("model", think)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", lambda state: "model" if len(state["said"]) < 1000 else END)
    return graph.compile(checkpointer=saver)


async def aborted_runs(graph: Any, count: int) -> None:
    async def agent() -> None:
        for _ in range(count // AT_ONCE):
            run = asyncio.create_task(graph.ainvoke({"said": []}, config_of(str(uuid4()))))
            await asyncio.sleep(0.02)
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)

    await asyncio.gather(*(agent() for _ in range(AT_ONCE)))


def repeated(phase: str, count: int, run: Callable[[int], None]) -> None:
    """The first sample comes after a fifth: until then caches fill."""
    count = max(AT_ONCE * 5, int(count * task["scale"]) // SAMPLES)
    for number in range(SAMPLES + 1):
        run(count)
        sample(phase, count * number)


held = HttpCheckpointSaver(task["serviceUrl"])
repeated("synchronous operations", 20_000, lambda count: sync_operations(held, count))
with asyncio.Runner() as runner:
    repeated("asynchronous operations", 100_000, lambda count: runner.run(operations(held, count)))
repeated(
    "event loops",
    1_000,
    lambda count: [asyncio.run(a_step(held, str(uuid4()))) for _ in range(count)],  # type: ignore[func-returns-value]
)
with asyncio.Runner() as runner:
    graph = endless(held)
    repeated("aborted runs", 1_000, lambda count: runner.run(aborted_runs(graph, count)))
