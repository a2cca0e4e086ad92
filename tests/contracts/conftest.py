"""A real Redis for each test that asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.redis_server import running_redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.redis_server import RedisServer


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A running server of the test's own, empty; it may be killed and stalled."""
    with running_redis() as server:
        yield server
