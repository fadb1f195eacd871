"""The example agent, killed while it waits for a human and started again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from conftest import REPOSITORY, Service

AGENT = REPOSITORY / "examples/python/agent.py"


@contextmanager
def agent(service: Service, thread_id: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(AGENT), thread_id],
        env={**os.environ, "CHECKPOINT_URL": service.url, "CHECKPOINT_API_KEY": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def say(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()
    return hear(process)


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_it_goes_on_where_it_was_killed(service: Service, thread_id: str) -> None:
    with agent(service, thread_id) as first:
        assert say(first, "hello") == "agent: You said 'hello'; that was message 1 of our talk."
        assert say(first, "how long is naïve?") == "agent: Done: 5 characters."
        assert say(first, "send greetings to Ada") == "agent asks: Send 'greetings' to Ada? (yes or no)"
        first.kill()
        assert first.wait(10) != 0
    with agent(service, thread_id) as second:
        assert hear(second) == "agent asks: Send 'greetings' to Ada? (yes or no)"
        assert say(second, "yes") == "agent: Done: sent 'greetings' to Ada."
        assert say(second, "hello again") == "agent: You said 'hello again'; that was message 4 of our talk."
        assert second.stdin is not None
        second.stdin.close()
        assert second.wait(30) == 0
