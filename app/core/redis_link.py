"""Redis as we use it: every call has a short deadline of its own, no built-in retries, and goes through its breaker."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

import redis.asyncio
from redis.asyncio.connection import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    RedisError,
    ResponseError,
)

from app.core.breaker_policy import Outcome
from app.core.errors import UnavailableError
from app.core.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.core.dependency import Dependency

    Client = redis.asyncio.Redis

T = TypeVar("T")
CONNECTIONS: Final = 16
# What the client makes of a reply that is none; a server that talks nonsense is as good as gone.
NONSENSE: Final = (ValueError, TypeError, IndexError, AttributeError, UnicodeDecodeError)
FAILURES: Final = (RedisError, *NONSENSE)
NO_SUCH_DATABASE: Final = "DB index is out of range"
log = get_logger("gaveurs.redis")


class RedisUnavailableError(UnavailableError):
    """Redis did not answer in time, refused, or answered nonsense. Never leaves the cache or the limiter."""

    code = "redis_unavailable"


def judge(error: BaseException) -> Outcome:
    """What an error of a call means to Redis's breaker. A refusal of this one command is an answer."""
    if not isinstance(error, Exception):
        return Outcome.CANCELLED
    refused = isinstance(error.__cause__ or error, ResponseError)
    out_of_order = isinstance(error.__cause__ or error, AuthenticationError | BusyLoadingError | MasterDownError)
    return Outcome.SUCCESS if refused and not out_of_order else Outcome.FAILURE


def make_client(*, host: str, port: int, db: int, password: str | None, timeout_s: float) -> Client:
    """A client with at most `CONNECTIONS` connections, connected at first use. Without retries: a caller that has 50 ms
    has no time for them.
    """
    pool: Any = BlockingConnectionPool(
        max_connections=CONNECTIONS,
        timeout=timeout_s,
        host=host,
        port=port,
        db=db,
        password=password,
        # No times of its own: the client keeps them by asyncio.wait_for, which before Python 3.12 may swallow a
        # cancellation. `RedisLink` bounds every call.
        socket_timeout=None,
        socket_connect_timeout=None,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
    )
    return redis.asyncio.Redis.from_pool(pool)


class RedisLink:
    """Calls to Redis: `await link.call(lambda client: client.get(key))`."""

    def __init__(self, client: Client, dependency: Dependency, timeout_s: float) -> None:
        self.client = client
        self.dependency = dependency
        self._timeout_s = timeout_s

    async def call(self, ask: Callable[[Client], Awaitable[T]], timeout_s: float | None = None) -> T:
        """The answer. CircuitOpenError without asking while the breaker is open; RedisUnavailableError when there is no
        (sane) answer within the deadline; redis.ResponseError when Redis refuses this command.
        """
        async with self.dependency.call():
            return await self._in_time(ask, timeout_s or self._timeout_s)

    async def _in_time(self, ask: Callable[[Client], Awaitable[T]], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                await self.dependency.strike()
                return await ask(self.client)
        except (AuthenticationError, BusyLoadingError, MasterDownError) as error:
            raise RedisUnavailableError(f"Redis cannot serve: {type(error).__name__}") from error
        except ResponseError as error:
            if NO_SUCH_DATABASE in str(error):  # every connection is refused
                raise RedisUnavailableError(f"Redis cannot serve: {error}") from error
            raise
        except (OSError, TimeoutError, *FAILURES) as error:
            raise RedisUnavailableError(f"Redis does not answer: {type(error).__name__}") from error

    async def ping(self) -> None:
        """A background check's question, past the breaker."""
        if await self._in_time(lambda client: client.ping(), self.dependency.declared.deadline_s) is not True:
            raise RedisUnavailableError("what answers is no Redis")

    async def close(self) -> None:
        await self.client.aclose()

    async def advise(self) -> bool:
        """Whether it could ask. Says in the log what of the server's own settings may hurt: memory without a bound, or
        without eviction.
        """
        try:
            memory = await self.call(lambda client: client.info("memory"))
        except (UnavailableError, ResponseError):
            return False
        policy = str(memory.get("maxmemory_policy", ""))
        if not memory.get("maxmemory"):
            log.warning("Redis has no maxmemory: set one, and an eviction policy such as allkeys-lfu")
        elif not re.match(r"(allkeys|volatile)-", policy):
            log.warning("Redis does not evict: once it is full, writes to the cache are refused", policy=policy)
        return True
