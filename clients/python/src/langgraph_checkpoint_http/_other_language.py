"""What an agent in TypeScript stored as JSON, and an agent in Python takes for an object: packets and questions.

A node whose `interrupt()` is answered runs again from its beginning. LangGraph then looks up by the task's id what the
node was told before, and which nodes of the step have finished. The two languages make these ids in different ways, so
Python finds nothing. It can answer where there is nothing to find: the first question of a node, when nothing else of
its step is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from langgraph.checkpoint.base import PendingWrite
from langgraph.checkpoint.serde.types import INTERRUPT, RESUME

from langgraph_checkpoint_http._errors import OtherLanguageError

# LangGraph's task id of what no task wrote, such as an answer.
_NO_TASK = "00000000-0000-0000-0000-000000000000"
# What the path of a task begins with when an edge leads to its node, before the node's name.
_BY_AN_EDGE = "~__pregel_pull, "


@dataclass(frozen=True)
class Unanswerable:
    """In place of a question. LangGraph asks for its id when a run brings an answer, and only then."""

    value: Any
    thread_id: str

    @property
    def id(self) -> str:
        raise OtherLanguageError(
            "it waits for the answer to a question of an agent in TypeScript, which an agent in Python cannot give. "
            "Run the graph with None as input: unfinished and finished nodes of this step run again, and ask in Python",
            operation="get-tuple",
            thread_id=self.thread_id,
        )


def with_sends(packets: Any) -> Any:
    """The packets that a step has sent to the nodes of the next one. LangGraph ignores what is no Send."""
    if isinstance(packets, list) and any(isinstance(packet, dict) for packet in packets):
        with suppress(ImportError):  # Without LangGraph itself nothing runs them.
            from langgraph.types import Send

            return [Send(one["node"], one["args"]) if isinstance(one, dict) else one for one in packets]
    return packets


def with_questions(writes: list[PendingWrite], item: Mapping[str, Any]) -> list[PendingWrite]:
    """The writes of the stored checkpoint `item`, with questions of TypeScript in the form of Python."""
    asked = {task_id for task_id, channel, value in writes if channel == INTERRUPT and _is_of_typescript(value)}
    if not asked:
        return writes
    paths = {write["task_id"]: write["task_path"] for write in item["pending_writes"]}
    is_alone = len([task_id for task_id, _, _ in writes if task_id != _NO_TASK]) == 1
    # A question of TypeScript has had it, maybe one before those that are open. Python would give it to the first one.
    has_answer = any(_is_answer_of_typescript(write) for write in item["pending_writes"])
    found: list[PendingWrite] = []
    for task_id, channel, value in writes:
        if task_id in asked and channel == INTERRUPT:
            # A node that Python has run since, as another task of the same path, asks in Python.
            if not any(other != task_id and path == paths[task_id] for other, path in paths.items() if path):
                found.append((task_id, channel, _questions(value, task_id, paths[task_id], item, is_alone)))
        elif not (has_answer and task_id == _NO_TASK and channel == RESUME):
            found.append((task_id, channel, value))
    return found


def _questions(value: list[Any], task_id: str, path: str, item: Mapping[str, Any], is_alone: bool) -> list[Any]:
    if is_alone and len(value) == 1 and path.startswith(_BY_AN_EDGE):
        name = path.removeprefix(_BY_AN_EDGE)
        namespace = f"{item['checkpoint_ns']}|{name}" if item["checkpoint_ns"] else name
        with suppress(ImportError):  # Without LangGraph itself there is no run that could answer.
            from langgraph.types import Interrupt

            question: Any = Interrupt.from_ns(value[0].get("value"), f"{namespace}:{task_id}")
            # Later questions of a node, and those of a subgraph, have other ids.
            if question.id == value[0].get("id"):
                return [question]
    return [Unanswerable(one.get("value"), item["thread_id"]) for one in value]


def _is_of_typescript(value: Any) -> bool:
    """Python stores Interrupts."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _is_answer_of_typescript(stored: Mapping[str, Any]) -> bool:
    """It is JSON, which may be encrypted. Python stores msgpack."""
    return stored["task_id"] == _NO_TASK and stored["channel"] == RESUME and (stored["type"] or "").startswith("json")
