"""`gaveurs backup` and `gaveurs restore`."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.backup import product
from app.backup.crypt import read_identities
from app.backup.errors import BackupError, refused_by_system
from app.backup.restore import in_words
from app.backup.schedule import Period, keep_backing_up
from app.command_line import DataDir, show
from app.core.errors import CannotStartError
from app.core.logging import configure_logging, get_logger
from app.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from app.backup.make import Done
    from app.backup.restore import Restored
    from app.settings import Settings

T = TypeVar("T")
backups = typer.Typer(help="Back up the database and the attachments; without a command, now.")
log = get_logger("gaveurs.backup")

To = Annotated[str | None, typer.Option("--to", metavar="PLACE", help="A folder, or s3://bucket/prefix; BACKUP_TO.")]
Where = Annotated[str | None, typer.Option("--from", metavar="PLACE", help="A folder, or s3://bucket/prefix.")]
Identity = Annotated[Path | None, typer.Option(help="File with the secret key of age, where it is encrypted.")]
Named = Annotated[str, typer.Argument(metavar="BACKUP", help="A name of `gaveurs backup list`, or latest.")]


def _settings(data_dir: Path | None, **said: Any) -> Settings:
    os.umask(0o077)
    settings = load_settings(data_dir=data_dir, **said)
    configure_logging("warning", **settings.log_options)
    return settings


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Exit code 1 and one line when it fails. SIGTERM ends it as Ctrl-C does, and nothing unfinished is left behind."""

    async def ended_by_signal() -> T:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    try:
        return asyncio.run(ended_by_signal())
    except (BackupError, OSError, asyncio.CancelledError) as error:
        typer.echo(f"gaveurs: {_why(error)}", err=True)
        raise typer.Exit(1) from error


