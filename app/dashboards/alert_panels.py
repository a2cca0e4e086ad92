"""Which panel shows what an alert is about: its notification leads there, and the panel leads to its runbook."""

from __future__ import annotations

from typing import Final

INFRASTRUCTURE, BUSINESS, DEVICES, BUGS, SLO = (
    f"gaveurs-{name}" for name in ("infrastructure", "business", "devices", "bugs", "slo")
)
RUNBOOKS: Final = "https://github.com/euralis/gaveurs-backend/blob/main/docs/runbooks.md"
PANEL_OF_ALERT: Final[dict[str, tuple[str, int]]] = {
    "AckLatencyHigh": (SLO, 14),
    "AcknowledgedSamplesLost": (SLO, 13),
    "AlertmanagerDown": (INFRASTRUCTURE, 5),
    "AlertmanagerNotificationsFail": (INFRASTRUCTURE, 5),
    "BackupFailed": (INFRASTRUCTURE, 65),
    "BackupNeverMade": (INFRASTRUCTURE, 63),
    "BackupNotVerified": (INFRASTRUCTURE, 64),
    "BackupTooOld": (INFRASTRUCTURE, 63),
    "CacheUnreachable": (INFRASTRUCTURE, 6),
    "CircuitBreakerOpen": (INFRASTRUCTURE, 40),
    "ConfigReloadFailed": (INFRASTRUCTURE, 5),
    "CriticalBugsOpen": (BUGS, 1),
    "DatabasePoolExhausted": (INFRASTRUCTURE, 30),
    "DatabaseSlow": (INFRASTRUCTURE, 32),
    "DatabaseUnreachable": (INFRASTRUCTURE, 6),
    "DevicesOffline": (DEVICES, 10),
    "DiskFillsSoon": (INFRASTRUCTURE, 61),
    "DiskNearlyFull": (INFRASTRUCTURE, 60),
    "ErrorBudgetBurn 1h": (SLO, 20),
    "ErrorBudgetBurn 1d": (SLO, 22),
    "ErrorBudgetBurn 3d": (SLO, 23),
    "ErrorBudgetBurn 6h": (SLO, 21),
    "EventLoopBlocked": (INFRASTRUCTURE, 51),
    "EventLoopLag": (INFRASTRUCTURE, 50),
    "FaultSwitchOn": (INFRASTRUCTURE, 45),
    "HighErrorRate": (INFRASTRUCTURE, 11),
    "IngestQueueFilling": (INFRASTRUCTURE, 38),
    "LineSilent": (DEVICES, 20),
    "LowCacheHitRate": (INFRASTRUCTURE, 20),
    "PrometheusNotificationsFail": (INFRASTRUCTURE, 5),
    "PrometheusRulesFail": (INFRASTRUCTURE, 5),
    "QuarantineGrowing": (DEVICES, 31),
    "QuarantineNearlyFull": (DEVICES, 34),
    "SamplesRefusedBusy": (INFRASTRUCTURE, 37),
    "ServiceDown": (INFRASTRUCTURE, 1),
    "ServiceRestarting": (INFRASTRUCTURE, 55),
    "SiteNotConfigured": (DEVICES, 20),
    "SiteOffline": (DEVICES, 10),
    "TargetDown": (INFRASTRUCTURE, 5),
    "Watchdog": (INFRASTRUCTURE, 5),
    "WebhookDeliveriesDead": (BUGS, 12),
}
"""Alert, and its label `window` where it has one -> (the dashboard's uid, the panel's number)."""


def key(alert: str, window: str | None = None) -> str:
    """What the table calls it."""
    return f"{alert} {window}" if window else alert


def runbook_url(key: str) -> str:
    return f"{RUNBOOKS}#{key.partition(' ')[0].lower()}"
