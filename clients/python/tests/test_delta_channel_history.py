"""The ninth capability, which the published suite has no tests of yet: what delta channels are rebuilt from.

Each history is compared with those of LangGraph's own in-memory and Postgres savers, and with what the base class makes
of `get_tuple`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from conftest import Service
from front import front_of
from graphs import DELTA, Run
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langgraph_checkpoint_http import HttpCheckpointSaver

BOTH = pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])
# Ids that sort against the order of the paths.
EARLY, LATE = "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"


@dataclass
class Step:
    """A checkpoint and the writes on top of it. The parent is the step before, or the one of that number."""

    values: dict[str, Any] = field(default_factory=dict)
    writes: list[tuple[str, str, list[tuple[str, Any]]]] = field(default_factory=list)
    parent: int | None = None


def wrote(*values: Any, channel: str = "ch", task_id: str = "task", path: str = "~p") -> Any:
    return task_id, path, [(channel, value) for value in values]


@dataclass
class Case:
    steps: list[Step]
    expected: dict[str, Any]
    channels: list[str] = field(default_factory=lambda: ["ch"])
    target: int = -1


CASES = {
    "oldest first, without those of the target": Case(
        [Step(writes=[wrote(n)]) for n in range(4)],
        {"ch": {"writes": [0, 1, 2]}},
    ),
    "from the nearest snapshot, with its own writes": Case(
        [
            Step({"ch": _DeltaSnapshot(["a"])}, [wrote("lost")]),
            Step({"ch": _DeltaSnapshot(["b"])}, [wrote("at the seed")]),
            Step(writes=[wrote("after")]),
            Step(writes=[wrote("pending")]),
        ],
        {"ch": {"seed": _DeltaSnapshot(["b"]), "writes": ["at the seed", "after"]}},
    ),
    "from a value of before": Case(
        [Step({"ch": [1, 2]}, [wrote("at")]), Step(writes=[wrote("after")]), Step()],
        {"ch": {"seed": [1, 2], "writes": ["at", "after"]}},
    ),
    "from a primitive of before": Case(
        [
            Step({"ch": "text"}, [wrote("lost")]),
            Step({"ch": 1.0}, [wrote("at")]),
            Step(writes=[wrote("after")]),
            Step(),
        ],
        {"ch": {"seed": 1.0, "writes": ["at", "after"]}},
    ),
    "a true value is no marker": Case(
        [Step({"ch": True}, [wrote("at")]), Step()],
        {"ch": {"seed": True, "writes": ["at"]}},
    ),
    "a snapshot of a primitive": Case(
        [Step({"ch": _DeltaSnapshot(7)}, [wrote("at")]), Step()],
        {"ch": {"seed": _DeltaSnapshot(7), "writes": ["at"]}},
    ),
    "each channel ends where it has its seed": Case(
        [
            Step({"a": _DeltaSnapshot("a")}, [wrote(0, channel="a"), wrote(0, channel="b", task_id="other")]),
            Step({"b": [1]}, [wrote(1, channel="a"), wrote(1, channel="b", task_id="other")]),
            Step({}, [wrote(2, channel="a"), wrote(2, channel="b", task_id="other")]),
            Step(),
        ],
        {
            "a": {"seed": _DeltaSnapshot("a"), "writes": [0, 1, 2]},
            "b": {"seed": [1], "writes": [1, 2]},
            "c": {"writes": []},
        },
        channels=["a", "b", "c"],
    ),
    "along the parents, not in time": Case(
        [
            Step(writes=[wrote("root")]),
            Step(writes=[wrote("left")]),
            Step(writes=[wrote("left again")]),
            Step(writes=[wrote("right")], parent=0),
            Step(),
        ],
        {"ch": {"writes": ["root", "right"]}},
    ),
    "from a checkpoint in the middle": Case(
        [Step(writes=[wrote(n)]) for n in range(5)], {"ch": {"writes": [0, 1]}}, target=2
    ),
    "in the order in which a run applies the writes of parallel tasks": Case(
        [
            Step(
                writes=[
                    wrote("third", "fourth", task_id=EARLY, path="~pull, 02"),
                    wrote("second", task_id=LATE, path="~pull, 01"),
                    wrote("first", task_id=LATE[::-1] + "x", path=""),
                ]
            ),
            Step(),
        ],
        {"ch": {"writes": ["first", "second", "third", "fourth"]}},
    ),
    "no channels": Case([Step(writes=[wrote(1)]), Step()], {}, channels=[]),
}


def store(saver: BaseCheckpointSaver[str], thread_id: str, steps: list[Step]) -> list[Any]:
    configs: list[Any] = []
    for number, step in enumerate(steps):
        parent = number - 1 if step.parent is None else step.parent
        config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": "sub:1"}}
        if parent >= 0:
            config = configs[parent]
        versions = {channel: f"{number + 1:032}.0" for channel in step.values}
        checkpoint: Any = {
            "v": 4,
            "id": str(uuid6()),
            "ts": "",
            "channel_values": step.values,
            "channel_versions": versions,
            "versions_seen": {},
        }
        stored = saver.put(config, checkpoint, {"step": number}, versions)  # type: ignore[arg-type]
        configs.append(stored)
        for task_id, path, writes in step.writes:
            saver.put_writes(stored, writes, task_id, path)
    return configs


def values_of(histories: Any) -> Any:
    return {
        channel: {**history, "writes": [value for _, written, value in history["writes"] if written == channel]}
        for channel, history in histories.items()
    }


async def history(saver: Any, config: Any, channels: list[str], synchronous: bool) -> Any:
    if synchronous:
        return saver.get_delta_channel_history(config=config, channels=channels)
    return await saver.aget_delta_channel_history(config=config, channels=channels)


@pytest.mark.parametrize("case", CASES)
@BOTH
async def test_history(
    async_saver: HttpCheckpointSaver, database_url: str, thread_id: str, case: str, synchronous: bool
) -> None:
    steps, expected, channels = CASES[case].steps, CASES[case].expected, CASES[case].channels
    config = store(async_saver, thread_id, steps)[CASES[case].target]
    ours = await history(async_saver, config, channels, synchronous)
    assert values_of(ours) == expected
    assert [type(entry.get("seed")) for entry in ours.values()] == [
        type(entry.get("seed")) for entry in expected.values()
    ]
    memory = InMemorySaver()
    assert ours == memory.get_delta_channel_history(
        config=store(memory, thread_id, steps)[CASES[case].target], channels=channels
    )
    with PostgresSaver.from_conn_string(database_url) as postgres:
        assert ours == postgres.get_delta_channel_history(config=config, channels=channels)
    if case not in ("a snapshot of a primitive",):
        assert ours == BaseCheckpointSaver.get_delta_channel_history(async_saver, config=config, channels=channels)


@BOTH
async def test_the_latest_and_none(async_saver: HttpCheckpointSaver, thread_id: str, synchronous: bool) -> None:
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": "sub:1"}}
    assert await history(async_saver, config, ["ch"], synchronous) == {"ch": {"writes": []}}
    store(async_saver, thread_id, [Step(writes=[wrote(1)]), Step(writes=[wrote(2)])])
    assert values_of(await history(async_saver, config, ["ch"], synchronous)) == {"ch": {"writes": [1]}}
    config["configurable"]["checkpoint_id"] = "unknown"
    assert await history(async_saver, config, ["ch"], synchronous) == {"ch": {"writes": []}}


@BOTH
async def test_a_long_chain_is_one_request(service: Service, thread_id: str, synchronous: bool) -> None:
    with front_of(service.url) as front:
        async with HttpCheckpointSaver(front.url, api_key=service.key) as saver:
            config = store(saver, thread_id, [Step(writes=[wrote(n, task_id=str(uuid4()))]) for n in range(300)])[-1]
            front.seen.clear()
            found = await history(saver, config, ["ch"], synchronous)
            assert values_of(found) == {"ch": {"writes": list(range(299))}}
            assert front.operations() == ["delta-channel-history"]


@BOTH
@pytest.mark.parametrize("keep", ["prune", "copy"])
async def test_delta_channels_outlive_prune_and_copy(
    async_saver: HttpCheckpointSaver, thread_id: str, keep: str, synchronous: bool
) -> None:
    run = Run(DELTA.build, async_saver, thread_id, synchronous=synchronous)
    for turn in range(6):
        await run.invoke({"rare": [f"input {turn}"], "often": []})
    before = (await run.state()).values
    assert len(before["rare"]) == 6 * 9
    count = len(await run.history())
    target = f"{thread_id}-copy"
    operation: Callable[[], Any]
    if keep == "prune":
        operation = (
            (lambda: async_saver.prune([thread_id])) if synchronous else (lambda: async_saver.aprune([thread_id]))
        )
    else:
        operation = (
            (lambda: async_saver.copy_thread(thread_id, target))
            if synchronous
            else (lambda: async_saver.acopy_thread(thread_id, target))
        )
        run.config = {"configurable": {"thread_id": target}}
    done = operation()
    if not synchronous:
        await done
    assert (await run.state()).values == before
    if keep == "copy":
        assert len(await run.history()) == count
    await run.invoke({"rare": ["more"], "often": []})
    assert (await run.state()).values["rare"][: len(before["rare"]) + 1] == [*before["rare"], "more"]
