"""What the record of a backup says of other backups in its place is not said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.backup.catalogue import NO_MANIFEST
from app.backup.make import STAY
from app.doctor.backups import judge_backups
from app.doctor.finding import Level
from tests.unit.test_doctor import NOW, backup, facts, patient

STAYS = f"{STAY}, of backups whose time is over: X/manifest.json cannot be deleted from /b: Operation not permitted"
HEADLESS = f"the backup X {NO_MANIFEST}: put it back, or delete the folder"


@pytest.mark.parametrize("word", [STAYS, HEADLESS])
def test_what_stays_in_the_place_is_told_beside_the_proof(word: str) -> None:
    known = {"succeeded": backup(3, detail=word), "verified": backup(3)}
    _, untidy = judge_backups(replace(facts(), backups=known), patient(), NOW)
    assert (untidy.level, untidy.what, "s3://b/p" in untidy.do) == (
        Level.WARNING, f"the newest backup says: {word}", True,
    )  # fmt: skip
    del known["verified"]
    _, unproved, again = judge_backups(replace(facts(), backups=known), patient(), NOW)
    assert "was ever proved by restoring it" in unproved.what
    assert "--no-verify" in unproved.do
    assert again == untidy


def test_what_is_lacking_is_told_without_what_stays() -> None:
    known = {"succeeded": backup(3, detail=f"{STAYS}; {HEADLESS}; attachment ab12 is lost")}
    _, lacking, untidy = judge_backups(replace(facts(), backups=known), patient(), NOW)
    assert lacking.what == "the newest backup is not whole or not proved: attachment ab12 is lost"
    assert untidy.what == f"the newest backup says: {STAYS}; {HEADLESS}"
