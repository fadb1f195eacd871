"""The checkpointer that graphs are compiled with."""

from __future__ import annotations

import math
import os
import random
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from langgraph_checkpoint_http import _codec as codec
from langgraph_checkpoint_http._transport import DEFAULT_DEADLINE_SECONDS, ApiKey, Make, MakeAsync, Transport

if TYPE_CHECKING:
    import httpx
    from typing_extensions import Self

# A key is sent to the service that it was given for, so the variables belong together in pairs.
_ENVIRONMENT = (("CHECKPOINT_URL", "CHECKPOINT_API_KEY"), ("AGENTEX_BASE_URL", "AGENT_API_KEY"))


class HttpCheckpointSaver(BaseCheckpointSaver[str]):
    """Keeps checkpoints in checkpoint-backend, over HTTP. Threads, tasks, event loops and forks may share it.

    What it stores is what LangGraph's PostgresSaver stores, so a thread may be begun with one and continued with the
    other. Every operation is repeated when it may help (broken connections; 408, 425, 429, 502, 503, 504), with
    growing, random pauses and as `Retry-After` asks, until `deadline`. An answer that belongs to another request is
    refused; see `CheckpointMismatchError`.

    Used as a context manager it closes its connections at the end, as `close` and `aclose` do. A copy shares them. A
    pickle has the settings, with an `api_key` that is text, and opens connections of its own where it is loaded.

    Args:
        base_url: Where the service is, such as `http://checkpoints:5003`; a path is kept.
        api_key: Sent as `x-agent-api-key`, without white space around it; a function is asked before each operation.
        headers: Sent with every request.
        timeout: Seconds that a connection may be silent, or httpx's finer setting. By default 60, and 5 to connect;
            with a client that was given, that client's.
        deadline: Seconds after which an operation gives up, all repetitions and pauses included.
        check_request_id: Whether answers with another `x-request-id` than was sent are refused. Turn it off behind a
            proxy that replaces this header; answers that name another thread are refused all the same.
        client: Used for synchronous calls in place of its own, faster connections. An `httpx.Client` is never closed
            here, and refused in a forked child; a function that makes one is called once in each process.
        async_client: The same for asynchronous calls, with an `httpx.AsyncClient`. A client belongs to one event loop;
            a function is called once for each.
        ssl_context: Whom connections of its own trust, in place of `SSL_CERT_FILE`, `SSL_CERT_DIR` or the public
            authorities.
        serde: Turns values into bytes; as in every LangGraph checkpointer.
    """

    def __init__(
        self,
        base_url: str,
        api_key: ApiKey | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | httpx.Timeout | None = None,
        deadline: float = DEFAULT_DEADLINE_SECONDS,
        check_request_id: bool = True,
        client: httpx.Client | Make | None = None,
        async_client: httpx.AsyncClient | MakeAsync | None = None,
        ssl_context: ssl.SSLContext | None = None,
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(serde=serde)
        self._default_serde = self.serde if serde is None else None
        self._http = Transport(
            base_url,
            api_key,
            headers=headers,
            timeout=timeout,
            deadline=deadline,
            check_request_id=check_request_id,
            client=client,
            async_client=async_client,
            ssl_context=ssl_context,
        )

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles. LangGraph's own serializer cannot be pickled, so each process takes its own."""
        state = dict(self.__dict__)
        if self.serde is self._default_serde:
            del state["serde"], state["_default_serde"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "serde" not in state:
            BaseCheckpointSaver.__init__(self)
            self._default_serde = self.serde
        self.__dict__.update(state)

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """A checkpointer for the service that the environment names.

        Reads `CHECKPOINT_URL` and `CHECKPOINT_API_KEY`, or when there is no such URL `AGENTEX_BASE_URL` and
        `AGENT_API_KEY`. The key is read again before each operation, since an agent may get it after its start. An
        `api_key` among the options wins; with `base_url` among them the environment is not read.

        Raises:
            ValueError: Neither URL is set.
        """
        if options.get("base_url") is not None:
            return cls(**options)
        options.pop("base_url", None)
        api_key = options.pop("api_key", None)
        for url_name, key_name in _ENVIRONMENT:
            url = os.environ.get(url_name)
            if url:
                return cls(url, partial(os.environ.get, key_name) if api_key is None else api_key, **options)
        raise ValueError(" or ".join(url_name for url_name, _ in _ENVIRONMENT) + " must be set")

    def close(self) -> None:
        """Closes the connections of synchronous calls. What is used after that raises RuntimeError."""
        self._http.close()

    async def aclose(self) -> None:
        """Closes the connections of synchronous calls and of this event loop."""
        await self._http.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def get_next_version(self, current: str | float | None, channel: None) -> str:
        """The version after `current`, as the Postgres savers make it: it grows, and no two writers make the same.

        LangGraph.js counts in numbers such as 3.141592653589, and LangGraph compares the versions of a thread with each
        other, so what began with numbers goes on with numbers.
        """
        if isinstance(current, float):
            return math.floor(current) + 1 + round(random.random(), 12)  # type: ignore[return-value]
        if current is None:
            number = 0
        elif isinstance(current, int):
            number = current
        else:
            number = int(current.split(".")[0])
        return f"{number + 1:032}.{random.random():016}"

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the latest of its thread and namespace; None when there is none."""
        reply = self._http.send(codec.get_tuple_request(config))
        return None if reply.data is None else self._load(reply.data)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See `get_tuple`."""
        reply = await self._http.asend(codec.get_tuple_request(config))
        return None if reply.data is None else self._load(reply.data)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """The checkpoints that match, newest first. Pages are fetched as the iterator needs them, without an end."""
        listing = codec.Listing(config, filter, before, limit)
        while (request := listing.next_request()) is not None:
            for item in listing.take(self._http.send(request)):
                yield self._load(item)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See `list`."""
        listing = codec.Listing(config, filter, before, limit)
        while (request := listing.next_request()) is not None:
            for item in listing.take(await self._http.asend(request)):
                yield self._load(item)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Stores the checkpoint with its new blobs, all or nothing, and returns the config that names it.

        Raises:
            UnstorableValueError: Its metadata holds a NaN or an infinity, or is not JSON.
        """
        self._http.send(codec.put_request(config, checkpoint, metadata, new_versions, self.serde))
        return codec.stored_config(config, checkpoint)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """See `put`."""
        await self._http.asend(codec.put_request(config, checkpoint, metadata, new_versions, self.serde))
        return codec.stored_config(config, checkpoint)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Stores what a task wrote on top of the checkpoint, all or nothing."""
        request = codec.put_writes_request(config, writes, task_id, task_path, self.serde)
        if request is not None:
            self._http.send(request)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """See `put_writes`."""
        request = codec.put_writes_request(config, writes, task_id, task_path, self.serde)
        if request is not None:
            await self._http.asend(request)

    def delete_thread(self, thread_id: str) -> None:
        """Removes everything of the thread, in all namespaces."""
        self._http.send(codec.delete_thread_request(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """See `delete_thread`."""
        await self._http.asend(codec.delete_thread_request(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Removes the checkpoints of those runs, their writes, and the blobs that nothing refers to any more."""
        for request in codec.delete_for_runs_requests(run_ids):
            self._http.send(request)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """See `delete_for_runs`."""
        for request in codec.delete_for_runs_requests(run_ids):
            await self._http.asend(request)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copies everything of the thread, in all namespaces; checkpoint ids stay."""
        self._http.send(codec.copy_thread_request(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See `copy_thread`."""
        await self._http.asend(codec.copy_thread_request(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keeps the newest checkpoint of each namespace, and what its delta channels need, or deletes the threads."""
        for request in codec.prune_requests(thread_ids, strategy):
            self._http.send(request)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """See `prune`."""
        for request in codec.prune_requests(thread_ids, strategy):
            await self._http.asend(request)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What each channel wrote along the parents of the checkpoint, from its last stored value on; one request."""
        if not channels:
            return {}
        reply = self._http.send(codec.delta_channel_history_request(config, channels))
        return codec.load_delta_channel_history(reply.data, channels, self.serde)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See `get_delta_channel_history`."""
        if not channels:
            return {}
        reply = await self._http.asend(codec.delta_channel_history_request(config, channels))
        return codec.load_delta_channel_history(reply.data, channels, self.serde)

    def _load(self, item: Mapping[str, Any]) -> CheckpointTuple:
        return codec.load_tuple(item, self.serde, self.get_next_version)


async def create_checkpointer(**options: Any) -> HttpCheckpointSaver:
    """`HttpCheckpointSaver.from_env`, to be awaited as that of the agentex SDK is."""
    return HttpCheckpointSaver.from_env(**options)
