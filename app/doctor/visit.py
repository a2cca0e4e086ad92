"""All checks at once, each with a deadline; whatever becomes of one of them is a finding."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.core.errors import in_a_line
from app.doctor.attachments import check_attachments
from app.doctor.backup_means import check_backup_means
from app.doctor.budgets import check_budgets
from app.doctor.clock import check_clock
from app.doctor.database import check_database
from app.doctor.disk import check_disks
from app.doctor.finding import Finding, Level, problem, secrets_of, warning, without
from app.doctor.folders import check_folders, no_entry
from app.doctor.ports import check_ports
from app.doctor.redis import check_redis
from app.doctor.settings_sense import judge_sense

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from app.doctor.patient import Patient

    Check = Callable[[Patient], Awaitable[list[Finding]]]

DEADLINE_S: Final = 12.0
CHECKS: Final[Mapping[str, Check]] = {
    "clock": check_clock,
    "permissions": check_folders,
    "disk": check_disks,
    "budgets": check_budgets,
    "ports": check_ports,
    "database": check_database,
    "redis": check_redis,
    "attachments": check_attachments,
    "backups": check_backup_means,
}
BY_LEVEL: Final = {level: place for place, level in enumerate(reversed(Level))}


async def examine(
    patient: Patient, checks: Mapping[str, Check] = CHECKS, deadline_s: float = DEADLINE_S
) -> list[Finding]:
    """What is worst comes first. Returns within `deadline_s`, whatever hangs; what hangs is left behind."""
    tasks = {topic: asyncio.ensure_future(check(patient)) for topic, check in checks.items()}
    await asyncio.wait(tasks.values(), timeout=deadline_s)
    found = [*judge_sense(patient)]
    for topic, task in tasks.items():
        found += _outcome(topic, task, deadline_s)
    secrets = secrets_of(patient.settings)
    # Each once: one closed door stops several of us.
    return sorted(dict.fromkeys(without(secrets, one) for one in found), key=lambda one: BY_LEVEL[one.level])


def _outcome(topic: str, task: asyncio.Future[list[Finding]], deadline_s: float) -> Sequence[Finding]:
    if not task.done():
        task.cancel()
        follows = "whatever it asks hangs, and the service would wait for it too"
        return [problem(topic, f"there was no answer within {deadline_s:g} s", follows, "see what is slow there")]
    error = task.exception()
    if isinstance(error, PermissionError) and error.filename is not None:
        return [no_entry(Path(os.fsdecode(error.filename)))]
    if error is not None:
        return [warning(topic, f"could not be looked at: {in_a_line(error)}", "nothing is known of it", "report this")]
    return task.result()
