"""From a request to its answer: the clients that send attempts, how many at once, and who waits."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from langgraph_checkpoint_http._call import Call, History, Reply, Request
from langgraph_checkpoint_http._clients.address import Address
from langgraph_checkpoint_http._clients.attempt import (
    CONCURRENCY,
    AsyncClient,
    ConnectionFault,
    Mismatch,
    SyncClient,
    Timeouts,
    deadline_fault,
    timeout,
)
from langgraph_checkpoint_http._clients.environment import proxy_for, trusted_authorities
from langgraph_checkpoint_http._clients.event_loop import EventLoopClient
from langgraph_checkpoint_http._clients.process import this_process
from langgraph_checkpoint_http._clients.sockets import SocketClient

if TYPE_CHECKING:
    import httpx
    from typing_extensions import Self

API_KEY_HEADER = "x-agent-api-key"

DEFAULT_DEADLINE_SECONDS = 120.0

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
# They say where a request ends.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})
_HEADER_VALUE = re.compile(r"[!-~](?:[\t -~]*[!-~])?|")

ApiKey = str | Callable[[], str | None]


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()
# What a parent opened stays referenced in its children: closing it might end the parent's TLS session, or take its
# socket out of an event loop that both share.
_of_parents: list[object] = []


def _after_fork_in_child() -> None:
    for transport in list(_transports):
        transport.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

Make = Callable[[], "httpx.Client"]
MakeAsync = Callable[[], "httpx.AsyncClient"]


class Transport:
    """Sends operations, synchronously and asynchronously. Clients of its own are made when they are first needed.

    Connections belong to the process that opened them: two processes that share a socket read each other's answers.
    After a fork the child forgets what its parent opened.
    """

    def __init__(
        self,
        base_url: str,
        api_key: ApiKey | None,
        *,
        headers: Mapping[str, str] | None,
        timeout: float | httpx.Timeout | None,
        deadline: float,
        check_request_id: bool,
        client: httpx.Client | Make | None,
        async_client: httpx.AsyncClient | MakeAsync | None,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._arguments = (base_url, api_key)
        self._options: dict[str, Any] = {
            "headers": headers,
            "timeout": timeout,
            "deadline": deadline,
            "check_request_id": check_request_id,
            "client": client,
            "async_client": async_client,
            "ssl_context": ssl_context,
        }
        self._history = History()
        self._address = Address.of(base_url)
        if not deadline > 0:
            raise ValueError(f"deadline must be a positive number of seconds, not {deadline!r}")
        self._api_key = key_of(api_key) if isinstance(api_key, str) else api_key
        self._headers = {"user-agent": f"langgraph-checkpoint-http/{version('langgraph-checkpoint-http')}"}
        self._headers |= {name.lower(): checked(name.lower(), value) for name, value in (headers or {}).items()}
        self._timeouts = None if timeout is None else Timeouts.of(timeout)
        self._deadline = deadline
        self._check_request_id = check_request_id
        self._given: SyncClient | None = None
        self._given_async: AsyncClient | None = None
        self._make: Make | None = None
        self._make_async: MakeAsync | None = None
        if client is None or callable(client):
            self._make = client
        else:
            from langgraph_checkpoint_http._clients.via_httpx import HttpxClient

            self._given = HttpxClient(self._address, client)
        if async_client is None or callable(async_client):
            self._make_async = async_client
        else:
            from langgraph_checkpoint_http._clients.via_httpx import HttpxAsyncClient

            self._given_async = HttpxAsyncClient(self._address, async_client)
        self._tls_context = ssl_context
        self._closed = False
        self._process = self._given_in = this_process()
        self._open_nothing()
        _transports.add(self)

    def _open_nothing(self) -> None:
        self._own: SyncClient | None = None
        self._turns = threading.BoundedSemaphore(CONCURRENCY)
        # Connections belong to the event loop that opened them, and a program may run one loop after another.
        self._own_async: dict[asyncio.AbstractEventLoop, AsyncClient] = {}
        self._async_turns: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
        self._lock = threading.Lock()

    def forget_parent(self) -> None:
        """In a child: leaves connections, and locks that some thread of the parent may have held, to the parent."""
        process = this_process()
        if self._process != process:
            _of_parents.append((self._own, self._own_async, self._async_turns))
            self._open_nothing()
            self._process = process

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy of a checkpointer shares its connections, as `with_allowlist` does."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets the settings, and opens connections of its own."""
        if self._given is not None or self._given_async is not None:
            raise TypeError(
                "A checkpointer with a client of yours cannot be pickled. "
                "Give as client and async_client functions that make one"
            )
        return partial(Transport, **self._options), self._arguments

    def send(self, request: Request) -> Reply:
        client = self._client()
        call = self._call(request, client)
        while True:
            try:
                outcome = self._attempt(client, call)
            except ConnectionFault as fault:
                pause = call.pause_after_fault(fault)
            except Mismatch as mismatch:
                pause = call.pause_after_mismatch(mismatch)
            else:
                if isinstance(outcome, Reply):
                    return outcome
                pause = outcome
            time.sleep(pause)

    async def asend(self, request: Request) -> Reply:
        client, turns = self._async_client()
        call = self._call(request, client)
        while True:
            try:
                outcome = await self._aattempt(client, turns, call)
            except ConnectionFault as fault:
                pause = call.pause_after_fault(fault)
            except Mismatch as mismatch:
                pause = call.pause_after_mismatch(mismatch)
            else:
                if isinstance(outcome, Reply):
                    return outcome
                pause = outcome
            await asyncio.sleep(pause)

    def close(self) -> None:
        """Closes the connections of synchronous calls. Clients that were given stay open."""
        self.forget_parent()
        with self._lock:
            self._closed = True
            own, self._own = self._own, None
        if own is not None:
            own.close()

    async def aclose(self) -> None:
        """Closes the connections of synchronous calls and of this event loop. Clients that were given stay open."""
        self.close()
        loop = asyncio.get_running_loop()
        with self._lock:
            own = self._own_async.pop(loop, None)
            self._async_turns.pop(loop, None)
        if own is not None:
            await own.aclose()

    def _call(self, request: Request, client: SyncClient | AsyncClient) -> Call:
        headers = self._headers
        key = key_of(self._api_key()) if callable(self._api_key) else self._api_key
        if key:
            headers = {**headers, API_KEY_HEADER: key}
        timeouts = self._timeouts or client.timeouts
        return Call(request, headers, timeouts, self._deadline, self._check_request_id, client.where, self._history)

    def _attempt(self, client: SyncClient, call: Call) -> Reply | float:
        if client is self._given:  # It has limits of its own.
            return client.send(call.attempt(), call.settle)
        turns = self._turns
        if not turns.acquire(timeout=min(max(call.remaining, 0.001), threading.TIMEOUT_MAX)):
            raise ConnectionFault("PoolTimeout", "too many requests were under way until the deadline")
        try:
            return client.send(call.attempt(), call.settle)
        finally:
            turns.release()

    async def _aattempt(self, client: AsyncClient, turns: asyncio.Semaphore | None, call: Call) -> Reply | float:
        if turns is None:
            return await client.send(call.attempt(), call.settle)
        if turns.locked():
            try:
                async with timeout(call.remaining):
                    await turns.acquire()
            except TimeoutError as error:
                raise deadline_fault() from error
        else:
            await turns.acquire()
        try:
            return await client.send(call.attempt(), call.settle)
        finally:
            turns.release()

    def _client(self) -> SyncClient:
        self.forget_parent()
        if self._given is not None:
            self._check_given("client")
            return self._given
        with self._lock:
            self._check_open()
            if self._own is None:
                self._own = self._new_client()
            return self._own

    def _async_client(self) -> tuple[AsyncClient, asyncio.Semaphore | None]:
        self.forget_parent()
        if self._given_async is not None:
            self._check_given("async_client")
            return self._given_async, None
        loop = asyncio.get_running_loop()
        with self._lock:
            self._check_open()
            own = self._own_async.get(loop)
            if own is None:
                for ended in [other for other in self._own_async if other.is_closed()]:
                    del self._own_async[ended], self._async_turns[ended]
                own = self._own_async[loop] = self._new_async_client()
                self._async_turns[loop] = asyncio.Semaphore(CONCURRENCY)
            return own, self._async_turns[loop]

    def _new_client(self) -> SyncClient:
        make, proxy = self._make, proxy_for(self._address)
        if make is None and proxy is None:
            return SocketClient(self._address, self._tls())
        # Imported where it is needed: few need it, and it takes longer than all the rest.
        import httpx

        from langgraph_checkpoint_http._clients.via_httpx import HttpxClient, ours

        if make is None:
            make = partial(httpx.Client, **ours(self._tls_context))
            return HttpxClient(self._address, make(), make, proxy or "")
        return HttpxClient(self._address, make(), make)

    def _new_async_client(self) -> AsyncClient:
        make, proxy = self._make_async, proxy_for(self._address)
        if make is None and proxy is None:
            return EventLoopClient(self._address, self._tls())
        import httpx

        from langgraph_checkpoint_http._clients.via_httpx import HttpxAsyncClient, ours

        if make is None:
            make = partial(httpx.AsyncClient, **ours(self._tls_context))
            return HttpxAsyncClient(self._address, make(), make, proxy or "")
        return HttpxAsyncClient(self._address, make(), make)

    def _tls(self) -> ssl.SSLContext | None:
        """Made once: reading all public authorities takes 20 ms."""
        if self._address.is_tls and self._tls_context is None:
            self._tls_context = trusted_authorities()
        return self._tls_context if self._address.is_tls else None

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("The checkpointer has been closed")

    def _check_given(self, name: str) -> None:
        """A client that somebody else made may have connections, and only its maker knows how to leave them alone."""
        if self._given_in != self._process:
            raise RuntimeError(
                f"The {name} of this checkpointer is its parent process's, and its connections must not be shared. "
                f"Make the checkpointer after the fork, or give as {name} a function that makes a client"
            )


def key_of(key: str | None) -> str | None:
    """The key as it is sent: one that was read from a file ends with a newline."""
    return checked(API_KEY_HEADER, key.strip() if isinstance(key, str) else key) if key else None


def checked(name: str, value: str) -> str:
    """The value of a header. It may be a secret, so errors do not quote it."""
    if not isinstance(value, str):
        raise TypeError(f'The header "{name}" must be text, not {type(value).__name__}')
    if not _HEADER_NAME.fullmatch(name) or name in _FRAMING:
        raise ValueError(f'The header "{name}" cannot be set')
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError(f'The header "{name}" has a value that HTTP does not allow')
    return value
