"""From a request to its answer: encoding, compression, retries, the deadline, and the clients that hold connections."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import os
import random
import re
import ssl
import sys
import threading
import time
import weakref
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx

from langgraph_checkpoint_http._errors import (
    CheckpointBackendError,
    CheckpointMismatchError,
    CheckpointProblemError,
    CheckpointUnavailableError,
    UnstorableValueError,
)

if TYPE_CHECKING:
    from typing_extensions import Self

API_KEY_HEADER = "x-agent-api-key"
REQUEST_ID_HEADER = "x-request-id"
CURSOR_HEADER = "x-next-cursor"

# Longer than the service makes a request wait for a connection of its own (QUEUE_WAIT_MS) or for its database
# (OUTAGE_WAIT_MS) before it answers 503.
DEFAULT_TIMEOUT = httpx.Timeout(60, connect=5)
DEFAULT_DEADLINE_SECONDS = 120.0

# How many requests are under way at once; further ones wait their turn. They do not wait in httpx's pool, which closes
# idle connections while requests queue, and goes through the whole queue for each of them.
_CONCURRENCY = 64
# Between two steps of an agent a model thinks; the default of five seconds would connect anew for most checkpoints.
_LIMITS = httpx.Limits(max_connections=_CONCURRENCY, max_keepalive_connections=_CONCURRENCY, keepalive_expiry=60)

_HEADER_VALUE = re.compile(r"[!-~](?:[\t -~]*[!-~])?|")

_RETRIED_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
_RETRIED_ERRORS = (httpx.TransportError, httpx.DecodingError)
_NOT_RETRIED_ERRORS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
# Three new connections that all bring another request's answer are no accident.
_MAX_MISMATCHES = 3
_FIRST_PAUSE_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 10.0

# Most of a large body is Base64. Of bytes that do not compress, gzip takes back no more than what Base64 had added (a
# quarter), at a price in time that a network rarely asks; of text it takes away more, which a sample tells.
_GZIP_MIN_BYTES = 32 * 1024
_GZIP_SAMPLE_BYTES = 16 * 1024
_GZIP_MAX_RATIO = 0.7

ApiKey = str | Callable[[], str | None]


@dataclass(frozen=True)
class Request:
    """One operation; each may be repeated with the same result."""

    operation: str
    thread_id: str | None
    body: Mapping[str, Any]
    # What of the answer's data was not asked for, such as another thread's id; None when all of it was.
    stranger: Callable[[Any], str | None] = lambda data: None


class Mismatch(Exception):
    """The answer is another request's."""


@dataclass(frozen=True)
class Reply:
    """The answer to an operation: `data` is None when the answer has no body."""

    data: Any
    next_cursor: str | None
    size: int


