"""What is installed, under which licences, and the bill of materials of what the package itself needs."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime, timezone
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any
from uuid import uuid4

from packaging.requirements import Requirement

PACKAGE = "langgraph-checkpoint-http"

# How classifiers and older fields name what SPDX names so.
SPDX = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "LICENSE.BSD3": "BSD-3-Clause",
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(package: Distribution) -> str | None:
    """As an SPDX expression; None when the package says nothing."""
    # Of what is absent `[]` gives None, or raises once some package has brought importlib_metadata.
    metadata = package.metadata
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    classified = [
        classifier.split(" :: ")[-1]
        for classifier in metadata.get_all("Classifier") or []
        if classifier.startswith("License :: OSI Approved :: ")
    ]
    if classified:
        return " AND ".join(SPDX[name] for name in classified)
    # Some have the whole text there; its first line is the name.
    name = metadata.get("License", "").split("\n")[0]
    return SPDX.get(name, name) or None


def needed() -> dict[str, list[str]]:
    """The package and all that it needs, each with what it needs directly."""
    found: dict[str, list[str]] = {}
    waiting = [PACKAGE]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        requirements = [Requirement(text) for text in distribution(name).requires or []]
        found[name] = [
            canonical(requirement.name)
            for requirement in requirements
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
        waiting += found[name]
    return found


def component(name: str) -> dict[str, Any]:
    package = distribution(name)
    licence = licence_of(package) or ""
    return {
        "type": "library",
        "bom-ref": purl(name),
        "name": name,
        "version": package.version,
        "licenses": [{"expression": licence} if " " in licence else {"license": {"id": licence}}],
        "purl": purl(name),
    }


def purl(name: str) -> str:
    return f"pkg:pypi/{name}@{distribution(name).version}"


def bill_of_materials() -> dict[str, Any]:
    packages = needed()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid4()}",
        "version": 1,
        "metadata": {"timestamp": datetime.now(timezone.utc).isoformat(), "component": component(PACKAGE)},
        "components": [component(name) for name in sorted(packages) if name != PACKAGE],
        "dependencies": [
            {"ref": purl(name), "dependsOn": [purl(other) for other in others]} for name, others in packages.items()
        ],
    }


if __name__ == "__main__":
    file = Path(sys.argv[1])
    bill = bill_of_materials()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(bill, indent=2) + "\n")
    print(f"{file}: {len(bill['components'])} packages")
