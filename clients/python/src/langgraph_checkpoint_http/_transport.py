"""From a request to its answer: encoding, compression, retries, the deadline, and the clients that hold connections."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import random
import ssl
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import httpx

from langgraph_checkpoint_http._errors import (
    CheckpointBackendError,
    CheckpointProblemError,
    CheckpointUnavailableError,
    UnstorableValueError,
)

API_KEY_HEADER = "x-agent-api-key"
REQUEST_ID_HEADER = "x-request-id"
CURSOR_HEADER = "x-next-cursor"

# Longer than the service makes a request wait for a connection of its own (QUEUE_WAIT_MS) or for its database
# (OUTAGE_WAIT_MS) before it answers 503.
DEFAULT_TIMEOUT = httpx.Timeout(60, connect=5)
DEFAULT_DEADLINE_SECONDS = 120.0

# Between two steps of an agent a model thinks; the default of five seconds would connect anew for most checkpoints.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=60)

_RETRIED_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
_RETRIED_ERRORS = (httpx.TransportError, httpx.DecodingError)
_NOT_RETRIED_ERRORS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
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


@dataclass(frozen=True)
class Reply:
    """The answer to an operation: `data` is None when the answer has no body."""

    data: Any
    next_cursor: str | None
    size: int


class Call:
    """One operation on its way: what to send, and after each attempt whether and when to send it again."""

    def __init__(self, request: Request, headers: Mapping[str, str], timeout: httpx.Timeout, deadline: float):
        self.request = request
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
            raise CheckpointUnavailableError(
                f"{type(error).__name__}: {reason}" if reason != type(error).__name__ else reason,
                operation=self.request.operation,
                thread_id=self.request.thread_id,
                request_id=self.request_id,
                attempts=self.attempts,
            ) from error
        return pause

    def settle(self, response: httpx.Response, content: bytes) -> Reply | float:
        """The answer, or the seconds to wait before the next attempt. Raises when the service said no."""
        self.request_id = response.headers.get(REQUEST_ID_HEADER) or self.request_id
        if response.is_success:
            return self._reply(response, content)
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


class Transport:
    """Sends operations, synchronously and asynchronously. Clients of its own are made when they are first needed."""

    def __init__(
        self,
        base_url: str,
        api_key: ApiKey | None,
        *,
        headers: Mapping[str, str] | None,
        timeout: float | httpx.Timeout | None,
        deadline: float,
        client: httpx.Client | None,
        async_client: httpx.AsyncClient | None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://, not {base_url!r}")
        if not deadline > 0:
            raise ValueError(f"deadline must be a positive number of seconds, not {deadline!r}")
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._headers = {"user-agent": f"langgraph-checkpoint-http/{version('langgraph-checkpoint-http')}"}
        self._headers |= {name.lower(): value for name, value in (headers or {}).items()}
        self._timeout = None if timeout is None else httpx.Timeout(timeout)
        self._deadline = deadline
        self._given = client
        self._given_async = async_client
        self._own: httpx.Client | None = None
        # Connections belong to the event loop that opened them, and a program may run one loop after another.
        self._own_async: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self._closed = False
        self._lock = threading.Lock()

    def send(self, request: Request) -> Reply:
        client = self._client()
        call = self._call(request, client)
        while True:
            try:
                response, content = self._attempt(client, call)
            except _RETRIED_ERRORS as error:
                pause = call.pause_after_error(error)
            else:
                outcome = call.settle(response, content)
                if isinstance(outcome, Reply):
                    return outcome
                pause = outcome
            time.sleep(pause)

    async def asend(self, request: Request) -> Reply:
        client = self._async_client()
        call = self._call(request, client)
        while True:
            try:
                response, content = await self._aattempt(client, call)
            except _RETRIED_ERRORS as error:
                pause = call.pause_after_error(error)
            else:
                outcome = call.settle(response, content)
                if isinstance(outcome, Reply):
                    return outcome
                pause = outcome
            await asyncio.sleep(pause)

    def close(self) -> None:
        """Closes the connections of synchronous calls. Clients that were given stay open."""
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
        if own is not None:
            await own.aclose()

    def _call(self, request: Request, client: httpx.Client | httpx.AsyncClient) -> Call:
        headers = self._headers
        key = self._api_key() if callable(self._api_key) else self._api_key
        if key:
            headers = {**headers, API_KEY_HEADER: key}
        timeout = self._timeout
        if timeout is None:
            given = client is self._given or client is self._given_async
            timeout = client.timeout if given else DEFAULT_TIMEOUT
        return Call(request, headers, timeout, self._deadline)

    def _attempt(self, client: httpx.Client, call: Call) -> tuple[httpx.Response, bytes]:
        with client.stream(
            "POST", self._url(call), content=call.content, headers=call.headers, timeout=call.begin()
        ) as response:
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                call.check_deadline()
            return response, bytes(content)

    async def _aattempt(self, client: httpx.AsyncClient, call: Call) -> tuple[httpx.Response, bytes]:
        async with (
            _deadline(call.remaining),
            client.stream(
                "POST", self._url(call), content=call.content, headers=call.headers, timeout=call.begin()
            ) as response,
        ):
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                call.check_deadline()
            return response, bytes(content)

    def _url(self, call: Call) -> str:
        return f"{self._base_url}/checkpoints/{call.request.operation}"

    def _client(self) -> httpx.Client:
        if self._given is not None:
            return self._given
        with self._lock:
            self._check_open()
            if self._own is None:
                self._own = httpx.Client(limits=_LIMITS)
            return self._own

    def _async_client(self) -> httpx.AsyncClient:
        if self._given_async is not None:
            return self._given_async
        loop = asyncio.get_running_loop()
        with self._lock:
            self._check_open()
            own = self._own_async.get(loop)
            if own is None:
                for ended in [other for other in self._own_async if other.is_closed()]:
                    del self._own_async[ended]
                own = self._own_async[loop] = httpx.AsyncClient(limits=_LIMITS)
            return own

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("The checkpointer has been closed")


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
