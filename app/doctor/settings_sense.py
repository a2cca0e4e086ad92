"""Settings that are allowed and may still not be what somebody wants, above all in production."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from app.doctor.finding import Finding, fine, note, problem, warning

if TYPE_CHECKING:
    from app.doctor.patient import Patient

TOPIC: Final = "settings"
HERE: Final = ("localhost", "127.0.0.1", "::1")
EVERYBODY: Final = ("0.0.0.0/0", "::/0")


def judge_sense(patient: Patient) -> list[Finding]:
    found = [*_access(patient), *_edge(patient)]
    if patient.in_production:
        found += [*_in_production(patient), *_shared(patient)]
    elif patient.replicas > 1 or not patient.embedded:
        found.append(
            note(TOPIC, "ENVIRONMENT is development", "what is dangerous in production is not refused",
                 "ENVIRONMENT=production")
        )  # fmt: skip
    return found or [fine(TOPIC, "make sense together")]


def _access(patient: Patient) -> list[Finding]:
    settings = patient.settings
    found = []
    if patient.in_production and settings.auth == "open":
        chosen = "AUTH is open" if "auth" in settings.model_fields_set else "AUTH is not set"
        follows = (
            "whoever asks from this machine needs no key (`gaveurs serve` on another address than loopback wants keys)"
        )
        found.append(warning(TOPIC, f"{chosen} in production", follows, "AUTH=keys"))
    if set(settings.trusted_proxies) & set(EVERYBODY):
        follows = "anybody chooses the address that limits and the log know him by"
        found.append(problem(TOPIC, "TRUSTED_PROXIES trusts everybody", follows, "name the proxies' own network"))
    return found


def _edge(patient: Patient) -> list[Finding]:
    settings = patient.settings
    found = []
    if not settings.cors_origins:
        found.append(note(TOPIC, "CORS_ORIGINS is empty", "only pages that this service serves may call it"))
    if settings.fault_switches and patient.in_production:
        follows = "an admin can make the service fail on purpose"
        found.append(warning(TOPIC, "FAULT_SWITCHES is on in production", follows, "unset it after the game day"))
    endpoint = settings.bug_attachments_s3_endpoint
    if endpoint and endpoint.startswith("http://") and urlsplit(endpoint).hostname not in HERE:
        follows = "attachments travel where others can read them"
        found.append(warning(TOPIC, "BUG_ATTACHMENTS_S3_ENDPOINT is plain HTTP", follows, "give an https:// endpoint"))
    return found


def _in_production(patient: Patient) -> list[Finding]:
    settings = patient.settings
    found = []
    if settings.metrics_port is None:
        follows = "/metrics is on the main port, where Prometheus needs a viewer's key"
        found.append(warning(TOPIC, "METRICS_PORT is not set", follows, "METRICS_PORT=9100 METRICS_HOST=0.0.0.0"))
    elif settings.metrics_host in HERE and "metrics_host" not in settings.model_fields_set:
        follows = "a Prometheus on another machine cannot scrape"
        found.append(note(TOPIC, "METRICS_HOST is the loopback address", follows, "METRICS_HOST=0.0.0.0"))
    if insecure := [one for one in settings.cors_origins if urlsplit(one).scheme == "http"]:
        follows = "who stands between can change the page that calls us"
        found.append(warning(TOPIC, f"CORS_ORIGINS names {insecure[0]}", follows, "name https:// origins"))
    if settings.webhook_allow_loopback:
        follows = "who may make webhooks reaches what listens on this machine only"
        found.append(warning(TOPIC, "WEBHOOK_ALLOW_LOOPBACK is on", follows, "WEBHOOK_ALLOW_LOOPBACK=false"))
    if settings.log_level == "debug":
        found.append(note(TOPIC, "LOG_LEVEL is debug", "much is written for each message", "LOG_LEVEL=info"))
    return found


def _shared(patient: Patient) -> list[Finding]:
    settings = patient.settings
    found = []
    if patient.embedded:
        follows = "one process has it: no second replica, no failover"
        say = note if patient.replicas == 1 else problem
        found.append(say(TOPIC, "the database is the embedded one", follows, "DATABASE_URL=postgresql://..."))
    if settings.redis_host is None and patient.replicas > 1:
        follows = "each replica limits and caches by itself: a client has as many budgets as there are replicas"
        found.append(warning(TOPIC, "REDIS_HOST is not set", follows, "REDIS_HOST=..."))
    if not settings.trusted_proxies:
        follows = "behind a proxy all clients share one address, and its limits"
        found.append(
            note(TOPIC, "TRUSTED_PROXIES is empty", follows, "TRUSTED_PROXIES=10.0.0.0/8, or what the proxies have")
        )
    return found
