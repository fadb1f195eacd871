"""Real graphs end in the state and the history that the in-memory saver gives them."""

from __future__ import annotations

from typing import Any

import pytest
from graphs import DELTA, LONG, SCENARIOS, Run, Scenario
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_checkpoint_http import HttpCheckpointSaver


async def expected(scenario: Scenario, thread_id: str, *, synchronous: bool) -> Any:
    run = Run(scenario.build, InMemorySaver(), thread_id, synchronous=synchronous)
    await scenario.play(run)
    return await run.result()


@pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("scenario", [*SCENARIOS, DELTA, LONG], ids=lambda scenario: scenario.name)
async def test_as_in_memory(
    async_saver: HttpCheckpointSaver, thread_id: str, scenario: Scenario, synchronous: bool
) -> None:
    scenario.skip_where_impossible(synchronous=synchronous)
    run = Run(scenario.build, async_saver, thread_id, synchronous=synchronous)
    await scenario.play(run)
    result = await run.result()
    assert len(result["history"]) > (1000 if scenario is LONG else 2)
    assert result == await expected(scenario, thread_id, synchronous=synchronous)
