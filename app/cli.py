"""The `gaveurs` command."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer
import uvloop

from app import admin
from app.cli_backup import backups, restore
from app.cli_bugs import bugs
from app.cli_dashboards import dashboards
from app.cli_doctor import doctor
from app.command_line import DataDir, ask, quiet_settings, show
from app.core.errors import AppError, BadRequestError, CannotStartError
from app.core.files import told
from app.core.logging import configure_logging
from app.core.metrics import Metrics
from app.core.security import Role
from app.core.server import listen, make_server
from app.settings import BadSettings, load_settings
from app.sqal.errors import RefusalError
from app.sqal.grading_report import report
from app.sqal.reading import parse_time
from app.sqal.rollups import make_range_anew
from app.sqal.simulator.fleet import FleetPlan, run_fleet
from app.sqal.simulator.journal import Journal

if TYPE_CHECKING:
    import socket
    from datetime import datetime

    from app.runtime import Runtime
    from app.settings import Settings

cli = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="SQAL backend: ingest, grading, fleet.")
keys = typer.Typer(no_args_is_help=True, help="API keys.")
devices = typer.Typer(no_args_is_help=True, help="Device records.")
quarantine = typer.Typer(no_args_is_help=True, help="Refused messages.")
cli.add_typer(keys, name="keys")
cli.add_typer(devices, name="devices")
cli.add_typer(quarantine, name="quarantine")
cli.add_typer(bugs, name="bugs")
cli.add_typer(dashboards, name="dashboards")
cli.add_typer(backups, name="backup")
cli.command()(restore)
cli.command()(doctor)

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
From = Annotated[str, typer.Option("--from", help="ISO 8601; naive means UTC. Inclusive, on bucket time.")]
To = Annotated[str, typer.Option("--to", help="Exclusive.")]
Auth = Annotated[
    str | None, typer.Option(help="open: local peers need no key (default on loopback); keys: everybody needs one.")
]


def main() -> None:
    """Run the command; what only a person can mend is one line on standard error and exit code 2."""
    try:
        cli()
    except BadSettings as error:
        sys.exit(_complain(error.line))
    except CannotStartError as error:
        sys.exit(_complain(str(error)))
    except AppError as error:
        sys.exit(_complain(error.detail))


def _complain(line: str) -> int:
    sys.stderr.write(f"gaveurs: {line}\n")
    return 2


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _settings(host: str, data_dir: Path | None, auth: str | None) -> Settings:
    settings = load_settings(data_dir=data_dir, auth=auth)
    if "auth" not in settings.model_fields_set and not _is_loopback(host):
        settings = settings.model_copy(update={"auth": "keys"})
    configure_logging(settings.log_level, **settings.log_options)
    return settings


def _welcome(settings: Settings, listener: socket.socket, *, always: bool = False) -> str:
    """Where to look, for a person at a terminal (or `always`); returns the base URL."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if always or sys.stdout.isatty():
        where = "DATABASE_URL" if settings.database_url else f"embedded PostgreSQL in {settings.data_dir}"
        print(f"\n  gaveurs-backend on {url}\n    samples   {url}/api/sqal/samples\n    API       {url}/docs")
        print(f"    health    {url}/health/ready\n    devices   ws://{host}:{port}/ws/sensors")
        print(f"    database  {where}\n    access    {settings.auth}\n", flush=True)
    return url


