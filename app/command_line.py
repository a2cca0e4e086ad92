"""What all commands share: where the data is, a question to the database, an answer for machines."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app import admin
from app.core.logging import configure_logging
from app.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.core.database import Connection
    from app.settings import Settings

T = TypeVar("T")
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder of the embedded database and the admin key.")]


def quiet_settings(data_dir: Path | None) -> Settings:
    settings = load_settings(data_dir=data_dir)
    configure_logging("warning", **settings.log_options)
    return settings


def ask(data_dir: Path | None, question: Callable[[Connection], Awaitable[T]]) -> T:
    """What `admin.with_database` does, for a command that needs no settings else."""
    return asyncio.run(admin.with_database(quiet_settings(data_dir), question))


def show(value: Any) -> None:
    typer.echo(json.dumps(value, default=str, ensure_ascii=False, indent=2))
