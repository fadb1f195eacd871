"""One operation on its way: encoding, compression, retries and the deadline."""

from __future__ import annotations

import json
import logging
import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import uuid4

from langgraph_checkpoint_http._body import Row, compress, encode, path_of_non_finite
from langgraph_checkpoint_http._clients.attempt import Answer, Attempt, ConnectionFault, Mismatch, Timeouts
from langgraph_checkpoint_http._errors import (
    CheckpointBackendError,
    CheckpointMismatchError,
    CheckpointProblemError,
    CheckpointUnavailableError,
    UnstorableValueError,
)

REQUEST_ID_HEADER = "x-request-id"
CURSOR_HEADER = "x-next-cursor"

_RETRIED_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
# Three new connections that all bring another request's answer are no accident.
_MAX_MISMATCHES = 3
_FIRST_PAUSE_SECONDS = 0.1
# An address where nothing has answered yet is more often wrong than away. A service that starts beside its agents is
# there by then.
_FIRST_CONNECTION_SECONDS = 15.0
_REPORT_SECONDS = 60.0
_MAX_PAUSE_SECONDS = 10.0
_DETAIL_MAX = 200

_log = logging.getLogger("langgraph_checkpoint_http")


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
        self._distrusts_idle = False
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
        return Attempt(path, self.headers, self.content, self._timeouts, self._ends, self._distrusts_idle)

    def pause_after_fault(self, fault: ConnectionFault) -> float:
        """Seconds to wait before the next attempt. Raises when there is none."""
        self._distrusts_idle = self._distrusts_idle or fault.is_silence
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
        self._distrusts_idle = True
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
        except (ValueError, RecursionError) as error:
            raise self._error(f"{answer.status} with a body that is not JSON") from error
        return Reply(data, answer.headers.get(CURSOR_HEADER), len(answer.content))

    def _problem(self, answer: Answer) -> CheckpointProblemError:
        problem: Any = None
        if "json" in answer.headers.get("content-type", ""):
            with suppress(ValueError, RecursionError):
                problem = json.loads(answer.content)
        if not isinstance(problem, dict):
            problem = {}
        faults = problem.get("errors")
        return CheckpointProblemError(
            status=answer.status,
            type=str(problem.get("type", "about:blank")),
            title=str(problem.get("title", answer.reason)),
            detail=_text_of(problem.get("detail")),
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


def _text_of(detail: Any) -> str | None:
    """Other services and proxies give objects and lists."""
    return detail if detail is None or isinstance(detail, str) else json.dumps(detail)[:_DETAIL_MAX]


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
