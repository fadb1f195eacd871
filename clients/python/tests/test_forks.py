"""A checkpointer that is used before a fork and after it, by the parent and its children."""

from __future__ import annotations

import asyncio
import copy
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest
from conftest import Service
from front import Front, front_of
from langgraph.checkpoint.base import empty_checkpoint

from langgraph_checkpoint_http import HttpCheckpointSaver

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
CHILD_SECONDS = 60


def config_of(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}


@pytest.fixture
def front(service: Service) -> Iterator[Front]:
    with front_of(service.url) as front:
        yield front


@pytest.fixture
def owners(service: Service) -> list[str]:
    """Threads whose checkpoint names them."""
    threads = [f"fork-{uuid4()}" for _ in range(4)]
    with HttpCheckpointSaver(service.url) as saver:
        for thread in threads:
            saver.put(config_of(thread), empty_checkpoint(), {"source": "input", "step": -1, "owner": thread}, {})  # type: ignore[typeddict-unknown-key]
    return threads


def owner(saver: HttpCheckpointSaver, thread_id: str) -> Any:
    item = saver.get_tuple(config_of(thread_id))
    return item and item.metadata["owner"]  # type: ignore[typeddict-item]


async def aowner(saver: HttpCheckpointSaver, thread_id: str) -> Any:
    item = await saver.aget_tuple(config_of(thread_id))
    return item and item.metadata["owner"]  # type: ignore[typeddict-item]


class Child:
    """What the function gives, or how it fails, in a forked process."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            signal.alarm(CHILD_SECONDS)
            try:
                result = function()
            except BaseException:
                result = traceback.format_exc()
            os.write(write, json.dumps(result).encode())
            os._exit(0)
        os.close(write)

    def result(self) -> Any:
        with os.fdopen(self._read, "rb") as pipe:
            text = pipe.read()
        os.waitpid(self.pid, 0)
        return json.loads(text or b'"the child was killed"')


def test_children_use_connections_of_their_own(front: Front, owners: list[str]) -> None:
    with HttpCheckpointSaver(front.url) as saver:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: owner(saver, owners[n % 4]), range(32)))
        parents = set(front.ports)
        front.ports.clear()
        children = [Child(lambda own=own: [owner(saver, own) for _ in range(10)]) for own in owners]  # type: ignore[misc]
        assert [child.result() for child in children] == [[own] * 10 for own in owners]
        # One connection for each child.
        assert len(front.ports) == 4
        assert not front.ports & parents
        # The parent's are as they were.
        front.ports.clear()
        assert [owner(saver, own) for own in owners] == owners
        assert front.ports <= parents


# PyDLL keeps the interpreter's lock. There must be no other thread: after such a fork the child would wait for it.
FORK_IN_C = """
import ctypes, os, signal, sys
from langgraph_checkpoint_http import HttpCheckpointSaver
saver = HttpCheckpointSaver(sys.argv[1])
config = {"configurable": {"thread_id": sys.argv[2], "checkpoint_ns": ""}}
saver.get_tuple(config)
child = ctypes.PyDLL(None).fork()
if child == 0:
    signal.alarm(30)
    os._exit(saver.get_tuple(config).metadata["owner"] != sys.argv[2])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_without_the_hooks_of_python(front: Front, owners: list[str]) -> None:
    subprocess.run([sys.executable, "-c", FORK_IN_C, front.url, owners[0]], check=True, timeout=CHILD_SECONDS)
    assert len(front.ports) == 2


def test_grandchildren_too(front: Front, owners: list[str]) -> None:
    with HttpCheckpointSaver(front.url) as saver:

        def generation(n: int) -> list[Any]:
            found = [owner(saver, owners[n]) for _ in range(3)]
            return found if n == 3 else found + Child(lambda: generation(n + 1)).result() + [owner(saver, owners[n])]

        expected = [owners[n] for n in (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 2, 1, 0)]
        assert generation(0) == expected
        assert len(front.ports) == 4


@pytest.mark.parametrize("loops", ["a new loop", "the parent's loop"])
def test_asynchronous_calls_too(front: Front, owners: list[str], loops: str) -> None:
    saver = HttpCheckpointSaver(front.url)
    loop = asyncio.new_event_loop()

    async def many(thread_id: str) -> list[Any]:
        return await asyncio.gather(*(aowner(saver, thread_id) for _ in range(5)))

    def child(own: str) -> list[Any]:
        return asyncio.run(many(own)) if loops == "a new loop" else loop.run_until_complete(many(own))

    assert loop.run_until_complete(many(owners[0])) == owners[:1] * 5
    parents = set(front.ports)
    front.ports.clear()
    for own in owners:  # One after another: processes that share a loop share what it waits for.
        assert Child(lambda own=own: child(own)).result() == [own] * 5  # type: ignore[misc]
    assert not front.ports & parents
    front.ports.clear()
    assert loop.run_until_complete(many(owners[0])) == owners[:1] * 5
    assert front.ports <= parents
    loop.run_until_complete(saver.aclose())
    loop.close()


