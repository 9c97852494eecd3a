"""The JSON that commands print: an object that says what it is, and in which version.

A version's keys stay, and keep their meaning; new ones may come beside them. What changes or takes one away makes the next version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: What commands print with `--json`, and the version of each.
VERSIONS: Mapping[str, int] = {
    "explain": 1,
    "predict": 1,
    "info": 1,
    "composites": 1,
    "evaluate": 1,
    "golden.show": 1,
    "golden.check": 1,
    "golden.audit": 1,
    "golden.references": 1,
    "conformance.audit": 1,
    "golden.identify": 1,
    "conformance": 1,
    "doctor": 1,
}


def versioned(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with its schema before its content.

    Examples
    --------
    >>> versioned("predict", {"images": []})
    {'schema': 'nplrp.predict/1', 'images': []}
    """
    return {"schema": f"nplrp.{kind}/{VERSIONS[kind]}", **content}


def print_json(kind: str, content: Mapping[str, Any]) -> None:
    """Print an object with its schema to standard output."""
    print(json.dumps(versioned(kind, content), indent=2))