def _end_quietly() -> None:
    """The server raises the signal that ended it once more after its shutdown; by then all is done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)


async def _serve(settings: Settings, listener: socket.socket) -> int:
    from app.application import create_app  # noqa: PLC0415 - half a second that other commands do not need

    app = create_app(settings)
    runtime: Runtime = app.state.runtime
    runtime.prepare()
    await make_server(app).serve(sockets=[listener])
    return 1 if runtime.failed else 0


@cli.command()
def serve(host: Host = "127.0.0.1", port: Port = 8000, data_dir: DataDir = None, auth: Auth = None) -> None:
    """Serve devices and the API. SIGTERM drains: what was read is committed and answered first."""
    settings = _settings(host, data_dir, auth)
    listener = listen(host, port)
    _welcome(settings, listener)
    _end_quietly()
    sys.exit(uvloop.run(_serve(settings, listener)))


@cli.command()
def demo(host: Host = "127.0.0.1", port: Port = 8000, data_dir: DataDir = None, auth: Auth = None) -> None:
    """Serve, with three simulated devices streaming in."""
    settings = _settings(host, data_dir, auth)
    listener = listen(host, port)
    url = _welcome(settings, listener, always=True)
    _end_quietly()
    sys.exit(uvloop.run(_demo(settings, listener, url)))


async def _demo(settings: Settings, listener: socket.socket, url: str) -> int:
    key = None
    if settings.auth == "keys":
        key = await admin.with_database(settings, lambda connection: admin.make_key(connection, "demo", Role.DEVICE))
    plan = FleetPlan(url=url.replace("0.0.0.0", "127.0.0.1"), key=key)  # noqa: S104 - the address to connect to
    devices = asyncio.create_task(run_fleet(plan, Journal(remember=False)))
    try:
        return await _serve(settings, listener)
    finally:
        devices.cancel()
        await asyncio.gather(devices, return_exceptions=True)


@cli.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database's schema up to date."""
    settings = quiet_settings(data_dir)
    before, after = asyncio.run(admin.migrate_database(settings))
    print(f"schema {after}" if before == after else f"schema {before or 'none'} -> {after}")


@cli.command()
def grading(
    livers: Annotated[int, typer.Option(min=100, help="Synthetic livers of each kind.")] = 2_000,
    seed: Annotated[int, typer.Option(min=0, help="Other livers.")] = 1,
    write: Annotated[Path | None, typer.Option(help="Write the page there instead of printing it.")] = None,
) -> None:
    """Judge synthetic livers whose truth is known; ends with code 1 when a bound is missed."""
    page, proof = report(livers, seed)
    if write is None:
        typer.echo(page)
    else:
        with told("--write"):
            write.write_text(page)
    for failure in proof.failures:
        typer.echo(failure, err=True)
    if proof.failures:
        raise typer.Exit(1)


def _range(time_from: str, time_to: str) -> tuple[datetime, datetime]:
    try:
        begin, end = parse_time(time_from), parse_time(time_to)
    except RefusalError as error:
        raise BadRequestError("--from and --to must be ISO 8601 dates and times") from error
    if begin >= end:
        raise BadRequestError("--from must be before --to")
    return begin, end


@cli.command()
def rollups(time_from: From, time_to: To, data_dir: DataDir = None) -> None:
    """Make the rollups of a time anew from its samples."""
    begin, end = _range(time_from, time_to)
    hours = ask(data_dir, lambda connection: make_range_anew(connection, begin, end))
    asyncio.run(admin.forget_cached(load_settings(data_dir=data_dir)))
    print(f"{hours:,} hours of devices made anew")