def test_a_fork_while_another_thread_holds_the_locks(front: Front, owners: list[str]) -> None:
    with HttpCheckpointSaver(front.url) as saver:
        owner(saver, owners[0])
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            with saver._http._lock:
                held.set()
                done.wait(CHILD_SECONDS)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        try:
            child = Child(lambda: owner(saver, owners[1]))
        finally:
            done.set()
            thread.join()
        assert child.result() == owners[1]


def test_a_fork_while_requests_are_under_way(front: Front, owners: list[str]) -> None:
    with HttpCheckpointSaver(front.url) as saver:
        stop = threading.Event()
        wrong: list[Any] = []

        def ask(own: str) -> None:
            while not stop.is_set():
                found = owner(saver, own)
                if found != own:
                    wrong.append(found)

        threads = [threading.Thread(target=ask, args=(own,)) for own in owners]
        for thread in threads:
            thread.start()
        front.asked.wait()
        try:
            for _ in range(5):
                children = [Child(lambda own=own: [owner(saver, own) for _ in range(3)]) for own in owners]  # type: ignore[misc]
                assert [child.result() for child in children] == [[own] * 3 for own in owners]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert wrong == []


def test_closing_in_a_child_leaves_the_parent_alone(front: Front, owners: list[str]) -> None:
    with HttpCheckpointSaver(front.url) as saver:
        owner(saver, owners[0])

        def close() -> Any:
            saver.close()
            return "closed"

        assert Child(close).result() == "closed"
        assert owner(saver, owners[0]) == owners[0]
        assert len(front.ports) == 1
    with pytest.raises(RuntimeError, match="closed"):
        owner(saver, owners[0])


_shared: HttpCheckpointSaver | None = None


def _owner_of_shared(thread_id: str) -> Any:
    assert _shared is not None
    return owner(_shared, thread_id)


@pytest.fixture
def ends_by_sigterm() -> Iterator[None]:
    """As ever. ddtrace, which agentex-sdk brings, handles the signal, and a worker that was just forked lived on."""
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("ends_by_sigterm")
def test_pools_of_processes(front: Front, owners: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpCheckpointSaver(front.url) as saver:
        monkeypatch.setitem(globals(), "_shared", saver)
        owner(saver, owners[0])
        parents = set(front.ports)
        front.ports.clear()
        fork = multiprocessing.get_context("fork")
        with fork.Pool(4) as pool:
            assert pool.map(_owner_of_shared, owners * 5, chunksize=1) == owners * 5
        with ProcessPoolExecutor(4, mp_context=fork) as executor:
            assert list(executor.map(_owner_of_shared, owners * 5)) == owners * 5
        assert not front.ports & parents


def test_a_client_of_the_parents_is_refused_in_a_child(front: Front, owners: list[str]) -> None:
    with httpx.Client() as client:
        saver = HttpCheckpointSaver(front.url, client=client, async_client=httpx.AsyncClient())
        assert owner(saver, owners[0]) == owners[0]
        for ask in (lambda: owner(saver, owners[1]), lambda: asyncio.run(aowner(saver, owners[1]))):
            assert "a function that makes a client" in Child(ask).result()
        assert owner(saver, owners[0]) == owners[0]
        assert len(front.ports) == 1


def test_a_function_makes_a_client_for_each_process(front: Front, owners: list[str]) -> None:
    options: Any = {
        "client": lambda: httpx.Client(headers={"x-mine": "1"}, timeout=9),
        "async_client": lambda: httpx.AsyncClient(headers={"x-mine": "2"}),
    }
    with HttpCheckpointSaver(front.url, **options) as saver:
        assert [owner(saver, owners[0]) for _ in range(2)] == owners[:1] * 2
        assert asyncio.run(aowner(saver, owners[0])) == owners[0]
        assert Child(lambda: [owner(saver, owners[1]) for _ in range(2)]).result() == owners[1:2] * 2
    assert [seen.headers["x-mine"] for seen in front.seen] == ["1", "1", "2", "1", "1"]
    assert len(front.ports) == 3


def test_copies_share_connections(front: Front, owners: list[str]) -> None:
    with HttpCheckpointSaver(front.url) as saver:
        owner(saver, owners[0])
        copied = copy.deepcopy(saver)
        assert owner(copied, owners[0]) == owners[0]
        assert Child(lambda: owner(copied, owners[1])).result() == owners[1]
        assert len(front.ports) == 2
