"""The service that the tests talk to, and the database behind it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from report import ConformanceReport
from suite import SDK_FAULTS

from langgraph_checkpoint_http import HttpCheckpointSaver

REPOSITORY = Path(__file__).resolve().parents[3]
START_SECONDS = 120


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance-report", type=Path, help="write the results of the suites to this file")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--conformance-report")
    if path is not None:
        config.pluginmanager.register(ConformanceReport(path, SDK_FAULTS))


@dataclass(frozen=True)
class Service:
    url: str
    # None when the service is someone else's (CHECKPOINT_TEST_URL without CHECKPOINT_TEST_DATABASE_URL).
    database_url: str | None
    # What it takes for one of every operation, when it asks for any.
    key: str | None = os.environ.get("CHECKPOINT_TEST_KEY")


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """CHECKPOINT_TEST_URL, else a service of this repository with an embedded Postgres of its own."""
    given = os.environ.get("CHECKPOINT_TEST_URL")
    if given:
        yield Service(given.rstrip("/"), os.environ.get("CHECKPOINT_TEST_DATABASE_URL"))
        return
    root = Path(os.environ.get("CHECKPOINT_TEST_ROOT", REPOSITORY))
    if not (root / "dist/src/main.js").exists():
        pytest.exit("dist/src/main.js is missing: run `npm run build` in the repository's root first", returncode=3)
    data = Path(tempfile.mkdtemp(prefix="checkpoint-python-"))
    port = free_port()
    log = (data / "service.log").open("w+")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DATABASE_URL", "NODE_ENV", "NODE_OPTIONS", "HOST", "DATABASE_SCHEMA")
    }
    process = subprocess.Popen(
        ["node", str(root / "dist/src/main.js")],
        cwd=data,
        env={**environment, "PORT": str(port), "DATA_DIR": str(data / "data"), "SHUTDOWN_DELAY_MS": "0"},
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, log.name)
        yield Service(url, embedded_database_url(data / "data"))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
        shutil.rmtree(data_directory(data / "data"), ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: str) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    sys.stderr.write(Path(log).read_text())
    raise RuntimeError("the service did not become ready")


def data_directory(data: Path) -> Path:
    """Started by root, Postgres may have to keep its data where the user that it runs as can go."""
    location = data / "location"
    return Path(location.read_text().strip()) if location.exists() else data


def embedded_database_url(data: Path) -> str:
    postgres = data_directory(data) / "postgres"
    password = (postgres / "checkpoint-backend.password").read_text().strip()
    port = (postgres / "postmaster.pid").read_text().splitlines()[3]
    return f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


@pytest.fixture(scope="session")
def database_url(service: Service) -> str:
    if service.database_url is None:
        pytest.skip("CHECKPOINT_TEST_DATABASE_URL is not set")
    return service.database_url


@pytest.fixture
def saver(service: Service) -> Iterator[HttpCheckpointSaver]:
    with HttpCheckpointSaver(service.url, api_key=service.key) as saver:
        yield saver


@pytest.fixture
async def async_saver(service: Service) -> AsyncIterator[HttpCheckpointSaver]:
    async with HttpCheckpointSaver(service.url, api_key=service.key) as saver:
        yield saver


@pytest.fixture
def thread_id() -> str:
    return f"python-{uuid4()}"
