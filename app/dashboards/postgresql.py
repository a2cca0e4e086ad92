"""Queries to PostgreSQL as Grafana's data source takes them; the SDK has none of its own for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.dashboard import DataSourceRef

DATASOURCE: Final = DataSourceRef(type_val="grafana-postgresql-datasource", uid="${postgresql}")


@dataclass(frozen=True, slots=True)
class Rows:
    """SQL with Grafana's macros and variables. `time_series` has a column `time` and one for each line."""

    sql: str
    kind: Literal["table", "time_series"] = "table"


class SqlTarget(Dataquery):
    """A panel's target."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def to_json(self) -> dict[str, object]:
        return {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "format": self._rows.kind,
            "rawQuery": True,
            "rawSql": self._rows.sql,
            "refId": "A",
        }


class SqlQuery(Builder[Dataquery]):
    """What panels take targets from."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def build(self) -> Dataquery:
        return SqlTarget(self._rows)
