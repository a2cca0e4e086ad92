"""`gaveurs doctor`: what is wrong, what follows from it, what to do."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.command_line import DataDir
from app.core.logging import configure_logging
from app.doctor.finding import Finding, Level, note
from app.doctor.patient import Patient
from app.doctor.settings_read import read
from app.doctor.visit import examine
from app.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

INDENT: Final = " " * 23
NAMED: Final = {
    Level.PROBLEM: ("problem", "problems"),
    Level.WARNING: ("warning", "warnings"),
    Level.NOTE: ("note", "notes"),
    Level.OK: ("ok", "ok"),
}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    replicas: Annotated[int, typer.Option(min=1, help="How many share the database.")] = 1,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the service listens, or would.")] = 8000,
    data_dir: DataDir = None,
) -> None:
    """Look at everything the service stands on; changes nothing. Exit code 1 when there is a problem."""
    configure_logging("critical")
    settings, found = read({"data_dir": data_dir})
    if settings is not None:
        # Not asyncio.run: it would wait for threads that a dead name server or mount may hold for minutes.
        loop = asyncio.new_event_loop()
        found += loop.run_until_complete(examine(Patient(settings, replicas, port)))
    else:
        found.append(note("settings", "nothing else was looked at: it depends on them"))
    typer.echo(_as_json(found) if as_json else told(found))
    sys.stdout.flush()
    os._exit(1 if worst(found) is Level.PROBLEM else 0)  # for the same reason


def worst(found: Sequence[Finding]) -> Level:
    levels = list(Level)
    return max((one.level for one in found), key=levels.index, default=Level.OK)


def _as_json(found: Sequence[Finding]) -> str:
    return json.dumps({"worst": worst(found), "findings": [asdict(one) for one in found]}, ensure_ascii=False, indent=2)


def told(found: Sequence[Finding]) -> str:
    """For people: the worst first, one paragraph each, and a count."""
    in_order = sorted(found, key=lambda one: list(Level).index(one.level), reverse=True)
    counted = {level: sum(one.level is level for one in found) for level in reversed(Level)}
    sums = ", ".join(f"{count} {NAMED[level][count != 1]}" for level, count in counted.items())
    return "\n".join([*map(_paragraph, in_order), "", sums])


def _paragraph(finding: Finding) -> str:
    lines = [f"{finding.level:<8} {finding.topic:<13} {finding.what}"]
    lines += [INDENT + finding.follows] if finding.follows else []
    lines += [f"{INDENT}-> {finding.do}"] if finding.do else []
    return "\n".join(map(printable, lines))
