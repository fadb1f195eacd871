"""The published suite langgraph-checkpoint-conformance, through the asynchronous and the synchronous methods."""

from __future__ import annotations

import pytest
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES, Capability, DetectedCapabilities
from suite import ALL, SuiteTest, name_of
from sync_adapter import SyncAdapter

from langgraph_checkpoint_http import HttpCheckpointSaver


def test_every_capability_is_there() -> None:
    detected = DetectedCapabilities.from_instance(HttpCheckpointSaver("http://nowhere"))
    assert detected.detected == ALL_CAPABILITIES


@pytest.mark.parametrize("case", ALL, ids=name_of)
async def test_async(async_saver: HttpCheckpointSaver, case: tuple[Capability, SuiteTest]) -> None:
    await case[1](async_saver)


@pytest.mark.parametrize("case", ALL, ids=name_of)
async def test_sync(saver: HttpCheckpointSaver, case: tuple[Capability, SuiteTest]) -> None:
    await case[1](SyncAdapter(saver))
