"""What docs/runbooks.md tells somebody to type is what the command line takes, arguments included."""

from __future__ import annotations

import re
import shlex
from typing import Any, Final

import click
import pytest
import typer

from app.cli import cli
from tests.guide.blocks import ROOT

TEXT: Final = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
COMMANDS: Final = sorted(set(re.findall(r"`gaveurs ([a-z][^`]*)`", TEXT)) - {"backup ..."})
# What stands for something in the text.
MEANT: Final = {"ID": "0198f2a4-5b6c-7d8e-9f00-112233445566", "NAME": "latest"}
NAMED: Final = {"regrade"}  # something that may be under way, not something to type


def parse(words: list[str]) -> None:
    """Raises click's errors where it would be refused."""
    command: Any = typer.main.get_command(cli)
    context = command.make_context("gaveurs", list(words))
    rest = words
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        if not rest and command.invoke_without_command:
            return
        _, command, rest = command.resolve_command(context, rest)
        context = command.make_context(command.name, list(rest), parent=context)


def test_what_compose_is_to_run_is_taken() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    lines = re.findall(r"(?:run --rm|run --rm -v \S+|exec) (?:backup|backend) (?:gaveurs )?([a-z][^#`\n]*)", page)
    assert len(lines) == 4
    assert not [line for line in page.splitlines() if re.search(r"\brun --rm\b.*keys create", line)]  # Docker logs it
    for line in lines:
        parse([MEANT.get(word, word) for word in shlex.split(line)])


def test_there_are_commands() -> None:
    assert {"doctor", "backup list", "quarantine replay ID"} <= set(COMMANDS)


@pytest.mark.parametrize("command", [one for one in COMMANDS if one not in NAMED])
def test_what_is_to_be_typed_is_taken(command: str) -> None:
    words = [MEANT.get(word, word) for word in shlex.split(command) if word != "--help"]
    parse(words)


@pytest.mark.parametrize(
    "command", ["quarantine replay", "quarantine replay ID", "devices set", "backup lists", "doctor --all"]
)
def test_what_lacks_its_argument_is_noticed(command: str) -> None:
    with pytest.raises(Exception, match=r"Missing|No such|Input should|Got unexpected") as refused:
        parse(command.split())
    assert type(refused.value).__name__ in (
        "MissingParameter",
        "NoSuchOption",
        "UsageError",
        "BadParameter",
        "NoSuchCommand",
    )
