"""Which process this is, so that a forked child leaves alone what its parent opened."""

from __future__ import annotations

import os

_process = object()


def this_process() -> object:
    """Equal in one process, different in its children. Some servers fork in C, without hooks; the id tells then."""
    return _process, os.getpid()


def _after_fork_in_child() -> None:
    global _process
    _process = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
