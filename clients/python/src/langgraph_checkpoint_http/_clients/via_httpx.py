"""Attempts sent by httpx: with a client that a caller gave, or with one of our own where a proxy is on the way."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, Generic, TypeVar

import httpx

from langgraph_checkpoint_http._clients.address import Address
from langgraph_checkpoint_http._clients.attempt import (
    CONCURRENCY,
    DEFAULT_TIMEOUTS,
    Answer,
    Attempt,
    ConnectionFault,
    Mismatch,
    Settle,
    T,
    Timeouts,
    deadline_fault,
    timeout,
    until_the_loop_ends,
)
from langgraph_checkpoint_http._clients.kept import KEPT_SECONDS

C = TypeVar("C", httpx.Client, httpx.AsyncClient)

_FAULTS = (httpx.TransportError, httpx.DecodingError)
_NOT_REPEATED = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


class _ViaHttpx(Generic[C]):
    """With `make` it can have a fresh connection: that of another client."""

    def __init__(self, address: Address, client: C, make: Callable[[], C] | None = None, proxy: str = "") -> None:
        self.timeouts = Timeouts.of(client.timeout)
        self.where = f"{address.origin} through the proxy {_without_secret(proxy)}" if proxy else address.origin
        self._base_url = address.url
        self._client: C = client
        self._make: Callable[[], C] | None = make

    def _for(self, attempt: Attempt) -> C | nullcontext[C]:
        """What is entered to send it, and closed afterwards if it is another client."""
        return self._make() if attempt.is_fresh and self._make is not None else nullcontext(self._client)


class HttpxClient(_ViaHttpx[httpx.Client]):
    def send(self, attempt: Attempt, settle: Settle[T]) -> T:
        with (
            _faults(),
            self._for(attempt) as client,
            client.stream("POST", self._base_url + attempt.path, **_options(attempt)) as response,
        ):
            try:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if attempt.is_over:  # A read timeout is about the pause between two packets.
                        raise deadline_fault()
                return settle(_answer(response, content))
            except Mismatch:
                stream = response.extensions.get("network_stream")
                if stream is not None:
                    stream.close()
                raise

    def close(self) -> None:
        self._client.close()


class HttpxAsyncClient(_ViaHttpx[httpx.AsyncClient]):
    _end: AsyncGenerator[None, None] | None = None

    async def send(self, attempt: Attempt, settle: Settle[T]) -> T:
        if self._make is not None and self._end is None:  # One that was given is its owner's.
            self._end = until_the_loop_ends(self._close)
            await anext(self._end)
        with _faults():
            async with (
                timeout(attempt.limit(None)),
                self._for(attempt) as client,
                client.stream("POST", self._base_url + attempt.path, **_options(attempt)) as response,
            ):
                try:
                    content = bytearray()
                    async for chunk in response.aiter_bytes():
                        content += chunk
                        if attempt.is_over:
                            raise deadline_fault()
                    return settle(_answer(response, content))
                except Mismatch:
                    stream = response.extensions.get("network_stream")
                    if stream is not None:
                        await stream.aclose()
                    raise

    async def aclose(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            await end.aclose()

    async def _close(self) -> None:
        self._end = None
        await self._client.aclose()


def ours(tls: ssl.SSLContext | None) -> dict[str, Any]:
    """What an httpx client of our own is made with."""
    limits = httpx.Limits(
        max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY, keepalive_expiry=KEPT_SECONDS
    )
    return {
        "timeout": httpx.Timeout(**asdict(DEFAULT_TIMEOUTS)),
        "limits": limits,
        **({} if tls is None else {"verify": tls}),
    }


def _without_secret(proxy: str) -> str:
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _options(attempt: Attempt) -> dict[str, Any]:
    steps = {name: attempt.limit(getattr(attempt.timeouts, name)) for name in ("connect", "read", "write", "pool")}
    return {"content": attempt.content, "headers": attempt.headers, "timeout": httpx.Timeout(**steps)}


def _answer(response: httpx.Response, content: bytearray) -> Answer:
    # A hook of the client may have sent another id.
    return Answer(response.status_code, response.reason_phrase, response.headers, content, response.request.headers)


@contextmanager
def _faults() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise deadline_fault() from error
    except _FAULTS as error:
        raise ConnectionFault(
            type(error).__name__,
            str(error),
            may_repeat=not isinstance(error, _NOT_REPEATED),
            suspects_address=isinstance(error, httpx.ConnectError),
        ) from error
