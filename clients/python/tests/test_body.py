"""Bodies are what json.dumps would make of them, without the copies."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from base64 import b64encode
from typing import Any

import pytest

from langgraph_checkpoint_http._body import encode

FIELDS: dict[str, Any] = {
    "text": 'a"\\\n\x00\ud800é🎉',
    "numbers": [0, -1, 2**64, 10**40, 1.0, -0.0, 1e16, 5e-324, 0.1 + 0.2],
    "nested": {"a": [None, True, {}], "": ""},
}
ROWS: list[tuple[dict[str, Any], bytes]] = [
    ({"channel": 'a"b', "version": 3.0}, b""),
    ({"channel": "é", "version": "1.5"}, bytes(range(256))),
    ({"channel": "c", "version": 2**70}, b"\xff" * 1001),
]


@pytest.mark.parametrize("count", range(4))
def test_it_is_the_same_json(count: int) -> None:
    rows = [{**of_row, "blob": b64encode(blob).decode()} for of_row, blob in ROWS[:count]]
    whole = {**FIELDS, "rows": rows} if rows else FIELDS
    encoded = encode(FIELDS, "rows", ROWS[:count])
    assert encoded == json.dumps(whole, separators=(",", ":")).encode()
    assert repr(json.loads(encoded)) == repr(whole)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, object(), b"", {1, 2}, {(1, 2): 3}], ids=repr)
def test_what_is_no_json_is_refused(value: Any) -> None:
    for fields, rows in (({"a": value}, []), ({"a": 1}, [({"b": value}, b"")])):
        with pytest.raises((TypeError, ValueError)):
            encode(fields, "rows", rows)


def test_a_large_blob_is_not_copied_on_and_on() -> None:
    blob = os.urandom(6_000_000)
    tracemalloc.start()
    try:
        size = len(encode({"a": 1}, "rows", [({"b": 1}, blob)]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Its Base64, and the body. By way of json.dumps it was five times the size.
    assert peak < 2.1 * size
