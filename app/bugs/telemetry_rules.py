"""What an alert means to the tracker: which bug it is one of, how that reads, and whether a fix has failed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from app.bugs.firmware import at_or_later, canonical, parse
from app.core.clock import iso

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from uuid import UUID

    from app.bugs.vocabulary import Category, Priority, Severity
    from app.core.database import Row

GroupBy = Literal["device", "firmware"]
ACTOR: Final = "telemetry"
ALWAYS: Final = datetime(1970, 1, 1, tzinfo=UTC)
MOST_TITLE: Final = 300


class Sighting(Protocol):
    """An alert as the tracker needs it. `seen_at`: when it was last raised; `devices`: whom it concerns; `firmwares`:
    that of the reading that raised it last, or else what its devices are known to run.
    """

    @property
    def alert_id(self) -> UUID: ...
    @property
    def rule(self) -> str: ...
    @property
    def severity(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def device_id(self) -> str | None: ...
    @property
    def site_code(self) -> str | None: ...
    @property
    def devices(self) -> Sequence[str]: ...
    @property
    def occurrences(self) -> int: ...
    @property
    def first_at(self) -> datetime: ...
    @property
    def seen_at(self) -> datetime: ...
    @property
    def sample_id(self) -> str | None: ...
    @property
    def sample_time(self) -> datetime | None: ...
    @property
    def lot(self) -> str | None: ...
    @property
    def firmwares(self) -> Sequence[str]: ...
    def at(
        self, seen_at: datetime, firmware: str | None, lot: str | None, sample_id: str, sample_time: datetime
    ) -> Sighting: ...


class Reading(Protocol):
    """One that raised an alert."""

    @property
    def received_at(self) -> datetime: ...
    @property
    def device_time(self) -> datetime: ...
    @property
    def sample_id(self) -> str: ...
    @property
    def lot(self) -> str | None: ...
    @property
    def firmware(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Share:
    """What of an alert is one bug's: so many `times`, of which the `readings` are known, in the order in which they
    came; the others go by `seen`, which is the alert as of the last of them.
    """

    seen: Sighting
    readings: Sequence[Reading]
    times: int

    @property
    def unknown(self) -> int:
        return self.times - len(self.readings)

    def sightings(self) -> Iterator[Sighting]:
        """Newest first."""
        if self.unknown:
            yield self.seen
        for one in reversed(self.readings):
            yield at_reading(self.seen, one)

    def brings_back(self, bug: Row) -> Sighting | None:
        """The newest that shows that a bug is back."""
        return next((one for one in self.sightings() if reopens(bug, one)), None)


def at_reading(seen: Sighting, one: Reading) -> Sighting:
    return seen.at(one.received_at, one.firmware, one.lot, one.sample_id, one.device_time)


@dataclass(frozen=True, slots=True)
class TelemetryRule:
    """What is done with the alerts of one rule. It is on, or off, `since` then; `changed_by` None: as shipped."""

    name: str
    enabled: bool
    category: Category
    severity: Severity
    priority: Priority
    group_by: GroupBy = "device"
    since: datetime = ALWAYS
    changed_by: str | None = None

    def passes_over(self, seen: Sighting) -> bool:
        """What happened while a rule was off is never counted, not even after it is on again."""
        return not self.enabled or seen.seen_at <= self.since


def _critical(name: str, category: Category) -> TelemetryRule:
    return TelemetryRule(name, enabled=True, category=category, severity="critical", priority="urgent")


def _warning(name: str, category: Category, *, enabled: bool) -> TelemetryRule:
    return TelemetryRule(name, enabled, category, severity="medium", priority="medium")


# Off: what a poor product raises as well as a poor device. On a bad day these would be a bug for each device.
SHIPPED: Final[Mapping[str, TelemetryRule]] = {
    rule.name: rule
    for rule in (
        _critical("reject", "quality"),
        _warning("low_score", "quality", enabled=False),
        _warning("oxidation", "quality", enabled=False),
        _warning("freshness", "quality", enabled=False),
        _warning("device_offline", "hardware", enabled=True),
        _critical("devices_offline", "hardware"),
        _critical("site_offline", "hardware"),
        _critical("all_offline", "hardware"),
        _warning("clock_off", "hardware", enabled=True),
        _warning("quarantine_growing", "backend", enabled=True),
    )
}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What makes two alerts the same bug."""

    rule: str
    subject: str
    site_code: str
    title: str
    device_id: str | None = None
    is_firmware: bool = False


