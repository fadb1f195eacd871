"""Between LangGraph's objects and the wire. Row for row it stores what langgraph-checkpoint-postgres stores."""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, cast
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_serializable_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot

from langgraph_checkpoint_http._body import Row
from langgraph_checkpoint_http._call import Reply, Request
from langgraph_checkpoint_http._other_language import with_questions, with_sends

_PARTS = ("blobs", "pending_writes", "pending_sends")
# From here on the sends of a step are in the checkpoint itself, no longer among the writes of its parent.
_FIRST_VERSION_WITH_SENDS = 4

_EMPTY = "empty"

# The first page is small, since many callers want one or two checkpoints; the next ones are as long as fits this.
_FIRST_PAGE = 20
_PAGE_BYTES = 4 * 1024 * 1024
_MAX_PAGE = 1000

STRATEGIES = ("keep_latest", "delete")
# Far below what one request may hold (ROWS_LIMIT).
_MAX_IDS = 1000

NextVersion = Callable[[None, None], str]


def get_tuple_request(config: RunnableConfig) -> Request:
    key = _key(config)
    return Request("get-tuple", key["thread_id"], {**key, "include": _PARTS}, stranger=_stranger_to(key, optional=True))


def put_request(
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
    serde: SerializerProtocol,
) -> Request:
    """Primitives stay inside the checkpoint, other values become blobs, a snapshot both, with `True` as its marker.

    Nothing inside a checkpoint is encrypted, so with encryption primitives become blobs too, which readers prefer. So
    do those that jsonb would change. Every checkpoint brings them, new or not: an earlier one, of another saver, may
    have them inline alone.
    """
    inline: dict[str, Any] = {}
    blobs: list[Row] = []
    versions: dict[str, Any] = dict(new_versions)
    for channel, value in checkpoint["channel_values"].items():
        if isinstance(value, _DeltaSnapshot):
            inline[channel] = True
        elif value is None or isinstance(value, (str, int, float, bool)):
            if _is_kept_by_jsonb(value) and not isinstance(serde, EncryptedSerializer):
                inline[channel] = value
                continue
            if channel in checkpoint["channel_versions"]:
                versions[channel] = checkpoint["channel_versions"][channel]
        if channel in versions:
            type_, data = serde.dumps_typed(value)
            blobs.append(({"channel": channel, "version": versions[channel], "type": type_}, data))
    key = _key(config)
    stored = {**key, "checkpoint_id": _id_text(checkpoint["id"], "checkpoint['id']")}
    return Request(
        "put",
        key["thread_id"],
        {
            **stored,
            "parent_checkpoint_id": key["checkpoint_id"],
            "checkpoint": {**checkpoint, "channel_values": inline},
            "metadata": get_serializable_checkpoint_metadata(config, metadata),
        },
        ("blobs", blobs),
        _stranger_to(stored),
    )


def stored_config(config: RunnableConfig, checkpoint: Checkpoint) -> RunnableConfig:
    """Where `put` has stored the checkpoint."""
    configurable = config["configurable"]
    return {
        "configurable": {
            "thread_id": configurable["thread_id"],
            "checkpoint_ns": configurable.get("checkpoint_ns") or "",
            "checkpoint_id": checkpoint["id"],
        }
    }


def put_writes_request(
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str,
    serde: SerializerProtocol,
) -> Request | None:
    """None when there is nothing to store."""
    key = _key(config)
    if key["checkpoint_id"] is None:
        raise _refused("config['configurable']['checkpoint_id']", None)
    if not writes:
        return None
    rows: list[Row] = []
    for idx, (channel, value) in enumerate(writes):
        type_, data = serde.dumps_typed(value)
        of_row = {
            "task_id": task_id,
            "task_path": task_path,
            "idx": WRITES_IDX_MAP.get(channel, idx),
            "channel": channel,
            "type": type_,
        }
        rows.append((of_row, data))
    upsert = all(channel in WRITES_IDX_MAP for channel, _ in writes)
    return Request("put-writes", key["thread_id"], {**key, "upsert": upsert}, ("writes", rows))