class Call:
    """One operation on its way: what to send, and after each attempt whether and when to send it again."""

    def __init__(
        self,
        request: Request,
        headers: Mapping[str, str],
        timeout: httpx.Timeout,
        deadline: float,
        check_request_id: bool,
        origin: str,
    ):
        self.request = request
        self._origin = origin
        self.request_id = str(uuid4())
        content = encode(request)
        compressed = compress(content)
        self.content = content if compressed is None else compressed
        self.headers = {
            **headers,
            "content-type": "application/json",
            REQUEST_ID_HEADER: self.request_id,
            **({} if compressed is None else {"content-encoding": "gzip"}),
        }
        self.attempts = 0
        self.mismatches = 0
        self._check_request_id = check_request_id
        self._timeout = timeout
        self._ends = time.monotonic() + deadline

    @property
    def remaining(self) -> float:
        return self._ends - time.monotonic()

    def begin(self) -> httpx.Timeout:
        """Counts an attempt and says how long each of its steps may take."""
        self.attempts += 1
        left = max(self.remaining, 0.001)
        steps = {name: left if limit is None else min(limit, left) for name, limit in self._limits()}
        return httpx.Timeout(**steps)

    def _limits(self) -> Iterator[tuple[str, float | None]]:
        for name in ("connect", "read", "write", "pool"):
            yield name, getattr(self._timeout, name)

    def check_deadline(self) -> None:
        """A read timeout is about the pause between two packets; an answer may still take for ever."""
        if self.remaining <= 0:
            raise httpx.ReadTimeout("the answer took longer than the deadline")

    def pause_after_error(self, error: Exception) -> float:
        """Seconds to wait before the next attempt. Raises when there is none."""
        pause = self._back_off()
        if isinstance(error, _NOT_RETRIED_ERRORS) or _is_refused_certificate(error) or pause >= self.remaining:
            reason = str(error) or type(error).__name__
            what = f"{type(error).__name__}: {reason}" if reason != type(error).__name__ else reason
            raise CheckpointUnavailableError(
                f"{what}, at {self._origin}",
                operation=self.request.operation,
                thread_id=self.request.thread_id,
                request_id=self.request_id,
                attempts=self.attempts,
            ) from error
        return pause

    def pause_after_mismatch(self, mismatch: Mismatch) -> float:
        """Seconds to wait before the next attempt. Raises when there is none."""
        self.mismatches += 1
        pause = self._back_off()
        if self.mismatches >= _MAX_MISMATCHES or pause >= self.remaining:
            raise CheckpointMismatchError(
                f"the answer belongs to another request: {mismatch}",
                operation=self.request.operation,
                thread_id=self.request.thread_id,
                request_id=self.request_id,
                attempts=self.attempts,
            )
        return pause

    def is_foreign(self, response: httpx.Response) -> bool:
        """Whether the answer says that it is another request's. One that says nothing may be of a proxy on the way."""
        answered = response.headers.get(REQUEST_ID_HEADER)
        if answered is None or not self._check_request_id:
            self.request_id = answered or self.request_id
            return False
        # A proxy may add an id of its own.
        sent = response.request.headers.get(REQUEST_ID_HEADER, self.request_id)
        return sent not in [id_.strip() for id_ in answered.split(",")]

    def refuse_foreign(self, response: httpx.Response) -> None:
        """Raises Mismatch, unless the answer asks for another attempt anyway."""
        if response.status_code not in _RETRIED_STATUSES:
            answered = response.headers[REQUEST_ID_HEADER]
            raise Mismatch(f"{response.status_code} with {REQUEST_ID_HEADER} {answered!r}, not {self.request_id!r}")

    def settle(self, response: httpx.Response, content: bytes) -> Reply | float:
        """The answer, or the seconds to wait before the next attempt. Raises when the service said no."""
        if response.is_success:
            reply = self._reply(response, content)
            stranger = self.request.stranger(reply.data)
            if stranger is not None:
                raise Mismatch(stranger)
            return reply
        if response.status_code in _RETRIED_STATUSES:
            asked = retry_after_seconds(response.headers.get("retry-after"))
            # Jitter on top: those who were told the same second shall not all come at once.
            pause = (asked or 0) + self._back_off()
            if pause < self.remaining:
                return pause
        raise self._problem(response, content)

    def _reply(self, response: httpx.Response, content: bytes) -> Reply:
        try:
            data = None if response.status_code == 204 else json.loads(content)
        except ValueError as error:
            raise self._error(f"{response.status_code} with a body that is not JSON") from error
        return Reply(data, response.headers.get(CURSOR_HEADER), len(content))

    def _problem(self, response: httpx.Response, content: bytes) -> CheckpointProblemError:
        problem: Any = None
        if "json" in response.headers.get("content-type", ""):
            with suppress(ValueError):
                problem = json.loads(content)
        if not isinstance(problem, dict):
            problem = {}
        faults = problem.get("errors")
        return CheckpointProblemError(
            status=response.status_code,
            type=str(problem.get("type", "about:blank")),
            title=str(problem.get("title", response.reason_phrase)),
            detail=problem.get("detail"),
            errors=[fault for fault in faults if isinstance(fault, dict)] if isinstance(faults, list) else [],
            operation=self.request.operation,
            thread_id=self.request.thread_id,
            request_id=self.request_id,
            attempts=self.attempts,
        )

    def _error(self, reason: str) -> CheckpointBackendError:
        return CheckpointBackendError(
            reason,
            operation=self.request.operation,
            thread_id=self.request.thread_id,
            request_id=self.request_id,
            attempts=self.attempts,
        )

    def _back_off(self) -> float:
        """Exponential with full jitter."""
        return random.uniform(0, min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(self.attempts - 1, 16)))