def fingerprint(rule: TelemetryRule, seen: Sighting) -> Fingerprint:
    """By firmware only where one is known; an alert without a device is its site's."""
    site = seen.site_code or ""
    at_site = f" (site {site})" if site else ""
    device_id = seen.device_id
    versions = {canonical(one) for one in seen.firmwares} if rule.group_by == "firmware" else set()
    is_firmware = len(versions) == 1
    if is_firmware:
        subject, device_id = versions.pop(), None
        title = f"Firmware {subject}: {rule.name}{at_site}"
    elif device_id is not None:
        subject, title = device_id, f"Device {device_id}: {rule.name}{at_site}"
    else:
        subject = site or seen.subject
        title = f"Site {site}: {rule.name}" if site else f"{subject}: {rule.name}"
    return Fingerprint(rule.name, subject, site, title[:MOST_TITLE], device_id, is_firmware)


def shares(rule: TelemetryRule, seen: Sighting, readings: Sequence[Reading], times: int) -> list[Share]:
    """An alert's `times` among the bugs whose they are: by firmware each firmware's, else all one's. The last is what
    the alert itself names. Of more readings than `times` the newest count.
    """
    readings = readings[max(len(readings) - times, 0) :]
    if rule.group_by != "firmware":
        return [Share(seen, readings, times)]
    last = fingerprint(rule, seen)
    by_subject: dict[Fingerprint, list[Reading]] = {}
    for one in readings:
        by_subject.setdefault(fingerprint(rule, at_reading(seen, one)), []).append(one)
    of_last = by_subject.pop(last, [])
    found = [Share(at_reading(seen, some[-1]), some, len(some)) for some in by_subject.values()]
    left = times - sum(share.times for share in found)
    return [*found, Share(seen, of_last, left)] if left else found


def report(rule: TelemetryRule, seen: Sighting, found: Fingerprint) -> dict[str, Any]:
    """The bug that a first sighting opens, as `report_bug` takes it."""
    return {
        "title": found.title,
        "description": describe(rule, seen),
        "severity": rule.severity,
        "priority": rule.priority,
        "category": rule.category,
        "device_id": found.device_id,
        "firmware_version": seen.firmwares[0] if len(seen.firmwares) == 1 else None,
        "site_code": seen.site_code,
        "reported_by": ACTOR,
        "tags": [ACTOR, rule.name],
    }


def describe(rule: TelemetryRule, seen: Sighting) -> str:
    """What was seen at first; later figures are the bug's own."""
    lines = [
        f"Telemetry raised the alert {rule.name} ({seen.severity}).",
        f"First seen: {iso(seen.first_at)}",
        f"Devices: {', '.join(seen.devices[:20])}{' and more' if seen.devices[20:] else ''}" if seen.devices else "",
        f"Firmware: {', '.join(seen.firmwares[:20])}" if seen.firmwares else "",
        f"Site: {seen.site_code}" if seen.site_code else "",
        f"Lot: {seen.lot}" if seen.lot else "",
        f"Sample: {seen.sample_id}" if seen.sample_id else "",
        "Later sightings are counted here: see what is affected.",
    ]
    return "\n".join(line for line in lines if line)


def reopens(bug: Row, seen: Sighting) -> bool:
    """Whether a sighting shows that a bug is back: after its resolution, and on firmware that ought to have the fix. A
    bug that nobody will fix, and a duplicate, stay as they are.
    """
    if bug["status"] not in ("resolved", "closed"):
        return False
    ended = bug["resolved_at"] or bug["closed_at"]
    if ended is None or seen.seen_at <= ended:
        return False
    fixed_in = bug["fixed_in_firmware"]
    return fixed_in is None or any(at_or_later(one, fixed_in) for one in seen.firmwares)


def inherits(firmware: str, bug: Row, older: str, share: Share) -> bool:
    """Whether what a firmware shows for the first time is a bug of an older one, which it ought to have the fix of."""
    one, other = parse(firmware), parse(older)
    fixed_in = bug["fixed_in_firmware"]
    if one is None or other is None or fixed_in is None or one <= other or not at_or_later(firmware, fixed_in):
        return False
    return share.brings_back(bug) is not None
