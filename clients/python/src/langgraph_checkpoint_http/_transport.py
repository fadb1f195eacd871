"""From a request to its answer: encoding, compression, retries, the deadline, and the clients that send attempts."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from langgraph_checkpoint_http._body import Row, compress, encode, path_of_non_finite
from langgraph_checkpoint_http._clients.address import Address
from langgraph_checkpoint_http._clients.attempt import (
    CONCURRENCY,
    Answer,
    AsyncClient,
    Attempt,
    ConnectionFault,
    Mismatch,
    SyncClient,
    Timeouts,
    within,
)
from langgraph_checkpoint_http._clients.environment import proxy_for, trusted_authorities
from langgraph_checkpoint_http._clients.event_loop import EventLoopClient
from langgraph_checkpoint_http._clients.process import this_process
from langgraph_checkpoint_http._clients.sockets import SocketClient
from langgraph_checkpoint_http._errors import (
    CheckpointBackendError,
    CheckpointMismatchError,
    CheckpointProblemError,
    CheckpointUnavailableError,
    UnstorableValueError,
)

if TYPE_CHECKING:
    import httpx
    from typing_extensions import Self

API_KEY_HEADER = "x-agent-api-key"
REQUEST_ID_HEADER = "x-request-id"
CURSOR_HEADER = "x-next-cursor"

DEFAULT_DEADLINE_SECONDS = 120.0

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
# They say where a request ends.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})
_HEADER_VALUE = re.compile(r"[!-~](?:[\t -~]*[!-~])?|")

_RETRIED_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
# Three new connections that all bring another request's answer are no accident.
_MAX_MISMATCHES = 3
_FIRST_PAUSE_SECONDS = 0.1
# An address where nothing has answered yet is more often wrong than away. A service that starts beside its agents is
# there by then.
_FIRST_CONNECTION_SECONDS = 15.0
_REPORT_SECONDS = 60.0
_MAX_PAUSE_SECONDS = 10.0

_log = logging.getLogger("langgraph_checkpoint_http")

ApiKey = str | Callable[[], str | None]


@dataclass(frozen=True)
class Request:
    """One operation; each may be repeated with the same result."""

    operation: str
    thread_id: str | None
    body: Mapping[str, Any]
    # A list beside `body`, by its name, whose rows have a blob each.
    rows: tuple[str, Sequence[Row]] = ("", ())
    # What of the answer's data was not asked for, such as another thread's id; None when all of it was.
    stranger: Callable[[Any], str | None] = lambda data: None


@dataclass(frozen=True)
class Reply:
    """The answer to an operation: `data` is None when the answer has no body."""

    data: Any
    next_cursor: str | None
    size: int


class History:
    """What the operations of one checkpointer have met."""

    def __init__(self) -> None:
        # Whether there is a service at the address: any answer of its own tells.
        self.has_answer = False
        self._reported: float | None = None

    def report(self, trouble: str) -> None:
        """Logs it, unless something was logged a moment ago: in an outage each of many agents has the same trouble."""
        now = time.monotonic()
        if self._reported is None or now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            _log.warning(trouble)


class Call:
    """One operation on its way: what to send, and after each attempt whether and when to send it again."""

    def __init__(
        self,
        request: Request,
        headers: Mapping[str, str],
        timeouts: Timeouts,
        deadline: float,
        check_request_id: bool,
        where: str,
        history: History,
    ):
        self.request = request
        self._where = where
        self._history = history
        # Why the attempt before failed, for the error of one that the deadline cuts short.
        self._reason_before: str | None = None
        self.request_id = str(uuid4())
        content = self._encoded()
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
        self._timeouts = timeouts
        self._began = time.monotonic()
        self._ends = self._began + deadline

    def _encoded(self) -> bytes:
        body = self.request.body
        try:
            return encode(body, *self.request.rows)
        except (TypeError, ValueError, RecursionError) as error:
            found = path_of_non_finite(body)
            raise UnstorableValueError(
                f"{found[0]} at {found[1]} cannot be stored: jsonb has no NaN and no infinity" if found else str(error),
                operation=self.request.operation,
                thread_id=self.request.thread_id,
            ) from error

    @property
    def remaining(self) -> float:
        return self._ends - time.monotonic()

    def attempt(self) -> Attempt:
        """Counts an attempt and says what it sends."""
        self.attempts += 1
        path = f"/checkpoints/{self.request.operation}"
        return Attempt(path, self.headers, self.content, self._timeouts, self._ends, is_fresh=self.mismatches > 0)

    def pause_after_fault(self, fault: ConnectionFault) -> float:
        """Seconds to wait before the next attempt. Raises when there is none."""
        reason = f"{fault}, at {self._where}"
        left = self.remaining
        if fault.suspects_address and not self._history.has_answer:
            reason += " where nothing has answered yet: check base_url, and whether the service runs"
            left = min(left, self._began + _FIRST_CONNECTION_SECONDS - time.monotonic())
        pause = self._back_off()
        if fault.may_repeat and not _is_refused_certificate(fault) and pause < left:
            return self._again(reason, pause, left)
        if self._reason_before is not None and self._reason_before != reason:
            reason += f"; the attempt before: {self._reason_before}"
        raise CheckpointUnavailableError(reason, **self._of_error()) from fault.__cause__ or fault

    def pause_after_mismatch(self, mismatch: Mismatch) -> float:
        """Seconds to wait before the next attempt. Raises when there is none."""
        self.mismatches += 1
        reason = f"the answer belongs to another request: {mismatch}"
        pause = self._back_off()
        if self.mismatches >= _MAX_MISMATCHES or pause >= self.remaining:
            raise CheckpointMismatchError(reason, **self._of_error())
        return self._again(reason, pause, self.remaining)

    def _again(self, reason: str, pause: float, left: float) -> float:
        self._reason_before = reason
        self._history.report(f"{CheckpointBackendError(reason, **self._of_error())}. It is repeated for {left:.0f} s")
        return pause

    def settle(self, answer: Answer) -> Reply | float:
        """The answer's data, or the seconds to wait before the next attempt. Raises when the service said no.

        Raises:
            Mismatch: The answer is another request's.
        """
        self._refuse_foreign(answer)
        self._history.has_answer = True
        if 200 <= answer.status < 300:
            reply = self._reply(answer)
            stranger = self.request.stranger(reply.data)
            if stranger is not None:
                raise Mismatch(stranger)
            return reply
        if answer.status in _RETRIED_STATUSES:
            asked = retry_after_seconds(answer.headers.get("retry-after"))
            # Jitter on top: those who were told the same second shall not all come at once.
            pause = (asked or 0) + self._back_off()
            if pause < self.remaining:
                return self._again(self._problem(answer).reason, pause, self.remaining)
        raise self._problem(answer)

    def _refuse_foreign(self, answer: Answer) -> None:
        """Raises Mismatch, unless the answer asks for another attempt anyway."""
        answered = answer.headers.get(REQUEST_ID_HEADER)
        if answered is None or not self._check_request_id:
            # One that says nothing may be of a proxy on the way.
            self.request_id = answered or self.request_id
            return
        sent = (answer.sent_headers or self.headers).get(REQUEST_ID_HEADER, self.request_id)
        # A proxy may add an id of its own.
        if answer.status not in _RETRIED_STATUSES and sent not in [id_.strip() for id_ in answered.split(",")]:
            raise Mismatch(f"{answer.status} with {REQUEST_ID_HEADER} {answered!r}, not {self.request_id!r}")

    def _reply(self, answer: Answer) -> Reply:
        try:
            data = None if answer.status == 204 else json.loads(answer.content)
        except ValueError as error:
            raise self._error(f"{answer.status} with a body that is not JSON") from error
        return Reply(data, answer.headers.get(CURSOR_HEADER), len(answer.content))

    def _problem(self, answer: Answer) -> CheckpointProblemError:
        problem: Any = None
        if "json" in answer.headers.get("content-type", ""):
            with suppress(ValueError):
                problem = json.loads(answer.content)
        if not isinstance(problem, dict):
            problem = {}
        faults = problem.get("errors")
        return CheckpointProblemError(
            status=answer.status,
            type=str(problem.get("type", "about:blank")),
            title=str(problem.get("title", answer.reason)),
            detail=problem.get("detail"),
            errors=[fault for fault in faults if isinstance(fault, dict)] if isinstance(faults, list) else [],
            **self._of_error(),
        )

    def _error(self, reason: str) -> CheckpointBackendError:
        return CheckpointBackendError(reason, **self._of_error())

    def _of_error(self) -> dict[str, Any]:
        return {
            "operation": self.request.operation,
            "thread_id": self.request.thread_id,
            "request_id": self.request_id,
            "attempts": self.attempts,
            "seconds": time.monotonic() - self._began,
        }

    def _back_off(self) -> float:
        """Exponential with full jitter."""
        return random.uniform(0, min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(self.attempts - 1, 16)))


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
        if not turns.acquire(timeout=max(call.remaining, 0.001)):
            raise ConnectionFault("PoolTimeout", "too many requests were under way until the deadline")
        try:
            return client.send(call.attempt(), call.settle)
        finally:
            turns.release()

    async def _aattempt(self, client: AsyncClient, turns: asyncio.Semaphore | None, call: Call) -> Reply | float:
        if turns is None:
            return await client.send(call.attempt(), call.settle)
        if turns.locked():
            async with within(call.remaining):
                await turns.acquire()
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
