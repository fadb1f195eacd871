"""Every test of the published suite by its name, so that each is one test here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance.capabilities import BASE_CAPABILITIES, Capability

SuiteTest = Callable[[BaseCheckpointSaver[str]], Awaitable[None]]


def tests_of(capability: Capability) -> list[SuiteTest]:
    module = import_module(f"langgraph.checkpoint.conformance.spec.test_{capability.value}")
    tests: list[SuiteTest] = getattr(module, f"ALL_{capability.value.upper()}_TESTS")
    return tests


ALL = [(capability, test) for capability in Capability for test in tests_of(capability)]
BASE = [(capability, test) for capability, test in ALL if capability in BASE_CAPABILITIES]

# What the agentex SDK itself cannot do, whatever answers it.
SDK_FAULTS = {"test_list_includes_pending_writes": "its `alist` yields `pending_writes=None`"}


def name_of(case: tuple[Capability, SuiteTest]) -> str:
    capability, test = case
    return f"{capability.value}-{test.__name__}"