def _why(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "told to stop before the end"
    return refused_by_system(error, "the work folder") if isinstance(error, OSError) else str(error)


def _told(done: Done) -> str:
    manifest = done.manifest
    took_s = (manifest.finished_at - manifest.started_at).total_seconds()
    proof = "restored for proof" if manifest.verified else "not verified"
    return (
        f"{manifest.name}: {manifest.database.tables_in_words()}, {manifest.attachments.count:,} attachments,"
        f" {manifest.size_bytes:,} bytes, {proof}, {took_s:.1f} s"
    )


def _say(done: Done) -> None:
    for line in done.words:
        typer.echo(f"gaveurs: {line}", err=True)
    typer.echo(_told(done))
    if done.rotated:
        typer.echo(f"deleted {', '.join(done.rotated)}")


@backups.callback(invoke_without_command=True)
def backup(
    context: typer.Context,
    to: To = None,
    verify: Annotated[bool | None, typer.Option("--verify/--no-verify", help="Restore it for proof.")] = None,
    every: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Go on: one whenever the newest is older.")
    ] = None,
    keep_daily: Annotated[int | None, typer.Option(min=1)] = None,
    keep_weekly: Annotated[int | None, typer.Option(min=0)] = None,
    keep_monthly: Annotated[int | None, typer.Option(min=0)] = None,
    adopt: Annotated[bool, typer.Option("--adopt", help="Take over a place of another database.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Back up the database and the attachments, whether the server runs or not."""
    if context.invoked_subcommand is not None:
        return
    settings = _settings(
        data_dir, backup_to=to, backup_verify=verify, backup_keep_daily=keep_daily, backup_keep_weekly=keep_weekly,
        backup_keep_monthly=keep_monthly,
    )  # fmt: skip
    product.place_of(settings)
    if every is not None:
        configure_logging("info", **settings.log_options)
        sys.exit(0 if asyncio.run(_on_and_on(settings, every, adopt=adopt)) else 1)
    done = _run(product.make_backup(settings, adopt=adopt))
    _say(done)
    if done.manifest.attachments.lost:
        raise typer.Exit(1)


async def _on_and_on(settings: Settings, every_s: float, *, adopt: bool) -> bool:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def newest() -> datetime | None:
        now = datetime.now(UTC)
        try:
            catalogue = await product.catalogue_of(settings)
        except Exception:  # noqa: BLE001 - the attempt will meet it, and says what is wrong
            return None
        if ahead := catalogue.ahead(now):
            log.warning("a backup's time is in the future: it counts for no age", backups=ahead)
        found = catalogue.newest(now)
        return None if found is None else found.started_at

    async def attempt() -> bool:
        try:
            done = await product.make_backup(settings, adopt=adopt)
        except (BackupError, CannotStartError) as error:
            log.error("the backup failed", reason=str(error))  # noqa: TRY400 - the line says it
            return False
        except Exception:  # whatever it was, the next one may go well
            log.exception("the backup failed")
            return False
        say = log.warning if done.words else log.info
        say("backup made", result=_told(done), deleted=done.rotated, remarks=done.words)
        return not done.manifest.attachments.lost

    return await keep_backing_up(
        Period(every_s, random.random()), newest, attempt, lambda: datetime.now(UTC), stop  # noqa: S311
    )  # fmt: skip


@backups.command("list")
def backup_list(
    where: Where = None,
    max_age: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Exit code 1 when the newest good one is older.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    data_dir: DataDir = None,
) -> None:
    """What is there, the newest first."""
    settings = _settings(data_dir, backup_to=where)
    catalogue, now = _run(product.catalogue_of(settings)), datetime.now(UTC)
    rows: list[dict[str, Any]] = [
        {"name": one.name, "at": one.started_at, "rows": sum(table.rows for table in one.database.tables),
         "attachments": one.attachments.count, "bytes": one.size_bytes, "verified": one.verified,
         "lost": len(one.attachments.lost), "encrypted": bool(one.encrypted_for), "schema": one.database.revision,
         "database": one.database_id}
        for _, one in sorted(catalogue.manifests.items(), reverse=True)
    ]  # fmt: skip
    if as_json:
        show(rows + [{"name": name, "unreadable": why} for name, why in sorted(catalogue.unreadable.items())])
    else:
        for row in rows:
            typer.echo(_in_a_line(row))
    wrong = [*catalogue.unreadable.values()]
    wrong += [f"the time of {name} is in the future: it counts for no age" for name in catalogue.ahead(now)]
    good = catalogue.newest_complete(now)
    if max_age is not None and (good is None or (now - good.started_at).total_seconds() > max_age):
        wrong.append(f"the newest good backup is older than {max_age:g} s")
    unfinished = sorted({key.partition("/")[0] for key in catalogue.unfinished})
    for line in (*wrong, *(f"{name} is unfinished, or is being made" for name in unfinished)):
        typer.echo(f"gaveurs: {line}", err=True)
    if wrong:
        raise typer.Exit(1)


def _in_a_line(row: dict[str, Any]) -> str:
    marks = [word for word, there in (("verified", row["verified"]), ("encrypted", row["encrypted"])) if there]
    marks += [f"{row['lost']} attachments lost"] if row["lost"] else []
    told = f"{row['rows']:>12,} rows  {row['attachments']:>7,} attachments  {row['bytes']:>15,} bytes"
    return f"{row['name']}  {told}  {', '.join(marks) or 'not verified'}"


@backups.command("verify")
def backup_verify(name: Named, where: Where = None, identity: Identity = None, data_dir: DataDir = None) -> None:
    """Check every file of a backup and restore it into a scratch database."""
    settings = _settings(data_dir, backup_to=where)
    typer.echo(f"{_run(_verify(settings, name, identity))}: whole, and restored for proof")


async def _verify(settings: Settings, name: str, identity: Path | None) -> str:
    return await product.verify_backup(settings, name, read_identities(identity) if identity else ())


def restore(
    where: Annotated[str | None, typer.Argument(metavar="FROM", help="A folder, or s3://bucket/prefix.")] = None,
    name: Annotated[str, typer.Option("--backup", help="A name of `gaveurs backup list`, or latest.")] = "latest",
    identity: Identity = None,
    into: Annotated[
        str | None, typer.Option(metavar="DATABASE_URL", envvar="RESTORE_INTO", help="Another database than ours.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Also where there is data, which then goes.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Put a backup back: into an empty database, or in the place of one. Servers must be stopped."""
    settings = _settings(data_dir, backup_to=where, database_url=into)
    product.place_of(settings)
    choice = _run(product.choose_backup(settings, name))
    typer.echo(f"{choice.manifest.name}, {_age(choice.manifest.started_at)} old")
    for line in choice.doubts:
        typer.echo(f"gaveurs: {line}", err=True)
    if choice.doubts and not yes:
        typer.confirm(f"Restore {choice.manifest.name} all the same?", abort=True)
    if replace and not yes:
        found = _run(product.look(settings))
        if found.rows:
            typer.echo(f"this goes: {in_words(found)}")
            typer.confirm("Put the backup in its place?", abort=True)
    restored = _run(_restore(settings, choice.manifest.name, identity, replace=replace))
    typer.echo(f"restored {choice.manifest.name}: {restored.words[0]}")
    for line in (*restored.words[1:], *restored.lost):
        typer.echo(f"gaveurs: {line}", err=True)
    typer.echo("keys that were revoked after this backup are valid again: revoke them again (gaveurs keys list)")
    if restored.unlisted:
        typer.echo(f"gaveurs: {restored.unlisted}; attachments were put back as the restored rows name them", err=True)
    if restored.lost:
        typer.echo(f"gaveurs: the database is restored; {len(restored.lost)} attachments of it are lost", err=True)
    if restored.lost or restored.unlisted:
        raise typer.Exit(1)


def _age(made: datetime) -> str:
    hours = (datetime.now(UTC) - made).total_seconds() / 3_600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.0f} days"  # noqa: PLR2004 - as people count


async def _restore(settings: Settings, name: str, identity: Path | None, *, replace: bool) -> Restored:
    identities = read_identities(identity) if identity else ()
    return await product.restore_backup(settings, name, identities, replace=replace)
