"""The store of bugs' attachments. Nothing is written: whether a bucket takes writes is not tried."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from app.backup.places import NO_ANSWER
from app.bug_resources import make_attachment_store
from app.bugs.attachment_store import AttachmentsUnavailableError
from app.core.apart import apart
from app.core.errors import CannotStartError, in_a_line
from app.doctor.finding import Finding, fine, note, problem

if TYPE_CHECKING:
    from pathlib import Path

    from app.doctor.patient import Patient

TOPIC: Final = "attachments"
DEADLINE_S: Final = 8.0
FOLLOWS: Final = "bugs work, but no attachment can be added or read"


async def check_attachments(patient: Patient) -> list[Finding]:
    folder = patient.attachments_folder
    return [await _bucket(patient) if folder is None else await apart(lambda: _folder(folder))]


def _folder(folder: Path) -> Finding:
    if not folder.exists():
        return note(TOPIC, f"{folder} is not there yet", "it is made at the first start")
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return problem(
            TOPIC,
            f"{folder} cannot be written to",
            "the service does not start",
            f"ls -ld {folder}; chown it to who runs the service",
        )
    return fine(TOPIC, f"in {folder}")


async def _bucket(patient: Patient) -> Finding:
    url = patient.settings.bug_attachments_url
    try:
        async with asyncio.timeout(DEADLINE_S):
            await anext(make_attachment_store(patient.settings).pages(), None)
    except CannotStartError as error:
        return problem(TOPIC, str(error), "the service does not start", "correct BUG_ATTACHMENTS_URL")
    except AttachmentsUnavailableError as error:
        if NO_ANSWER in str(error.__cause__):
            return _no_answer(patient, f"nobody answers at {patient.settings.bug_attachments_s3_endpoint or url}")
        why = in_a_line(error.__cause__ or error)
        return problem(
            TOPIC,
            f"{url} cannot be listed: {why}",
            FOLLOWS,
            "correct BUG_ATTACHMENTS_URL and BUG_ATTACHMENTS_S3_*, or make the bucket",
        )
    except TimeoutError:
        return _no_answer(patient, f"no answer within {DEADLINE_S:g} s")
    return fine(TOPIC, f"{url} can be listed (whether it takes writes was not tried)")


def _no_answer(patient: Patient, why: str) -> Finding:
    do = "start it, or correct BUG_ATTACHMENTS_S3_ENDPOINT, or what is between (firewall, NetworkPolicy)"
    return problem(TOPIC, f"{patient.settings.bug_attachments_url} cannot be listed: {why}", FOLLOWS, do)