def this_process() -> object:
    """Equal in one process, different in its children. Some servers fork in C, without hooks; the id tells then."""
    return _process, os.getpid()


_process = object()
_transports: weakref.WeakSet[Transport] = weakref.WeakSet()
# What a parent opened stays referenced in its children: closing it might end the parent's TLS session, or take its
# socket out of an event loop that both share.
_of_parents: list[object] = []


def _after_fork_in_child() -> None:
    global _process
    _process = object()
    for transport in list(_transports):
        transport.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

Make = Callable[[], httpx.Client]
MakeAsync = Callable[[], httpx.AsyncClient]


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
    ) -> None:
        if not isinstance(base_url, str) or not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://, not {base_url!r}")
        if not deadline > 0:
            raise ValueError(f"deadline must be a positive number of seconds, not {deadline!r}")
        self._base_url = base_url.rstrip("/")
        url = httpx.URL(self._base_url)
        # For people: without a user and password.
        self._origin = f"{url.scheme}://{url.netloc.decode('ascii')}"
        self._api_key = key_of(api_key) if isinstance(api_key, str) else api_key
        self._headers = {"user-agent": f"langgraph-checkpoint-http/{version('langgraph-checkpoint-http')}"}
        self._headers |= {name.lower(): checked(name.lower(), value) for name, value in (headers or {}).items()}
        self._timeout = None if timeout is None else httpx.Timeout(timeout)
        self._deadline = deadline
        self._check_request_id = check_request_id
        self._given = client if isinstance(client, httpx.Client) else None
        self._given_async = async_client if isinstance(async_client, httpx.AsyncClient) else None
        self._make: Make = _new_client if client is None or isinstance(client, httpx.Client) else client
        self._make_async: MakeAsync = (
            _new_async_client if async_client is None or isinstance(async_client, httpx.AsyncClient) else async_client
        )
        self._closed = False
        self._process = self._given_in = this_process()
        self._open_nothing()
        _transports.add(self)

    def _open_nothing(self) -> None:
        self._own: httpx.Client | None = None
        self._turns = threading.BoundedSemaphore(_CONCURRENCY)
        # Connections belong to the event loop that opened them, and a program may run one loop after another.
        self._own_async: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
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

    def send(self, request: Request) -> Reply:
        client = self._client()
        call = self._call(request, client)
        while True:
            try:
                with self._turn(client, call):
                    outcome = self._attempt(client, call)
            except _RETRIED_ERRORS as error:
                pause = call.pause_after_error(error)
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
                async with self._aturn(turns, call):
                    outcome = await self._aattempt(client, call)
            except _RETRIED_ERRORS as error:
                pause = call.pause_after_error(error)
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

    def _call(self, request: Request, client: httpx.Client | httpx.AsyncClient) -> Call:
        headers = self._headers
        key = key_of(self._api_key()) if callable(self._api_key) else self._api_key
        if key:
            headers = {**headers, API_KEY_HEADER: key}
        timeout = client.timeout if self._timeout is None else self._timeout
        return Call(request, headers, timeout, self._deadline, self._check_request_id, self._origin)

    @contextmanager
    def _turn(self, client: httpx.Client, call: Call) -> Iterator[None]:
        """Waits until there is a place for one more request. A client that was given has limits of its own."""
        if client is self._given:
            yield
            return
        turns = self._turns
        if not turns.acquire(timeout=max(call.remaining, 0.001)):
            raise httpx.PoolTimeout("too many requests were under way until the deadline")
        try:
            yield
        finally:
            turns.release()

    @asynccontextmanager
    async def _aturn(self, turns: asyncio.Semaphore | None, call: Call) -> AsyncIterator[None]:
        if turns is None:
            yield
            return
        async with _deadline(call.remaining):
            await turns.acquire()
        try:
            yield
        finally:
            turns.release()

    def _attempt(self, client: httpx.Client, call: Call) -> Reply | float:
        # After a mismatch, a connection that nothing else has used: idle ones of the same client may be mixed up, too.
        anew = call.mismatches > 0 and client is not self._given
        with (
            self._make() if anew else nullcontext(client) as used,
            used.stream(
                "POST", self._url(call), content=call.content, headers=call.headers, timeout=call.begin()
            ) as response,
        ):
            try:
                if call.is_foreign(response):
                    call.refuse_foreign(response)
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    call.check_deadline()
                return call.settle(response, bytes(content))
            except Mismatch:
                # The next answer that comes over it would be another's as well.
                stream = response.extensions.get("network_stream")
                if stream is not None:
                    stream.close()
                raise

    async def _aattempt(self, client: httpx.AsyncClient, call: Call) -> Reply | float:
        anew = call.mismatches > 0 and client is not self._given_async
        async with (
            _deadline(call.remaining),
            self._make_async() if anew else nullcontext(client) as used,
            used.stream(
                "POST", self._url(call), content=call.content, headers=call.headers, timeout=call.begin()
            ) as response,
        ):
            try:
                if call.is_foreign(response):
                    call.refuse_foreign(response)
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    call.check_deadline()
                return call.settle(response, bytes(content))
            except Mismatch:
                stream = response.extensions.get("network_stream")
                if stream is not None:
                    await stream.aclose()
                raise

    def _url(self, call: Call) -> str:
        return f"{self._base_url}/checkpoints/{call.request.operation}"

    def _client(self) -> httpx.Client:
        self.forget_parent()
        if self._given is not None:
            self._check_given("client")
            return self._given
        with self._lock:
            self._check_open()
            if self._own is None:
                self._own = self._make()
            return self._own

    def _async_client(self) -> tuple[httpx.AsyncClient, asyncio.Semaphore | None]:
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
                own = self._own_async[loop] = self._make_async()
                self._async_turns[loop] = asyncio.Semaphore(_CONCURRENCY)
            return own, self._async_turns[loop]

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
    return checked(API_KEY_HEADER, key.strip()) if isinstance(key, str) else key


