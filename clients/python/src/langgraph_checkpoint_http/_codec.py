"""Between LangGraph's objects and the wire. Row for row it stores what langgraph-checkpoint-postgres stores."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot

from langgraph_checkpoint_http._transport import Reply, Request

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
    return Request("get-tuple", key["thread_id"], {**key, "include": _PARTS})


def put_request(
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
    serde: SerializerProtocol,
) -> Request:
    """Primitives stay inside the checkpoint, other values become blobs, a snapshot both, with `True` as its marker.

    Nothing inside a checkpoint is encrypted, so with encryption primitives become blobs too, which readers prefer.
    Every checkpoint brings them, new or not: an earlier one, of another saver, may have them inline alone.
    """
    inline: dict[str, Any] = {}
    blobs = []
    versions: dict[str, Any] = dict(new_versions)
    for channel, value in checkpoint["channel_values"].items():
        if isinstance(value, _DeltaSnapshot):
            inline[channel] = True
        elif value is None or isinstance(value, (str, int, float, bool)):
            if not isinstance(serde, EncryptedSerializer):
                inline[channel] = value
                continue
            if channel in checkpoint["channel_versions"]:
                versions[channel] = checkpoint["channel_versions"][channel]
        if channel in versions:
            type_, data = serde.dumps_typed(value)
            blobs.append(
                {
                    "channel": channel,
                    "version": versions[channel],
                    "type": type_,
                    "blob": _to_base64(data),
                }
            )
    key = _key(config)
    return Request(
        "put",
        key["thread_id"],
        {
            **key,
            "checkpoint_id": checkpoint["id"],
            "parent_checkpoint_id": key["checkpoint_id"],
            "checkpoint": {**checkpoint, "channel_values": inline},
            "metadata": get_serializable_checkpoint_metadata(config, metadata),
            "blobs": blobs,
        },
    )


def stored_config(config: RunnableConfig, checkpoint: Checkpoint) -> RunnableConfig:
    """Where `put` has stored the checkpoint."""
    configurable = config["configurable"]
    return {
        "configurable": {
            "thread_id": configurable["thread_id"],
            "checkpoint_ns": configurable.get("checkpoint_ns", ""),
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
    if not writes:
        return None
    rows = []
    for idx, (channel, value) in enumerate(writes):
        type_, data = serde.dumps_typed(value)
        rows.append(
            {
                "task_id": task_id,
                "task_path": task_path,
                "idx": WRITES_IDX_MAP.get(channel, idx),
                "channel": channel,
                "type": type_,
                "blob": _to_base64(data),
            }
        )
    key = _key(config)
    upsert = all(channel in WRITES_IDX_MAP for channel, _ in writes)
    return Request("put-writes", key["thread_id"], {**key, "writes": rows, "upsert": upsert})


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
            configurable = config["configurable"]
            self._thread_id = body["thread_id"] = str(configurable["thread_id"])
            body["checkpoint_ns"] = configurable.get("checkpoint_ns")
            body["checkpoint_id"] = get_checkpoint_id(config)
        if filter:
            body["filter_metadata"] = filter
        if before is not None:
            body["before_checkpoint_id"] = get_checkpoint_id(before)
        self._body = body
        self._left = limit
        self._page = _FIRST_PAGE
        self._done = False

    def next_request(self) -> Request | None:
        if self._done or (self._left is not None and self._left <= 0):
            return None
        limit = self._page if self._left is None else min(self._page, self._left)
        return Request("list", self._thread_id, {**self._body, "limit": limit})

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
    return Request("delete-thread", str(thread_id), {"thread_id": str(thread_id)})


def copy_thread_request(source_thread_id: str, target_thread_id: str) -> Request:
    source, target = str(source_thread_id), str(target_thread_id)
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
    return Request("delta-channel-history", key["thread_id"], {**key, "channels": list(channels)})


def load_tuple(item: Mapping[str, Any], serde: SerializerProtocol, next_version: NextVersion) -> CheckpointTuple:
    checkpoint = item["checkpoint"]
    values = dict(checkpoint.get("channel_values") or {})
    for blob in item["blobs"]:
        if blob["type"] != _EMPTY:
            values[blob["channel"]] = _load(blob, serde)
    versions = checkpoint["channel_versions"]
    if checkpoint["v"] < _FIRST_VERSION_WITH_SENDS and item["pending_sends"]:
        values[TASKS] = [_load(write, serde) for write in item["pending_sends"]]
        versions[TASKS] = max(versions.values()) if versions else next_version(None, None)
    parent_id = item["parent_checkpoint_id"]
    return CheckpointTuple(
        _config(item, item["checkpoint_id"]),
        cast(Checkpoint, {**checkpoint, "channel_values": values}),
        cast(CheckpointMetadata, item["metadata"]),
        _config(item, parent_id) if parent_id else None,
        [_load_write(write, serde) for write in sorted(item["pending_writes"], key=_order)],
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


def _to_base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _key(config: RunnableConfig) -> dict[str, Any]:
    configurable = config["configurable"]
    return {
        "thread_id": str(configurable["thread_id"]),
        "checkpoint_ns": configurable.get("checkpoint_ns", ""),
        "checkpoint_id": get_checkpoint_id(config),
    }


def _config(item: Mapping[str, Any], checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": item["thread_id"],
            "checkpoint_ns": item["checkpoint_ns"],
            "checkpoint_id": checkpoint_id,
        }
    }


def _chunks(ids: Sequence[str], name: str) -> Iterator[list[str]]:
    if isinstance(ids, str):
        raise TypeError(f"{name} must be a sequence of ids, not a str")
    for start in range(0, len(ids), _MAX_IDS):
        yield [str(id_) for id_ in ids[start : start + _MAX_IDS]]
