"""When silence and wrong clocks are alerts, and whose: pure, over what is known of all devices at one moment."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.sqal.alert_rules import CRITICAL, WARNING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.sqal.devices import StateLimits

UNDECIDED_S: Final = 60.0  # at most, an alert of one device waits for what becomes of the others
FEW: Final = 2  # so many together, at least, are a site; so many sites, all
ALL_SITES: Final = "all sites"
OFFLINE_RULES: Final = ("device_offline", "site_offline", "all_offline")

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


def judge_silence(
    devices: Iterable[SeenDevice], open_: Mapping[Key, frozenset[str]], limits: StateLimits
) -> list[Finding]:
    """Which devices, sites, or all of them ought to have an alert for being offline; `open_` says which have, and whom
    each names.

    A stale device keeps the alert that names it. One that has none yet is undecided, and holds back new alerts for a
    while: a site that is cut off becomes one alert, not many. That alert stays while two of its devices are silent.
    """
    named = frozenset[str]().union(*open_.values())
    by_site: dict[str | None, list[SeenDevice]] = defaultdict(list)
    undecided, everyone = False, 0
    for device in devices:
        by_site[device.site_code].append(device)
        undecided |= device.state == "stale" and device.device_id not in named
        everyone += 1
    wait_s = limits.offline_after_s + min(UNDECIDED_S, limits.offline_after_s - limits.stale_after_s)

    def is_due(device: SeenDevice) -> bool:
        if device.device_id in named:
            return device.state != "online"
        return device.state == "offline" and (not undecided or device.silent_s >= wait_s)

    due = {site: [device for device in members if is_due(device)] for site, members in by_site.items()}
    due = {site: members for site, members in due.items() if members}
    silent = [device for members in due.values() for device in members]
    if len(due) >= FEW and (len(silent) == everyone or (ALL_SITES, "all_offline") in open_):
        return [_together("all_offline", ALL_SITES, None, silent)]
    findings: list[Finding] = []
    for site, members in due.items():
        whole = len(members) == len(by_site[site]) or (site or "", "site_offline") in open_
        if site is not None and len(members) >= FEW and whole:
            findings.append(_together("site_offline", site, site, members))
        else:
            findings += [_alone(device) for device in members]
    return findings


def _together(rule: str, subject: str, site_code: str | None, silent: list[SeenDevice]) -> Finding:
    longest_s = max(device.silent_s for device in silent)
    names = tuple(sorted(device.device_id for device in silent))
    return Finding(rule, CRITICAL, subject, longest_s, site_code=site_code, devices=names)


def _alone(device: SeenDevice) -> Finding:
    name = device.device_id
    return Finding("device_offline", WARNING, name, device.silent_s, name, device.site_code, (name,))


def judge_clocks(devices: Iterable[SeenDevice], open_: Mapping[Key, frozenset[str]], limit_s: float) -> list[Finding]:
    """Devices whose clock is off by more than `limit_s`; one that has an alert keeps it down to half of that."""
    findings = []
    for device in devices:
        offset_s = device.clock_offset_s
        name = device.device_id
        if offset_s is not None and abs(offset_s) > (limit_s / 2 if (name, "clock_off") in open_ else limit_s):
            findings.append(Finding("clock_off", WARNING, name, offset_s, name, device.site_code, (name,)))
    return findings
