"""The fleet: who is there, what they send, how fast they are answered, what is refused, and what firmware they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.models import units

from app.dashboards import sql
from app.dashboards.board import Board, Section
from app.dashboards.panels import GREEN, RED, YELLOW, Face, Line, Panel, graph, listing, number, rising, shares
from app.dashboards.promql import Not, process, shared

if TYPE_CHECKING:
    from app.core.metrics import Metrics

UID: Final = "gaveurs-devices"


def board(m: Metrics) -> Board:
    return Board(
        UID,
        "Gaveurs / Devices",
        "Devices online and offline, their connections and messages, what is refused, firmware.",
        (
            Section("Now, chosen sites", _now(m)),
            Section("By site", _by_site(m)),
            Section("Messages", _messages(m)),
            Section("Refused", _refused(m)),
            Section("From the database", _kept()),
        ),
    )


def _now(m: Metrics) -> tuple[Panel, ...]:
    def are(state: str) -> Line:
        return Line(shared(m.devices, state=state).now().max("site").sum().or_zero(), "")

    in_service = shared(m.devices).now().max("site", "state").sum()
    sockets = process(m.sockets_active, endpoint="sensors").now().sum()
    return (
        number(Face(1, "In service", "Devices that are known.", units.Short, 4, 5), Line(in_service, "")),
        number(
            Face(2, "Active", "Heard of within DEVICE_STALE_AFTER_S.", units.Short, 5, 5, ((1, GREEN),), YELLOW),
            are("online"),
        ),
        number(
            Face(3, "Stale", "Silent for longer, not yet offline.", units.Short, 5, 5, ((1, YELLOW),)), are("stale")
        ),
        number(
            Face(4, "Offline", "Silent for longer than DEVICE_OFFLINE_AFTER_S.", units.Short, 5, 5, rising(1, 5)),
            are("offline"),
        ),
        number(Face(5, "Device sockets", "WebSockets of devices open now.", units.Short, 5, 5), Line(sockets, "")),
    )


def _by_site(m: Metrics) -> tuple[Panel, ...]:
    known = shared(m.devices).now().max("site", "state")
    out = shared(m.devices, state=Not("online")).now().max("site", "state").sum("site")
    return (
        graph(
            Face(10, "Devices by site and state", "As the database counts them.", units.Short, 12),
            Line(known, "{{site}} {{state}}"),
            stacked=True,
        ),
        graph(
            Face(
                11,
                "Not online",
                "Share of a site's devices; nothing where all are.",
                units.PercentUnit,
                12,
                steps=rising(0.2, 0.5),
                highest=1,
            ),
            Line(out.over(known.sum("site")), "{{site}}"),
        ),
    )


def _messages(m: Metrics) -> tuple[Panel, ...]:
    committed = process(m.site_samples).rate().sum("site")
    return (
        graph(Face(20, "Samples committed, by site", "LineSilent watches it.", "cps"), Line(committed, "{{site}}")),
        graph(
            Face(21, "Messages", "Over WebSockets of devices and of pages.", "cps"),
            Line(process(m.sockets_received).rate().sum("endpoint"), "from {{endpoint}}"),
            Line(process(m.sockets_sent).rate().sum("endpoint"), "to {{endpoint}}"),
        ),
        graph(
            Face(
                22,
                "Time to the commit",
                "From a sample's arrival to its commit: then it is acknowledged.",
                units.Seconds,
                steps=rising(0.5, 1),
            ),
            *(
                Line(process(m.sample_processing).quantile(share), f"p{share:.0%}".rstrip("%"))
                for share in (0.5, 0.95, 0.99)
            ),
        ),
        graph(
            Face(23, "WebSockets open", "By endpoint and process.", units.Short),
            Line(process(m.sockets_active).now().max("endpoint", "instance"), "{{endpoint}} {{instance}}"),
            stacked=True,
        ),
        graph(
            Face(24, "Received and acknowledged", "Samples; duplicates are acknowledged too.", "cps"),
            Line(process(m.samples_received).rate().sum(), "received"),
            Line(process(m.acks_sent).rate().sum("status"), "{{status}}"),
        ),
        graph(
            Face(25, "WebSocket trouble", "Errors, and sockets that we closed by code, in the interval.", units.Short),
            Line(process(m.sockets_errors).increase().sum("endpoint"), "errors {{endpoint}}"),
            Line(process(m.sockets_closed).increase().sum("endpoint", "code"), "closed {{endpoint}} {{code}}"),
        ),
    )


def _refused(m: Metrics) -> tuple[Panel, ...]:
    return (
        graph(
            Face(
                30,
                "Samples refused, by code",
                "In the interval; `busy` is our fault, the others the sender's.",
                units.Short,
                6,
            ),
            Line(process(m.samples_refused).increase().sum("code"), "{{code}}"),
            stacked=True,
        ),
        graph(
            Face(31, "Into quarantine, by code", "In the interval.", units.Short, 6, steps=((20, RED),)),
            Line(process(m.quarantined).increase().sum("code"), "{{code}}"),
            stacked=True,
        ),
        graph(
            Face(32, "In quarantine", "Refused messages that are kept.", units.Short, 4),
            Line(shared(m.quarantine_rows).now().max(), "messages"),
        ),
        graph(
            Face(33, "Quarantine's bytes", "As stored.", units.BytesIEC, 4),
            Line(shared(m.quarantine_bytes).now().max(), "bytes"),
        ),
        graph(
            Face(
                34,
                "Quarantine, share of its limits",
                "QuarantineNearlyFull watches it (90 %); beyond, the oldest go.",
                units.PercentUnit,
                4,
                steps=rising(0.7, 0.9),
                highest=1,
            ),
            *(
                Line(shared(kept).now().max().over(shared(limit).now().max()), said)
                for kept, limit, said in (
                    (m.quarantine_rows, m.quarantine_rows_limit, "messages"),
                    (m.quarantine_bytes, m.quarantine_bytes_limit, "bytes"),
                )
            ),
        ),
    )


def _kept() -> tuple[Panel, ...]:
    return (
        shares(
            Face(40, "Firmware", "Devices in service by what they last said they run.", units.Short, 8), sql.FIRMWARE
        ),
        listing(
            Face(
                41,
                "Firmware and quality",
                "Samples of the time range by the firmware that their device runs now.",
                units.Short,
                8,
                lowest=None,
            ),
            sql.FIRMWARE_QUALITY,
            {"rejects": units.PercentUnit},
        ),
        listing(
            Face(
                42, "Refused, by device", "Quarantine of the time range; the 20 with most.", units.Short, 8, lowest=None
            ),
            sql.REFUSED,
            {},
        ),
        listing(
            Face(
                43,
                "Longest silent",
                "Devices in service, the one that was heard of least lately first; 50 of them.",
                units.Short,
                24,
                lowest=None,
            ),
            sql.SILENT,
            {"silent": units.Seconds, "clock off": units.Seconds},
        ),
    )
