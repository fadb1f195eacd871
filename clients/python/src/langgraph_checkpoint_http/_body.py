"""The body of a request: JSON, with the blobs put into it as Base64, and gzip where it pays."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from typing import Any

# Most of a large body is Base64. Of bytes that do not compress, gzip takes back no more than what Base64 had added (a
# quarter), at a price in time that a network rarely asks; of text it takes away more, which a sample tells.
_GZIP_MIN_BYTES = 32 * 1024
_GZIP_SAMPLE_BYTES = 16 * 1024
_GZIP_MAX_RATIO = 0.7

_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

# What belongs to one blob beside its bytes, and the bytes.
Row = tuple[Mapping[str, Any], bytes]


def encode(fields: Mapping[str, Any], name: str, rows: Sequence[Row]) -> bytes:
    """JSON of the fields and of a list of rows, if there are any, as Postgres's jsonb takes it.

    Base64 needs no quoting, so the blobs go past the JSON encoder, which would copy each of them several times.

    Raises:
        ValueError: There is a NaN or an infinity.
        TypeError: There is what is not JSON.
    """
    body = _json(fields)
    if not rows:
        return body.encode("ascii")
    pieces = [body[:-1].encode("ascii"), b',"%b":[' % name.encode("ascii")]
    for number, (of_row, blob) in enumerate(rows):
        pieces += (
            b"," if number else b"",
            _json(of_row)[:-1].encode("ascii"),
            b',"blob":"',
            b2a_base64(blob, newline=False),
            b'"}',
        )
    pieces.append(b"]}")
    return b"".join(pieces)


def path_of_non_finite(value: Any, path: str = "") -> tuple[float, str] | None:
    """The first NaN or infinity, and where it is, such as `metadata.scores.0`."""
    if isinstance(value, float) and not math.isfinite(value):
        return value, path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for key, item in items:
        found = path_of_non_finite(item, f"{path}.{key}" if path else str(key))
        if found is not None:
            return found
    return None


def compress(content: bytes) -> bytes | None:
    """The content as gzip, when that pays."""
    if len(content) < _GZIP_MIN_BYTES:
        return None
    middle = (len(content) - _GZIP_SAMPLE_BYTES) // 2
    sample = content[middle : middle + _GZIP_SAMPLE_BYTES]
    if len(zlib.compress(sample, 1)) > _GZIP_MAX_RATIO * len(sample):
        return None
    return gzip.compress(content, 1, mtime=0)
