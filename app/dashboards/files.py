"""The dashboards as files, always the same bytes for the same metrics and service levels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from app.core.metrics import Metrics
from app.dashboards import bugs, business, devices, infrastructure, slo
from app.dashboards.board import assemble

if TYPE_CHECKING:
    from pathlib import Path

    from app.dashboards.board import Board
    from app.dashboards.sql import ServiceLevels


def boards(metrics: Metrics, levels: ServiceLevels) -> tuple[Board, ...]:
    """All dashboards. ValueError where a query names what the metrics do not have."""
    return (
        infrastructure.board(metrics),
        business.board(metrics),
        devices.board(metrics),
        bugs.board(metrics, levels),
        slo.board(metrics),
    )


def texts(levels: ServiceLevels) -> dict[str, str]:
    """Each file's name and text."""
    metrics = Metrics()
    return {
        f"{board.uid}.json": json.dumps(
            assemble(board, metrics), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False
        )
        + "\n"
        for board in boards(metrics, levels)
    }


def outdated(folder: Path, levels: ServiceLevels) -> list[str]:
    """Names of files in `folder` that are not as they would be written, are missing, or should not be there."""
    made = {name: text.encode() for name, text in texts(levels).items()}
    found = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    return sorted(name for name in made.keys() | found.keys() if made.get(name) != found.get(name))


def write(folder: Path, levels: ServiceLevels) -> list[str]:
    """Write those that are outdated, remove those that are no more; their names. OSError where it cannot be done."""
    changed, made = outdated(folder, levels), texts(levels)
    folder.mkdir(parents=True, exist_ok=True)
    for name in changed:
        if name in made:
            (folder / name).write_text(made[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return changed
