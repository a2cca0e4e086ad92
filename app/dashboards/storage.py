"""Panels of the infrastructure dashboard about disks and backups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.models import units

from app.dashboards.panels import GREEN, RED, YELLOW, Face, Line, Panel, graph, number, rising
from app.dashboards.promql import process, shared

if TYPE_CHECKING:
    from app.core.metric_types import Family, Gauge
    from app.core.metrics import Metrics
    from app.dashboards.promql import Query

HOUR_S: Final = 3_600
DAY_S: Final = 24 * HOUR_S
UNKNOWN: Final = "none known"
"""There was none ever, or the database has been away for days and nobody can say."""


def disks(m: Metrics) -> tuple[Panel, ...]:
    free, size = (
        process(m.disk_free).now().min("instance", "place"),
        process(m.disk_size).now().min("instance", "place"),
    )
    return (
        graph(
            Face(
                60,
                "Disk free",
                "Share, by folder of ours.",
                units.PercentUnit,
                steps=((0.1, YELLOW), (0.2, GREEN)),
                base=RED,
                highest=1,
            ),
            Line(free.over(size), "{{place}} {{instance}}"),
        ),
        graph(
            Face(61, "Disk free, bytes", "What we may still write.", units.BytesIEC),
            Line(free, "{{place}} {{instance}}"),
        ),
        graph(
            Face(62, "Database size", "As PostgreSQL counts it.", units.BytesIEC),
            Line(shared(m.database_size).now().max(), "database"),
        ),
    )


def backups(m: Metrics) -> tuple[Panel, ...]:
    def newest(family: Family[Gauge]) -> Query:
        """As the alerts have it: what was known stays known while the database, which tells it, is away."""
        return shared(family).over_time("last", "3d").max()

    return (
        number(
            Face(
                63,
                "Age of the newest backup",
                "Since it began; BackupTooOld watches it.",
                units.Seconds,
                6,
                5,
                rising(25 * HOUR_S, 26 * HOUR_S),
                nothing=UNKNOWN,
            ),
            Line(newest(m.backup_success).age(), ""),
        ),
        number(
            Face(
                64,
                "Age of the newest verified backup",
                "That was restored for proof. BackupNotVerified: 7 days behind the newest backup.",
                units.Seconds,
                6,
                5,
                rising(3 * DAY_S, 7 * DAY_S),
                nothing=UNKNOWN,
            ),
            Line(newest(m.backup_verified).age(), ""),
        ),
        number(
            Face(
                65,
                "Newest failed backup",
                "How long ago.",
                units.Seconds,
                4,
                5,
                ((DAY_S, YELLOW), (7 * DAY_S, GREEN)),
                RED,
                nothing=UNKNOWN,
            ),
            Line(newest(m.backup_failure).age(), ""),
        ),
        number(
            Face(66, "Size of the newest backup", "As stored.", units.BytesIEC, 4, 5, nothing=UNKNOWN),
            Line(newest(m.backup_size), ""),
        ),
        number(
            Face(67, "It took", "The newest that succeeded.", units.Seconds, 4, 5, nothing=UNKNOWN),
            Line(newest(m.backup_duration), ""),
        ),
    )
