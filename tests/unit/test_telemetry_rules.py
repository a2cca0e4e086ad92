"""Which bug an alert is one of, how it reads, and whether it shows that a fix has failed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.bugs.telemetry_rules import SHIPPED, TelemetryRule, fingerprint, inherits, reopens, report, shares
from app.sqal.alert_rules import AlertRules, AlertSettings
from app.sqal.sightings import Reading, Sighting
from app.sqal.watch import RULES as WATCHED

NOW = datetime(2026, 2, 2, 8, 15, tzinfo=UTC)
SEEN = Sighting(
    alert_id=UUID(int=1), rule="reject", severity="critical", subject="ESP32_LL_01", device_id="ESP32_LL_01",
    site_code="LL", devices=["ESP32_LL_01"], occurrences=3, first_at=NOW, seen_at=NOW, sample_id="s1", sample_time=NOW,
    lot="L-1", firmwares=["v2.3.1"],
)  # fmt: skip
REJECT = SHIPPED["reject"]
BY_FIRMWARE = replace(REJECT, group_by="firmware")


def seen(**changes: Any) -> Sighting:
    return replace(SEEN, **changes)


def bug(**changes: Any) -> dict[str, Any]:
    return {
        "status": "resolved", "resolved_at": NOW - timedelta(hours=1), "closed_at": None, "fixed_in_firmware": None
    } | changes  # fmt: skip


def test_every_alert_rule_has_its_own_here_and_there_are_no_others() -> None:
    assert set(SHIPPED) == {*AlertRules(AlertSettings()).by_name, *WATCHED}


def test_what_a_poor_product_raises_is_off_as_shipped() -> None:
    assert {name for name, rule in SHIPPED.items() if not rule.enabled} == {"low_score", "oxidation", "freshness"}
    assert {(rule.severity, rule.priority) for rule in SHIPPED.values()} == {
        ("critical", "urgent"),
        ("medium", "medium"),
    }


@pytest.mark.parametrize(
    ("rule", "sighting", "subject", "title", "device_id"),
    [
        (REJECT, seen(), "ESP32_LL_01", "Device ESP32_LL_01: reject (site LL)", "ESP32_LL_01"),
        (REJECT, seen(site_code=None), "ESP32_LL_01", "Device ESP32_LL_01: reject", "ESP32_LL_01"),
        (BY_FIRMWARE, seen(), "2.3.1", "Firmware 2.3.1: reject (site LL)", None),
        (BY_FIRMWARE, seen(firmwares=["2.3.1", "v2.3.1+x"]), "2.3.1", "Firmware 2.3.1: reject (site LL)", None),
        (BY_FIRMWARE, seen(firmwares=[]), "ESP32_LL_01", "Device ESP32_LL_01: reject (site LL)", "ESP32_LL_01"),
        (
            SHIPPED["site_offline"],
            seen(subject="LL", device_id=None, devices=["A", "B"], firmwares=["1", "2"]),
            "LL",
            "Site LL: site_offline",
            None,
        ),
        (
            SHIPPED["quarantine_growing"],
            seen(subject="quarantine", device_id=None, site_code=None),
            "quarantine",
            "quarantine: quarantine_growing",
            None,
        ),
    ],
)
def test_a_fingerprint_is_the_rule_the_device_or_firmware_and_the_site(
    rule: TelemetryRule, sighting: Sighting, subject: str, title: str, device_id: str | None
) -> None:
    found = fingerprint(rule, sighting)
    assert (found.rule, found.subject, found.site_code) == (rule.name, subject, sighting.site_code or "")
    assert (found.title, report(rule, sighting, found)["device_id"]) == (title, device_id)


def test_a_report_says_what_was_seen() -> None:
    made = report(REJECT, SEEN, fingerprint(REJECT, SEEN))
    assert made["tags"] == ["telemetry", "reject"]
    assert (made["severity"], made["priority"], made["category"]) == ("critical", "urgent", "quality")
    assert (made["firmware_version"], made["site_code"], made["reported_by"]) == ("v2.3.1", "LL", "telemetry")
    for said in ("reject (critical)", "2026-02-02T08:15:00Z", "ESP32_LL_01", "v2.3.1", "L-1", "s1"):
        assert said in made["description"]
    assert len(fingerprint(REJECT, seen(device_id="x" * 500)).title) == 300


@pytest.mark.parametrize("status", ["open", "in_progress", "awaiting_info", "reopened", "wont_fix", "duplicate"])
def test_what_is_open_or_will_not_be_fixed_does_not_reopen(status: str) -> None:
    assert not reopens(bug(status=status), SEEN)


@pytest.mark.parametrize(
    ("firmwares", "fixed_in", "expected"),
    [
        (["2.3.1"], "2.3.2", False),
        (["2.3.2"], "2.3.2", True),
        (["v2.3.2"], "2.3.2", True),
        (["2.10.0"], "2.9", True),
        (["2.3.2-rc1"], "2.3.2", False),
        (["2.3.1", "2.4"], "2.3.2", True),
        ([], "2.3.2", False),
        (["nightly"], "2.3.2", False),
        (["nightly"], "nightly", True),
        (["2.3.1"], None, True),
        ([], None, True),
    ],
)
def test_a_bug_is_back_on_firmware_that_has_the_fix(firmwares: list[str], fixed_in: str | None, expected: bool) -> None:
    assert reopens(bug(fixed_in_firmware=fixed_in), seen(firmwares=firmwares)) is expected
    closed = bug(status="closed", resolved_at=None, closed_at=NOW - timedelta(hours=1), fixed_in_firmware=fixed_in)
    assert reopens(closed, seen(firmwares=firmwares)) is expected


def reading(minutes: int, firmware: str | None) -> Reading:
    return Reading(NOW + timedelta(minutes=minutes), NOW, f"s{minutes}", "L", firmware)


def test_what_is_more_than_is_known_by_reading_is_the_last_ones() -> None:
    readings = [reading(1, "2.4"), reading(2, "2.3"), reading(3, "v2.4.0"), reading(4, "2.3.1")]
    (share,) = shares(REJECT, seen(), readings, 9)
    assert (share.readings, share.times, share.unknown) == (readings, 9, 5)
    (share,) = shares(REJECT, seen(), readings, 2)
    assert (share.readings, share.unknown) == (readings[2:], 0)
    parts = shares(BY_FIRMWARE, seen(), readings, 9)
    assert [(part.seen.firmwares, part.times, part.unknown) for part in parts] == [
        (["v2.4.0"], 2, 0), (["2.3"], 1, 0), (["v2.3.1"], 6, 5)
    ]  # fmt: skip
    assert sum(part.times for part in shares(BY_FIRMWARE, seen(), readings[:2], 2)) == 2
    assert [part.times for part in shares(BY_FIRMWARE, seen(), [], 3)] == [3]


def test_any_reading_brings_a_bug_back_and_the_newest_is_told() -> None:
    fixed = bug(fixed_in_firmware="2.4.0", resolved_at=NOW + timedelta(minutes=1))
    readings = [reading(1, "2.4.0"), reading(2, "2.4.0"), reading(3, "2.4.1"), reading(4, "2.3.1")]
    (share,) = shares(REJECT, seen(seen_at=NOW + timedelta(minutes=4)), readings, 4)
    back = share.brings_back(fixed)
    assert back is not None
    assert (back.sample_id, back.firmwares) == ("s3", ["2.4.1"])
    (before,) = shares(REJECT, seen(), [readings[0], readings[3]], 2)
    assert before.brings_back(fixed) is None


@pytest.mark.parametrize(
    ("firmware", "older", "fixed_in", "expected"),
    [
        ("2.4.0", "2.3.0", "2.4.0", True),
        ("2.10.0", "2.3.0", "2.4.0", True),
        ("2.3.9", "2.3.0", "2.4.0", False),
        ("2.4.0", "2.5.0", "2.4.0", False),
        ("2.4.0", "ESP32_LL_01", "2.4.0", False),
        ("nightly", "2.3.0", "nightly", False),
        ("2.4.0", "2.3.0", None, False),
    ],
)
def test_a_later_firmware_takes_up_what_ought_to_be_fixed_in_it(
    firmware: str, older: str, fixed_in: str | None, expected: bool
) -> None:
    (share,) = shares(BY_FIRMWARE, seen(firmwares=[firmware]), [], 1)
    assert inherits(firmware, bug(fixed_in_firmware=fixed_in), older, share) is expected
    assert not inherits(firmware, bug(fixed_in_firmware=fixed_in, resolved_at=NOW), older, share)


def test_what_was_seen_before_the_resolution_says_nothing_of_the_fix() -> None:
    assert not reopens(bug(resolved_at=NOW), SEEN)
    assert reopens(bug(resolved_at=NOW), seen(seen_at=NOW + timedelta(microseconds=1)))
    assert reopens(bug(status="closed", closed_at=NOW + timedelta(hours=1)), SEEN)


def test_a_rule_passes_over_what_happened_while_it_was_off() -> None:
    assert replace(REJECT, enabled=False).passes_over(SEEN)
    assert not REJECT.passes_over(SEEN)
    assert replace(REJECT, since=NOW).passes_over(SEEN)
    assert not replace(REJECT, since=NOW).passes_over(seen(seen_at=NOW + timedelta(seconds=1)))
