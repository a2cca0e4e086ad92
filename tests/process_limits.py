"""Limits of this process, for a moment: what a full disk, or a machine that has given all it has, refuses."""

from __future__ import annotations

import resource
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


@contextmanager
def no_room_in_files() -> Iterator[None]:
    """They can be made, and nothing can be written to them."""
    with limited(resource.RLIMIT_FSIZE, 0):
        yield


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    with limited(resource.RLIMIT_NOFILE, 0):
        yield


@contextmanager
def no_more_threads() -> Iterator[None]:
    """Each would have a stack that is larger than all memory that can be addressed."""
    kept = threading.stack_size(1 << 47)
    try:
        yield
    finally:
        threading.stack_size(kept)
