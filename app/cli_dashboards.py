"""`gaveurs dashboards`: Grafana's dashboards from the metrics that this version has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.core.errors import CannotStartError
from app.settings import load_settings

if TYPE_CHECKING:
    from types import ModuleType

    from app.dashboards.sql import ServiceLevels

dashboards = typer.Typer(no_args_is_help=True, help="Grafana's dashboards.")

Output = Annotated[Path, typer.Option(file_okay=False, help="Folder of the JSON files.")]
Check = Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 when a file is not up to date.")]


@dashboards.callback()
def _group() -> None:
    """A group also while it has one command."""


@dashboards.command()
def build(output: Output = Path("deploy/grafana/dashboards"), check: Check = False) -> None:
    """Write the dashboards; with the targets of service levels that BUG_SLA_* set."""
    files, levels = _files(), _levels()
    try:
        names = files.outdated(output, levels) if check else files.write(output, levels)
    except OSError as error:
        raise CannotStartError(f"{error.filename or output}: {error.strerror or type(error).__name__}") from error
    if not check:
        for name in names:
            typer.echo(output / name)
    elif names:
        sys.stderr.write(f"not up to date in {output}: {', '.join(names)}; run `gaveurs dashboards build`\n")
        raise typer.Exit(1)


def _files() -> ModuleType:
    """Only who makes dashboards needs the SDK."""
    try:
        from app.dashboards import files  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "grafana_foundation_sdk":
            raise
        raise CannotStartError("dashboards need the SDK: pip install 'gaveurs-backend[dashboards]'") from error
    return files


def _levels() -> ServiceLevels:
    from app.dashboards.sql import ServiceLevels  # noqa: PLC0415 - imports the SDK

    settings = load_settings()
    return ServiceLevels(settings.bug_sla_acknowledge_hours, settings.bug_sla_resolve_hours)