class Listing:
    """Where a list stands: the request of the next page, until the caller has enough or there are no more."""

    def __init__(
        self,
        config: RunnableConfig | None,
        filter: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> None:
        body: dict[str, Any] = {"include": _PARTS}
        self._thread_id: str | None = None
        if config:
            key = _key(config)
            self._thread_id = body["thread_id"] = key["thread_id"]
            # Absent or None: every namespace.
            body["checkpoint_ns"] = None if _configurable(config).get("checkpoint_ns") is None else key["checkpoint_ns"]
            body["checkpoint_id"] = key["checkpoint_id"]
        if filter:
            body["filter_metadata"] = filter
        if before is not None:
            body["before_checkpoint_id"] = _optional_id(before, "checkpoint_id", "before")
        self._body = body
        self._stranger = _stranger_to({name: body[name] for name in _KEY if name in body}, many=True)
        self._left = limit
        self._page = _FIRST_PAGE
        self._done = False

    def next_request(self) -> Request | None:
        if self._done or (self._left is not None and self._left <= 0):
            return None
        limit = self._page if self._left is None else min(self._page, self._left)
        return Request("list", self._thread_id, {**self._body, "limit": limit}, stranger=self._stranger)

    def take(self, reply: Reply) -> list[dict[str, Any]]:
        """The checkpoints of the page."""
        items: list[dict[str, Any]] = reply.data
        if self._left is not None:
            self._left -= len(items)
        self._done = reply.next_cursor is None
        self._body["cursor"] = reply.next_cursor
        if items:
            self._page = min(_MAX_PAGE, max(1, _PAGE_BYTES * len(items) // max(1, reply.size)))
        return items


def delete_thread_request(thread_id: str) -> Request:
    text = _id_text(thread_id, "thread_id")
    return Request("delete-thread", text, {"thread_id": text})


def copy_thread_request(source_thread_id: str, target_thread_id: str) -> Request:
    source = _id_text(source_thread_id, "source_thread_id")
    target = _id_text(target_thread_id, "target_thread_id")
    return Request("copy-thread", source, {"source_thread_id": source, "target_thread_id": target})


def delete_for_runs_requests(run_ids: Sequence[str]) -> Iterator[Request]:
    for ids in _chunks(run_ids, "run_ids"):
        yield Request("delete-for-runs", None, {"run_ids": ids})


def prune_requests(thread_ids: Sequence[str], strategy: str) -> Iterator[Request]:
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}")
    for ids in _chunks(thread_ids, "thread_ids"):
        only = ids[0] if len(ids) == 1 else None
        yield Request("prune", only, {"thread_ids": ids, "strategy": strategy})


def delta_channel_history_request(config: RunnableConfig, channels: Sequence[str]) -> Request:
    key = _key(config)
    asked = list(channels)

    def stranger(data: Any) -> str | None:
        if not isinstance(data, dict):
            return f"no channels, but {type(data).__name__}"
        return next((f"channel {channel!r}, not asked for" for channel in data if channel not in asked), None)

    return Request("delta-channel-history", key["thread_id"], {**key, "channels": asked}, stranger=stranger)


def load_tuple(item: Mapping[str, Any], serde: SerializerProtocol, next_version: NextVersion) -> CheckpointTuple:
    checkpoint = item["checkpoint"]
    values = dict(checkpoint.get("channel_values") or {})
    for blob in item["blobs"]:
        if blob["type"] != _EMPTY:
            values[blob["channel"]] = _load(blob, serde)
    if TASKS in values:
        values[TASKS] = with_sends(values[TASKS])
    versions = checkpoint["channel_versions"]
    if checkpoint["v"] < _FIRST_VERSION_WITH_SENDS and item["pending_sends"]:
        values[TASKS] = [_load(write, serde) for write in item["pending_sends"]]
        versions[TASKS] = max(versions.values()) if versions else next_version(None, None)
    parent_id = item["parent_checkpoint_id"]
    writes = [_load_write(write, serde) for write in sorted(item["pending_writes"], key=_order)]
    return CheckpointTuple(
        _config(item, item["checkpoint_id"]),
        cast(Checkpoint, {**checkpoint, "channel_values": values}),
        cast(CheckpointMetadata, item["metadata"]),
        _config(item, parent_id) if parent_id else None,
        with_questions(writes, item),
    )


def load_delta_channel_history(
    data: Mapping[str, Any], channels: Sequence[str], serde: SerializerProtocol
) -> dict[str, DeltaChannelHistory]:
    histories: dict[str, DeltaChannelHistory] = {}
    for channel in channels:
        stored = data.get(channel, {})
        history: DeltaChannelHistory = {
            "writes": [
                (write["task_id"], channel, _load(write, serde)) for write in _replayed(stored.get("writes", []))
            ]
        }
        seed = stored.get("seed")
        if seed is not None:
            history["seed"] = seed["value"] if "value" in seed else _load(seed, serde)
        histories[channel] = history
    return histories


def _replayed(writes: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The writes, oldest checkpoint first as they came, those of one checkpoint as a run applies them."""
    by_checkpoint: dict[str, list[Mapping[str, Any]]] = {}
    for write in writes:
        by_checkpoint.setdefault(write["checkpoint_id"], []).append(write)
    for of_one in by_checkpoint.values():
        yield from sorted(of_one, key=_order)


def _order(write: Mapping[str, Any]) -> tuple[str, str, int]:
    return writes_sort_key(write["task_path"], write["task_id"], write["idx"])


def _load_write(write: Mapping[str, Any], serde: SerializerProtocol) -> PendingWrite:
    return write["task_id"], write["channel"], _load(write, serde)


def _load(stored: Mapping[str, Any], serde: SerializerProtocol) -> Any:
    blob = stored["blob"]
    return serde.loads_typed((stored["type"], b"" if blob is None else b64decode(blob)))


_KEY = ("thread_id", "checkpoint_ns", "checkpoint_id")


def _key(config: RunnableConfig) -> dict[str, Any]:
    configurable = _configurable(config)
    namespace = configurable.get("checkpoint_ns")
    if namespace is not None and (not isinstance(namespace, str) or isinstance(namespace, Enum)):
        raise ValueError(f"config['configurable']['checkpoint_ns'] must be text, not {namespace!r}")
    if "thread_id" not in configurable:
        raise ValueError("config['configurable']['thread_id'] is missing")
    return {
        "thread_id": _id_text(configurable["thread_id"], "config['configurable']['thread_id']"),
        "checkpoint_ns": namespace or "",
        "checkpoint_id": _optional_id(config, "checkpoint_id", "config"),
    }


def _configurable(config: RunnableConfig) -> Mapping[str, Any]:
    return config.get("configurable") or {}


def _optional_id(config: RunnableConfig, name: str, of: str) -> str | None:
    """None when it is absent, None or empty."""
    value = _configurable(config).get(name)
    return None if value is None or value == "" else _id_text(value, f"{of}['configurable']['{name}']")


def _id_text(value: Any, name: str) -> str:
    """The id as text. A None that somebody forgot to fill in would be the same id for all who forget."""
    if isinstance(value, (bool, Enum)) or not isinstance(value, (str, int, UUID)) or value == "":
        raise _refused(name, value)
    return str(value)


def _refused(name: str, value: Any) -> ValueError:
    return ValueError(f"{name} must be a text that is not empty, an integer or a UUID, not {value!r}")


def _stranger_to(key: Mapping[str, Any], *, optional: bool = False, many: bool = False) -> Callable[[Any], str | None]:
    """Finds in an answer what has another key than was asked for. `optional`: there may be nothing."""
    asked = {name: value for name, value in key.items() if value is not None}

    def stranger(data: Any) -> str | None:
        if data is None and optional:
            return None
        if many != isinstance(data, list):
            return f"{'no list' if many else 'no object'}, but {type(data).__name__}"
        for item in data if many else [data]:
            if not isinstance(item, dict):
                return f"no object, but {type(item).__name__}"
            for name, value in asked.items():
                if item.get(name) != value:
                    return f"{name} {item.get(name)!r}, not {value!r}"
        return None

    return stranger


def _is_kept_by_jsonb(value: Any) -> bool:
    """Whether jsonb gives the same value back.

    It has no negative zero, NaN and infinity, and prints 1e+16 as an integer. A member of an Enum, or of another
    subclass, becomes plain text or a plain number.
    """
    if type(value) is float:
        return math.isfinite(value) and "e" not in repr(value) and not (value == 0 and math.copysign(1, value) < 0)
    return value is None or type(value) in (str, int, bool)


def _config(item: Mapping[str, Any], checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": item["thread_id"],
            "checkpoint_ns": item["checkpoint_ns"],
            "checkpoint_id": checkpoint_id,
        }
    }


def _chunks(ids: Sequence[str], name: str) -> Iterator[list[str]]:
    if isinstance(ids, (str, bytes, Mapping)):
        raise TypeError(f"{name} must be a sequence of ids, not {type(ids).__name__}")
    # All of them before the first is sent.
    texts = [_id_text(id_, f"{name}[{position}]") for position, id_ in enumerate(ids)]
    for start in range(0, len(texts), _MAX_IDS):
        yield texts[start : start + _MAX_IDS]
