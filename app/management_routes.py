"""What the management port answers: from its own threads, also while the event loop does not turn."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from app.core.management import Answer
from app.core.metric_types import OPENMETRICS, TEXT, wants_openmetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.core.health import Health, Report
    from app.core.metric_types import Registry


def management_routes(health: Health, registry: Registry) -> Mapping[str, Callable[[Mapping[str, str]], Answer]]:
    """/metrics and the probes."""

    def metrics(headers: Mapping[str, str]) -> Answer:
        openmetrics = wants_openmetrics(headers.get("accept", ""))
        return Answer(200, OPENMETRICS if openmetrics else TEXT, registry.render(openmetrics=openmetrics))

    def probe(ask: Callable[[], Report]) -> Callable[[Mapping[str, str]], Answer]:
        def answer(_headers: Mapping[str, str]) -> Answer:
            status, body = ask()
            text: Any = json.dumps(body)
            return Answer(status, "application/json", text.encode())

        return answer

    probes = {"/startup": health.startup, "/live": health.live, "/ready": health.ready, "": health.tree}
    return {"/metrics": metrics, **{f"/health{name}": probe(ask) for name, ask in probes.items()}}
