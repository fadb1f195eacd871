"""The licences of what is installed, and the bill of materials."""

from __future__ import annotations

import re
from importlib.metadata import distributions

from packages import PACKAGE, bill_of_materials, canonical, licence_of, needed

# They ask for no more than a notice. Of a package that offers several, all have to be here.
ALLOWED = {
    *("MIT", "MIT-0", "ISC", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "PSF-2.0", "CNRI-Python", "Unlicense"),
}
# They come with LangGraph and httpx, are used as they are, and their files stay under their own licence.
NEEDED = {"certifi": "MPL-2.0", "orjson": "MPL-2.0"}
# Used for developing alone, and never passed on.
DEVELOPMENT = {
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
    "psycopg-pool": "LGPL-3.0-only",
    "pathspec": "MPL-2.0",
    "tqdm": "MPL-2.0",
    # A part of ddtrace, which is BSD-3-Clause; it says nothing itself.
    "ddtrace-internal": "none",
}


def refused(names: set[str], exceptions: dict[str, str]) -> list[str]:
    found = []
    for package in distributions():
        name = canonical(package.metadata["Name"])
        licence = licence_of(package) or "none"
        words = set(re.findall(r"[\w.+-]+", licence)) - {"AND", "OR"} - ALLOWED - {exceptions.get(name)}
        if name in names and words:
            found.append(f"{name}: {licence}")
    return sorted(found)


def test_the_licences_of_all_packages_are_allowed() -> None:
    installed = {canonical(package.metadata["Name"]) for package in distributions()}
    assert len(installed) > 50
    assert refused(set(needed()), NEEDED) == []
    assert refused(installed, NEEDED | DEVELOPMENT) == []


def test_the_bill_lists_what_is_needed_with_version_and_licence() -> None:
    bill = bill_of_materials()
    names = {component["name"] for component in bill["components"]}
    assert {"httpx", "httpcore", "langgraph-checkpoint", "langchain-core", "certifi"} <= names
    assert {"pytest", "psycopg", "langgraph", PACKAGE} & names == set()
    for component in [bill["metadata"]["component"], *bill["components"]]:
        assert component["version"]
        [licence] = component["licenses"]
        assert licence.get("expression") or licence["license"]["id"]
    known = names | {PACKAGE}
    for dependency in bill["dependencies"]:
        for purl in [dependency["ref"], *dependency["dependsOn"]]:
            assert re.fullmatch(r"pkg:pypi/(.+)@.+", purl)[1] in known  # type: ignore[index]
