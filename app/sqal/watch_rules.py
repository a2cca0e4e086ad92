"""When silence and wrong clocks are alerts, and whose: pure, over what is known of all devices at one moment."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.sqal.alert_rules import CRITICAL, WARNING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from app.sqal.devices import StateLimits

UNDECIDED_S: Final = 60.0  # at most, an alert of one device waits for what becomes of the others
RETURNING_S: Final = 60.0  # a site that comes back device by device is given this long
FEW: Final = 2  # so many together, at least, are a site; so many sites, all
MANY: Final = 3  # so many that fall silent together are one alert, wherever they are
ALL_SITES: Final = "all sites"
OFFLINE_RULES: Final = ("device_offline", "devices_offline", "site_offline", "all_offline")

Key = tuple[str, str]
"""(subject, rule)"""


@dataclass(frozen=True, slots=True)
class Finding:
    """An alert that ought to be open. `value`: seconds of silence or of clock offset, or refusals."""

    rule: str
    severity: str
    subject: str
    value: float
    device_id: str | None = None
    site_code: str | None = None
    devices: tuple[str, ...] = ()
    whole: bool = True
    """False for what was true a moment ago and is kept open for a while."""

    @property
    def key(self) -> Key:
        return self.subject, self.rule


@dataclass(frozen=True, slots=True)
class SeenDevice:
    """One device in service. `silent_s`: since its last sign of life, or since we can hear, whichever is shorter."""

    device_id: str
    site_code: str | None
    silent_s: float
    state: str
    clock_offset_s: float | None


@dataclass(frozen=True, slots=True)
class OpenAlert:
    """An alert that is open: whom it names, and how long ago it was last wholly true."""

    devices: frozenset[str]
    quiet_s: float = 0.0


def judge_silence(devices: Iterable[SeenDevice], open_: Mapping[Key, OpenAlert], limits: StateLimits) -> list[Finding]:
    """Which devices, groups of them, sites, or all ought to have an alert for being offline; `open_` says which have.

    Devices that fall silent together are one alert: of all sites, of their site, or of as many as they are. An alert
    names whom it named when it opened, until they are back: a device that falls silent later gets one of its own, for
    somebody may have acknowledged the other. A stale device keeps the alert that names it; one that has none yet is
    undecided, and holds back new alerts for a while.
    """
    named = frozenset[str]().union(*(alert.devices for alert in open_.values()))
    by_site: dict[str | None, list[SeenDevice]] = defaultdict(list)
    undecided = False
    for device in devices:
        by_site[device.site_code].append(device)
        undecided |= device.state == "stale" and device.device_id not in named
    wait_s = limits.offline_after_s + min(UNDECIDED_S, limits.offline_after_s - limits.stale_after_s)

    def is_due(device: SeenDevice) -> bool:
        if device.device_id in named:
            return device.state != "online"
        return device.state == "offline" and (not undecided or device.silent_s >= wait_s)

    due = {site: [device for device in members if is_due(device)] for site, members in by_site.items()}
    silent = [device for members in due.values() for device in members]
    whole = {site for site, members in due.items() if len(members) == len(by_site[site])}
    if len(by_site) >= FEW and _holds((ALL_SITES, "all_offline"), open_, silent, whole=len(whole) == len(by_site)):
        return [_together("all_offline", ALL_SITES, None, silent, whole=len(whole) == len(by_site))]
    findings: list[Finding] = []
    for site, members in due.items():
        if site is not None and _holds((site, "site_offline"), open_, members, whole=site in whole):
            findings.append(_together("site_offline", site, site, members, whole=site in whole))
        else:
            findings += _in_groups(site, members, open_)
    return findings


def _holds(key: Key, open_: Mapping[Key, OpenAlert], silent: list[SeenDevice], *, whole: bool) -> bool:
    """Whether all of a site are silent, or were a moment ago and are on their way back."""
    returning = key in open_ and open_[key].quiet_s < RETURNING_S
    return len(silent) >= FEW and (whole or returning)


def _in_groups(site: str | None, silent: list[SeenDevice], open_: Mapping[Key, OpenAlert]) -> list[Finding]:
    """What is left of open groups and single devices, and a new group or new single devices."""
    rest = {device.device_id: device for device in silent}
    findings = []
    for (subject, rule), alert in open_.items():
        if rule == "devices_offline" and (left := sorted(alert.devices & rest.keys())):
            findings.append(_together(rule, subject, site, [rest.pop(name) for name in left]))
    alone = [name for name in sorted(rest) if (name, "device_offline") in open_]
    findings += [_alone(rest.pop(name)) for name in alone]
    new = [rest[name] for name in sorted(rest)]
    if len(new) >= MANY:
        # Not one that names an open alert from which its device has come back.
        free = [one.device_id for one in new if (one.device_id, "devices_offline") not in open_]
        subject = free[0] if free else f"{new[0].device_id} and others"
        return [*findings, _together("devices_offline", subject, site, new)]
    return [*findings, *map(_alone, new)]


def _together(
    rule: str, subject: str, site_code: str | None, silent: list[SeenDevice], *, whole: bool = True
) -> Finding:
    longest_s = max(device.silent_s for device in silent)
    names = tuple(sorted(device.device_id for device in silent))
    return Finding(rule, CRITICAL, subject, longest_s, site_code=site_code, devices=names, whole=whole)


def _alone(device: SeenDevice) -> Finding:
    name = device.device_id
    return Finding("device_offline", WARNING, name, device.silent_s, name, device.site_code, (name,))


def judge_clocks(devices: Iterable[SeenDevice], open_: Container[Key], limit_s: float) -> list[Finding]:
    """Devices whose clock is off by more than `limit_s`; one that has an alert keeps it down to half of that."""
    findings = []
    for device in devices:
        offset_s = device.clock_offset_s
        name = device.device_id
        if offset_s is not None and abs(offset_s) > (limit_s / 2 if (name, "clock_off") in open_ else limit_s):
            findings.append(Finding("clock_off", WARNING, name, offset_s, name, device.site_code, (name,)))
    return findings