def checked(name: str, value: str) -> str:
    """The value of a header. It may be a secret, which httpx and h11 would quote in their errors."""
    if isinstance(value, str) and not _HEADER_VALUE.fullmatch(value):
        raise ValueError(f'The header "{name}" has a value that HTTP does not allow')
    return value


def _new_client() -> httpx.Client:
    return httpx.Client(timeout=DEFAULT_TIMEOUT, limits=_LIMITS)


def _new_async_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=DEFAULT_TIMEOUT, limits=_LIMITS)


if sys.version_info >= (3, 11):

    @asynccontextmanager
    async def _deadline(seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise httpx.ReadTimeout("the answer took longer than the deadline") from error

else:  # Each step of an attempt has its own timeout; together they may pass the deadline by a few.

    @asynccontextmanager
    async def _deadline(seconds: float) -> AsyncIterator[None]:
        yield


def encode(request: Request) -> bytes:
    """JSON as Postgres's jsonb takes it: without NaN and infinities."""
    try:
        return json.dumps(request.body, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        path = _path_of_non_finite(request.body)
        raise UnstorableValueError(
            f"{path[0]} at {path[1]} cannot be stored: jsonb has no NaN and no infinity" if path else str(error),
            operation=request.operation,
            thread_id=request.thread_id,
        ) from error


def _path_of_non_finite(value: Any, path: str = "") -> tuple[float, str] | None:
    if isinstance(value, float) and not math.isfinite(value):
        return value, path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, item in items:
        found = _path_of_non_finite(item, f"{path}.{key}" if path else str(key))
        if found is not None:
            return found
    return None


def compress(content: bytes) -> bytes | None:
    """The content as gzip, when that pays."""
    if len(content) < _GZIP_MIN_BYTES:
        return None
    middle = (len(content) - _GZIP_SAMPLE_BYTES) // 2
    sample = content[middle : middle + _GZIP_SAMPLE_BYTES]
    if len(zlib.compress(sample, 1)) > _GZIP_MAX_RATIO * len(sample):
        return None
    return gzip.compress(content, 1, mtime=0)


def retry_after_seconds(value: str | None) -> float | None:
    """What the header Retry-After asks for, in seconds or as a date; None when it asks for nothing."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())


def _is_refused_certificate(error: BaseException | None) -> bool:
    """Whether it all comes from a certificate that does not fit, which no repetition will change."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