@cli.command()
def regrade(
    time_from: From,
    time_to: To,
    recipe: Annotated[str, typer.Option(help="Which recipe grades.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Grade stored samples again and print how the grades shift."""
    settings = quiet_settings(data_dir)
    begin, end = _range(time_from, time_to)
    shift = asyncio.run(
        admin.with_database(settings, lambda c: admin.regrade_samples(c, settings, recipe, begin, end, dry_run=dry_run))
    )
    if not dry_run:
        asyncio.run(admin.forget_cached(settings))
    for (old, new), count in sorted(shift.grades.items()):
        print(f"{old:>12} -> {new:<12} {count:>10,}")
    print(f"{shift.samples:,} samples, {shift.changed:,} {'would change' if dry_run else 'changed'}")


@cli.command()
def simulate(
    url: Annotated[str, typer.Option(help="Server; without a path, /ws/sensors.")] = "ws://127.0.0.1:8000",
    devices: Annotated[int, typer.Option(min=1, max=10_000)] = 3,
    rate: Annotated[float, typer.Option(min=0.001, max=1_000, help="Samples a second and device.")] = 1.0,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds of measuring.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    buffer: Annotated[int, typer.Option(min=1, help="Samples a device keeps when cut off.")] = 10_000,
    key: Annotated[str | None, typer.Option(envvar="GAVEURS_KEY", help="API key, where one is needed.")] = None,
    journal: Annotated[Path | None, typer.Option(help="File to append every ack to, a JSON object a line.")] = None,
) -> None:
    """Simulated devices in today's wire form. Exit code 1 when a sample stayed unacknowledged."""
    configure_logging("warning")
    with told("--journal"):
        record = Journal(journal)
    plan = FleetPlan(url=url, devices=devices, rate=rate, duration_s=duration, seed=seed, buffer=buffer, key=key)
    with suppress(KeyboardInterrupt):
        uvloop.run(run_fleet(plan, record))
    print(record.summary())
    sys.exit(1 if record.unacknowledged else 0)


@cli.command()
def metrics(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Every metric that the service shows: its name, type, labels and meaning, in the order of /metrics."""
    families = Metrics().registry.families.values()
    if as_json:
        show([{"name": f.name, "type": f.kind, "labels": f.label_names, "help": f.help} for f in families])
        return
    rows = [("NAME", "TYPE", "LABELS", "MEANING")]
    rows += [(f.name, f.kind, ",".join(f.label_names) or "-", f.help) for f in families]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for *cells, meaning in rows:
        print(*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), meaning, sep="  ")


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="Whom or what it is for.")],
    role: Annotated[Role, typer.Option()] = Role.VIEWER,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, this once."""
    print(ask(data_dir, lambda connection: admin.make_key(connection, name, role)))


@keys.command("list")
def keys_list(data_dir: DataDir = None) -> None:
    """All keys; their secrets are not kept."""
    show(ask(data_dir, admin.all_keys))


@keys.command("revoke")
def keys_revoke(key_id: str, data_dir: DataDir = None) -> None:
    """Make a key useless, within seconds, everywhere."""
    ask(data_dir, lambda connection: admin.end_key(connection, key_id))
    print(f"revoked {key_id}")


@devices.command("set")
def devices_set(
    device_id: str,
    site_code: Annotated[str | None, typer.Option()] = None,
    profile: Annotated[str | None, typer.Option()] = None,
    recipe: Annotated[str | None, typer.Option()] = None,
    trust_defects: Annotated[bool | None, typer.Option("--trust-defects/--distrust-defects")] = None,
    in_service: Annotated[bool | None, typer.Option("--in-service/--out-of-service")] = None,
    data_dir: DataDir = None,
) -> None:
    """Configure a device; one that was never seen gets its record."""
    changes = {"site_code": site_code, "profile": profile, "recipe": recipe, "trust_defects": trust_defects}
    changes["in_service"] = in_service
    wanted = {name: value for name, value in changes.items() if value is not None}
    settings = quiet_settings(data_dir)
    show(asyncio.run(admin.with_database(settings, lambda c: admin.set_device(c, settings, device_id, wanted))))


@quarantine.command("list")
def quarantine_list(
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    code: Annotated[str | None, typer.Option(help="Only with this reason code.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 50,
    data_dir: DataDir = None,
) -> None:
    """Refused messages, newest first."""
    settings = quiet_settings(data_dir)
    show(asyncio.run(admin.with_database(settings, lambda c: admin.list_refused(c, settings, device, code, limit))))


@quarantine.command("show")
def quarantineshow(entry_id: UUID, data_dir: DataDir = None) -> None:
    """The original bytes of a refused message, to standard output."""
    settings = quiet_settings(data_dir)
    raw = asyncio.run(admin.with_database(settings, lambda c: admin.refused_bytes(c, settings, entry_id)))
    sys.stdout.buffer.write(raw)


@quarantine.command("replay")
def quarantine_replay(entry_id: UUID, data_dir: DataDir = None) -> None:
    """Send a refused message through ingest again."""
    settings = quiet_settings(data_dir)
    show(asyncio.run(admin.with_database(settings, lambda c: admin.replay_refused(c, settings, entry_id))))


if __name__ == "__main__":
    main()
