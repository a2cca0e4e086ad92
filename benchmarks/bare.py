"""Our server with its protection taken out: what ingest is measured against. `python -m benchmarks.bare PORT`.

Taken out are: the limits of a device (`Admission` answers 0 at once), every metric (one object that does nothing stands
for all of them), the recorder, what a commit says to the cache, the log of the driver's queries, the watchdog of the
event loop; the breaker is disabled, and there is no Redis. What remains is the same code: uvicorn, middleware, session,
queue, committer, database.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import uvloop

from app.application import create_app
from app.core.breaker_policy import Mode
from app.core.database import Database, TimedConnection
from app.core.logging import configure_logging
from app.core.server import listen, make_server
from app.infrastructure import Infrastructure
from app.settings import load_settings
from app.sqal import session
from app.sqal.admission import Admission
from app.sqal.cached import CachedReads


class Silent:
    """Stands for every metric, for the catalogue of them, for the recorder and for the watchdog: does nothing."""

    value = 0.0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = SILENT if name in FAMILIES else nothing
        setattr(self, name, found)
        return found

    def labels(self, *_values: str) -> Silent:
        return self

    def items(self) -> list[Any]:
        return []

    def receipt(self) -> dict[str, Any]:
        return {}


def nothing(*_: Any, **__: Any) -> None:
    """Instead of inc, observe, set, received, judged, acknowledged, note, start, ..."""


class Unlimited(Admission):
    def retry_after_s(self, device: str, size_bytes: int) -> float:
        return 0.0


def note_nothing(self: CachedReads, samples: Any) -> None: ...


async def measure_nothing(self: Database, connection: Any) -> None:
    assert isinstance(connection, TimedConnection)
    connection.metrics = self._metrics


def stripped(made: Infrastructure) -> Infrastructure:
    made.database.breaker.set_mode(Mode.DISABLED)
    silent: Any = SILENT
    return replace(made, metrics=silent, recorder=silent, watchdog=silent)


def serve(port: int) -> None:
    settings = load_settings(redis_host="")
    configure_logging(settings.log_level)
    app = create_app(settings)
    runtime = app.state.runtime
    families = vars(runtime.infrastructure.metrics)
    FAMILIES.update(name for name in families if not name.startswith("_"))
    runtime.infrastructure = stripped(runtime.infrastructure)
    session.__dict__["Admission"] = Unlimited
    CachedReads.note = note_nothing  # type: ignore[method-assign]
    Database._measure = measure_nothing  # type: ignore[method-assign]  # noqa: SLF001 - no seam for it, and only here
    uvloop.run(make_server(app).serve(sockets=[listen("127.0.0.1", port)]))


FAMILIES: set[str] = set()
SILENT = Silent()

if __name__ == "__main__":
    serve(int(sys.argv[1]))
