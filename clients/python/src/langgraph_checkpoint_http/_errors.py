"""What can go wrong. Every error names the operation, the thread and, once there is one, the request id."""

from __future__ import annotations

from typing import Any


class CheckpointBackendError(Exception):
    """An operation did not succeed.

    `operation` is the name on the wire, such as `put-writes`. `thread_id` is None for operations on no particular
    thread. `request_id` finds the request in the log of the service; it is None when nothing was sent. `seconds` have
    passed since the operation began, with all its `attempts` and the pauses between them.
    """

    def __init__(
        self,
        reason: str,
        *,
        operation: str,
        thread_id: str | None,
        request_id: str | None = None,
        attempts: int = 0,
        seconds: float = 0.0,
    ) -> None:
        self.reason = reason
        self.operation = operation
        self.thread_id = thread_id
        self.request_id = request_id
        self.attempts = attempts
        self.seconds = seconds
        of_thread = "" if thread_id is None else f" of thread {thread_id!r}"
        sent = "" if request_id is None else f" (request {request_id}, attempts: {attempts} in {seconds:.1f} s)"
        super().__init__(f"{operation}{of_thread}: {reason}{sent}")


class CheckpointProblemError(CheckpointBackendError):
    """The service refused the request, or still failed when the deadline came.

    Branch on `type` (such as `/problems/limit-exceeded`), which is stable, or on `status`; `detail` is for people.
    `type` is `about:blank` when the status says it all, as it does for answers of a proxy.
    """

    def __init__(
        self,
        *,
        status: int,
        type: str,
        title: str,
        detail: str | None,
        errors: list[dict[str, Any]],
        operation: str,
        thread_id: str | None,
        request_id: str,
        attempts: int,
        seconds: float = 0.0,
    ) -> None:
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.errors = errors
        faults = "; ".join(f"{fault.get('pointer')} {fault.get('detail')}" for fault in errors)
        super().__init__(
            f"{status} {type} {': '.join(part for part in (title, detail, faults) if part)}",
            operation=operation,
            thread_id=thread_id,
            request_id=request_id,
            attempts=attempts,
            seconds=seconds,
        )


class CheckpointUnavailableError(CheckpointBackendError):
    """No usable answer came before the deadline; `__cause__` is the last fault of the connection."""


class CheckpointMismatchError(CheckpointBackendError):
    """Answers came that belong to other requests, over new connections too. None of their data was used.

    Something on the way mixes answers up, or writes `x-request-id` anew (see `check_request_id`).
    """


class OtherLanguageError(CheckpointBackendError):
    """The thread waits for an answer that an agent in Python cannot give to one in TypeScript. Nothing was stored."""


class UnstorableValueError(CheckpointBackendError, ValueError):
    """A checkpoint or its metadata holds what JSON or Postgres's jsonb cannot; nothing was sent."""
