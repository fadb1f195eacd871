"""The published agentex-sdk, unmodified, against this backend: the base capabilities of the same suite."""

from __future__ import annotations

import os
import sys
import typing
from collections.abc import AsyncIterator

import pytest
import typing_extensions
from conftest import Service
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance.capabilities import Capability
from suite import BASE, SDK_FAULTS, SuiteTest, name_of

if sys.version_info < (3, 11):
    pytest.skip("agentex-sdk needs Python 3.11", allow_module_level=True)

# The SDK says that it runs on 3.11, yet imports what `typing` has had since 3.12.
if not hasattr(typing, "override"):
    typing.override = typing_extensions.override

# Neither traces nor price lists are fetched or sent by what the SDK brings along.
os.environ |= {"DD_TRACE_ENABLED": "false", "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"}
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "true"}

pytest.importorskip("agentex", reason="agentex-sdk is not installed")

from agentex.lib.adk._modules._http_checkpointer import HttpCheckpointSaver
from agentex.lib.adk.utils._modules.client import create_async_agentex_client


@pytest.fixture
async def sdk_saver(service: Service, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BaseCheckpointSaver[str]]:
    """As the SDK's `create_checkpointer` makes it: the key is the environment's, sent as x-agent-api-key."""
    for name, value in {"AGENT_API_KEY": service.key or "", "AGENT_NAME": "suite", "ACP_URL": "http://nowhere"}.items():
        monkeypatch.setenv(name, value)
    async with create_async_agentex_client(base_url=service.url, api_key="none") as client:
        yield HttpCheckpointSaver(client)


def test_the_suite_knows_the_tests_that_may_fail() -> None:
    assert SDK_FAULTS.keys() <= {test.__name__ for _, test in BASE}


@pytest.mark.parametrize("case", BASE, ids=name_of)
async def test_base(sdk_saver: BaseCheckpointSaver[str], case: tuple[Capability, SuiteTest]) -> None:
    _, test = case
    if test.__name__ in SDK_FAULTS:
        with pytest.raises(AssertionError):
            await test(sdk_saver)
    else:
        await test(sdk_saver)
