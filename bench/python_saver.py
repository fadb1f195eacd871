"""LangGraph's AsyncPostgresSaver, called directly: a load generator as load.ts is one, which gets its steps ready made.

Commands: `versions`; `setup`, which lets the saver make its tables in DATABASE_URL; `load`, with a LoadSpec on standard input.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

CONNECTIONS = 10
CHECK_EVERY = 16
POLL_SECONDS = 0.01


class Load:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.steps = spec["steps"]
        self.contents = [base64.b64decode(piece) for piece in spec["pieces"]]
        self.latencies_ms: list[float] = []
        self.acknowledged: Counter[str] = Counter()
        self.phase = "warm-up"

    async def run(self) -> dict[str, Any]:
        kwargs = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        async with AsyncConnectionPool(
            self.spec["url"], min_size=CONNECTIONS, max_size=CONNECTIONS, kwargs=kwargs
        ) as pool:
            await pool.wait()
            # A saver holds a lock while it uses a connection, so each agent has one of its own.
            savers = [AsyncPostgresSaver(pool) for _ in range(self.spec["agents"])]
            agents = asyncio.gather(*(self.agent(saver) for saver in savers))
            await asyncio.wait([agents], timeout=self.spec["warmUpMs"] / 1000)
            say({"event": "begin"})
            self.phase = "timed"
            begin = time.perf_counter()
            await asyncio.wait([agents], timeout=self.spec["timedMs"] / 1000)
            while not self.latencies_ms and not agents.done():
                await asyncio.sleep(POLL_SECONDS)
            self.phase = "over"
            seconds = time.perf_counter() - begin
            say({"event": "end"})
            await agents
        ordered = sorted(self.latencies_ms)

        def percentile(share: float) -> float:
            return ordered[int(share * len(ordered))] if ordered else 0.0

        return {
            "operations": len(ordered),
            "seconds": seconds,
            "latencyMs": {"p50": percentile(0.5), "p95": percentile(0.95), "p99": percentile(0.99)},
            "acknowledged": self.acknowledged,
        }

    async def agent(self, saver: AsyncPostgresSaver) -> None:
        reads = 0
        checked_thread = ""
        for thread, step in self.walk():
            for operation in self.spec["operations"]:
                if operation == "put":
                    await self.timed(operation, self.put(saver, thread, step))
                elif operation == "put-writes":
                    for task in step["tasks"]:
                        await self.timed(operation, self.put_writes(saver, thread, step, task))
                else:
                    is_new = self.spec["walk"]["kind"] == "new threads" and thread != checked_thread
                    await self.timed(operation, self.get(saver, thread, step, reads % CHECK_EVERY == 0 or is_new))
                    reads += 1
                    checked_thread = thread

    def walk(self) -> Iterator[tuple[str, Any]]:
        while self.phase != "over":
            if self.spec["walk"]["kind"] == "stored threads":
                yield random.choice(self.spec["threads"]), self.steps[-1]
                continue
            thread = str(uuid4())
            for step in self.steps:
                if self.phase == "over":
                    return
                yield thread, step

    async def timed(self, operation: str, answer: Awaitable[None]) -> None:
        begin = time.perf_counter()
        await answer
        if self.phase == "timed":
            self.latencies_ms.append((time.perf_counter() - begin) * 1000)
        self.acknowledged[operation] += 1

    async def put(self, saver: AsyncPostgresSaver, thread: str, step: Any) -> None:
        checkpoint = {**step["checkpoint"], "channel_values": self.values(step)}
        versions = {blob["channel"]: blob["version"] for blob in step["fresh"]}
        config = config_of(thread, step["parentCheckpointId"])
        await saver.aput(config, checkpoint, step["metadata"], versions)

    async def put_writes(self, saver: AsyncPostgresSaver, thread: str, step: Any, task: Any) -> None:
        writes = [(write["channel"], self.written(write)) for write in task["writes"]]
        config = config_of(thread, step["checkpointId"])
        await saver.aput_writes(config, writes, task["taskId"], "~__pregel_pull, model")

    async def get(self, saver: AsyncPostgresSaver, thread: str, step: Any, is_checked: bool) -> None:
        found = await saver.aget_tuple(config_of(thread, None))
        if not is_checked:
            return
        stored = (
            {**step["checkpoint"], "channel_values": self.values(step)},
            step["metadata"],
            [
                (task["taskId"], write["channel"], self.written(write))
                for task in step["tasks"]
                for write in task["writes"]
            ],
        )
        given = found and (found.checkpoint, found.metadata, sorted(found.pending_writes or []))
        if given != stored:
            raise RuntimeError(f"aget_tuple of {thread} is not what was stored")

    def values(self, step: Any) -> dict[str, bytes]:
        return {blob["channel"]: self.contents[blob["piece"]] for blob in step["current"]}

    def written(self, write: Any) -> bytes:
        return self.contents[write["piece"]][: self.spec["shape"]["writeBytes"]]


def config_of(thread: str, checkpoint_id: str | None) -> Any:
    given = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
    return {"configurable": {"thread_id": thread, "checkpoint_ns": "", **given}}


def say(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


async def main(command: str) -> None:
    if command == "versions":
        packages = ("langgraph-checkpoint-postgres", "psycopg", "psycopg-pool")
        print(sys.version.split()[0], *(f"{name} {version(name)}" for name in packages), sep=", ")
    elif command == "setup":
        async with AsyncPostgresSaver.from_conn_string(os.environ["DATABASE_URL"]) as saver:
            await saver.setup()
    else:
        say({"event": "result", "result": await Load(json.load(sys.stdin)).run()})


asyncio.run(main(sys.argv[1]))
