"""Backups: whether any is made, how old the newest is, and whether it was proved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.backup.catalogue import NO_MANIFEST
from app.backup.make import STAY
from app.core.clock import SystemClock
from app.doctor.finding import Finding, fine, note, problem, warning

if TYPE_CHECKING:
    from datetime import datetime

    from app.doctor.database_facts import DatabaseFacts
    from app.doctor.patient import Patient

TOPIC: Final = "backups"
HOUR_S: Final = 3_600
OLD_HOURS: Final = 26.0  # one a day, and two hours to make it
TOO_OLD_HOURS: Final = 72.0
LOSS: Final = "what came since then is lost with the database"
MAKE: Final = "gaveurs backup"
_clock: Final = SystemClock()


def judge_backups(facts: DatabaseFacts, patient: Patient, now: datetime | None = None) -> list[Finding]:
    """By the database's own record of them, whoever made them."""
    if facts.backups is None:
        return [note(TOPIC, "the schema does not record backups yet", "none is known of", "gaveurs migrate")]
    newest = facts.backups.get("succeeded")
    if newest is None:
        follows = "what is lost here is lost"
        say = warning if patient.in_production else note
        do = _make(patient) if patient.settings.backup_to else f"set BACKUP_TO, then: {MAKE}"
        return [say(TOPIC, "no backup was ever made", follows, do), *_failed(facts.backups, _make(patient))]
    make = _make(patient)
    aged = _aged(newest, now or _clock.now(), make)
    return [aged, *_unproved(facts.backups, make), *_failed(facts.backups, make)]


def _make(patient: Patient) -> str:
    return f"{MAKE}, where backups are made (the CronJob's log says why not)" if patient.backs_up_elsewhere else MAKE


def _aged(newest: Any, now: datetime, make: str) -> Finding:
    hours = (now - newest["started_at"]).total_seconds() / HOUR_S
    what = f"the newest backup is {hours:.0f} hours old ({newest['place']})"
    if hours > TOO_OLD_HOURS:
        return problem(TOPIC, what, LOSS, f"{make}; and see why its timer or CronJob does not run")
    if hours > OLD_HOURS:
        return warning(TOPIC, what, LOSS, make)
    return fine(TOPIC, what)


def _unproved(backups: Any, make: str) -> list[Finding]:
    """`verified` is also false of a backup that was restored for proof and lacks an attachment: its row says which."""
    newest, proved = backups["succeeded"], backups.get("verified")
    if proved is not None and proved["started_at"] >= newest["started_at"]:
        return _untidy(newest)
    if lacking := [word for word in _words(newest) if not _is_untidy(word)]:
        what = f"the newest backup is not whole or not proved: {'; '.join(lacking)}"
        follows = "what is named there would be missing after a restore"
        return [warning(TOPIC, what, follows, f"mend what it names, then: {make}"), *_untidy(newest)]
    what = "the newest backup was not proved by restoring it" if proved else "no backup was ever proved by restoring it"
    do = f"{make}, without --no-verify"
    return [warning(TOPIC, what, "nobody knows whether it can be restored", do), *_untidy(newest)]


def _words(backup: Any) -> list[str]:
    return backup["detail"].split("; ") if backup["detail"] else []


def _is_untidy(word: str) -> bool:
    """About other backups in its place."""
    return STAY in word or NO_MANIFEST in word


def _untidy(newest: Any) -> list[Finding]:
    words = [word for word in _words(newest) if _is_untidy(word)]
    if not words:
        return []
    do = f"do what the line says, or let who makes backups delete what it names ({newest['place']})"
    return [warning(TOPIC, f"the newest backup says: {'; '.join(words)}", "the place grows until it is full", do)]


def _failed(backups: Any, make: str) -> list[Finding]:
    failed, newest = backups.get("failed"), backups.get("succeeded")
    if failed is None or (newest is not None and newest["started_at"] > failed["started_at"]):
        return []
    why = (failed["detail"] or "it does not say why").partition("\n")[0]
    return [warning(TOPIC, f"the last backup failed: {why}", "the newest good one grows old", make)]
