"""`--conformance-report=FILE`: a table of the suites, with what ran them and what they ran."""

from __future__ import annotations

from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = {
    "langgraph-checkpoint-conformance": "the suite",
    "langgraph-checkpoint-http": "the saver of this repository",
    "langgraph-checkpoint": "the checkpointer interface",
    "langgraph-checkpoint-postgres": "LangGraph's own saver, which histories are compared with",
    "agentex-sdk": "the saver of the existing SDK",
}
COLUMNS = {
    "test_conformance.py::test_async": "asynchronous",
    "test_conformance.py::test_sync": "synchronous",
    "test_delta_channel_history.py::test_history[async": "asynchronous",
    "test_delta_channel_history.py::test_history[sync": "synchronous",
    "test_agentex_sdk.py::test_base": "agentex-sdk",
}
CAPABILITIES = (
    "put",
    "put_writes",
    "get_tuple",
    "list",
    "delete_thread",
    "delete_for_runs",
    "copy_thread",
    "prune",
    "delta_channel_history",
)


class ConformanceReport:
    """A plugin of pytest."""

    def __init__(self, path: Path, sdk_faults: dict[str, str]) -> None:
        self._path = path
        self._sdk_faults = sdk_faults
        # (capability, column) -> [passed, all]
        self._counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.passed:
            return
        where = report.nodeid.removeprefix("tests/")
        column = next((column for start, column in COLUMNS.items() if where.startswith(start)), None)
        if column is None or report.skipped:
            return
        name = where.partition("[")[2].rstrip("]")
        capability = name.partition("-")[0] if "delta" not in where else "delta_channel_history"
        expected_to_fail = column == "agentex-sdk" and name.partition("-")[2] in self._sdk_faults
        count = self._counts[capability, column]
        count[0] += report.passed and not expected_to_fail
        count[1] += 1

    def pytest_sessionfinish(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(self._markdown())

    def _markdown(self) -> str:
        columns = list(dict.fromkeys(COLUMNS.values()))
        rows = [["Capability", *columns]]
        totals: dict[str, list[int]] = {column: [0, 0] for column in columns}
        for capability in CAPABILITIES:
            cells = []
            for column in columns:
                passed, count = self._counts.get((capability, column), [0, 0])
                totals[column][0] += passed
                totals[column][1] += count
                cells.append(f"{passed} of {count}" if count else "")
            rows.append([f"`{capability}`", *cells])
        rows.append(["All", *(f"{passed} of {count}" for passed, count in totals.values())])
        faults = [f"- `{name}`: {why}" for name, why in self._sdk_faults.items()]
        return "\n".join(
            [
                "## Python",
                "",
                *table(rows),
                "",
                "The published suite has no tests of `delta_channel_history` yet. Those counted here are of this",
                "repository; they compare each history with those of LangGraph's in-memory and Postgres savers.",
                "",
                "What the agentex SDK itself cannot do, whatever answers it:",
                "",
                *faults,
                "",
                *table([["Package", "Version", "What it is"], *versions()]),
                "",
            ]
        )


def versions() -> list[list[str]]:
    rows = []
    for package, meaning in PACKAGES.items():
        try:
            rows.append([f"`{package}`", version(package), meaning])
        except PackageNotFoundError:
            rows.append([f"`{package}`", "not installed", meaning])
    return rows


def table(rows: list[list[str]]) -> list[str]:
    """As Prettier formats it."""
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]]
