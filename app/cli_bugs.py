"""`gaveurs bugs`: the tracker from a terminal, for people; with `--json` for machines."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from app import admin, bug_admin
from app.bug_text import listed, told
from app.command_line import DataDir, ask, quiet_settings, show
from app.routers import bug_models as models
from app.routers.bug_query_models import BugPageQuery, BugQuery

bugs = typer.Typer(no_args_is_help=True, help="The bug tracker.")

Named = Annotated[str, typer.Argument(metavar="BUG", help="Its number, such as 12, or its id.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Several = "several between commas"
Status = Annotated[str | None, typer.Option(help=f"open, in_progress, ...; {Several}.")]
Severity = Annotated[str | None, typer.Option(help=f"critical, high, medium, low; {Several}.")]
Priority = Annotated[str | None, typer.Option(help=f"urgent, high, medium, low; {Several}.")]
Category = Annotated[str | None, typer.Option(help=f"hardware, firmware, backend, ...; {Several}.")]
Device = Annotated[str | None, typer.Option(help="Only of this device.")]
Firmware = Annotated[str | None, typer.Option(help="Only of this firmware.")]
Site = Annotated[str | None, typer.Option(help="Only of this site.")]
Assignee = Annotated[str | None, typer.Option(help="Only whose this is.")]
Reporter = Annotated[str | None, typer.Option(help="Only what this one has reported.")]
TagFilter = Annotated[str | None, typer.Option("--tag", help=f"Only with this tag; {Several}: with all of them.")]
Text = Annotated[str | None, typer.Option(help='Words, "a phrase", or, -not.')]
CreatedFrom = Annotated[str | None, typer.Option(help="ISO 8601; inclusive.")]
Sla = Annotated[str | None, typer.Option(help="breached or due: by the service levels of severities.")]
CreatedTo = Annotated[str | None, typer.Option(help="Exclusive.")]
Sort = Annotated[str, typer.Option(help="createdAt, updatedAt, severity, priority, number; with -, the other way.")]
Said = Annotated[str | None, typer.Option()]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Once for each tag.")]


def _given(**said: Any) -> dict[str, Any]:
    """What was said at all."""
    return {name: value for name, value in said.items() if value is not None and value != []}


def _typed(text: str | None) -> str | None:
    """`-` stands for standard input."""
    return sys.stdin.read() if text == "-" else text


@bugs.command("list")
def bugs_list(
    status: Status = None,
    severity: Severity = None,
    priority: Priority = None,
    category: Category = None,
    device: Device = None,
    firmware: Firmware = None,
    site: Site = None,
    assignee: Assignee = None,
    reporter: Reporter = None,
    tag: TagFilter = None,
    text: Text = None,
    created_from: CreatedFrom = None,
    created_to: CreatedTo = None,
    sla: Sla = None,
    sort: Sort = "-createdAt",
    limit: Annotated[int, typer.Option(help="At most so many, up to 200.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where a page ended.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Bugs that fit, the newest first."""
    said = _given(
        status=status, severity=severity, priority=priority, category=category, device=device, firmware=firmware,
        site=site, assignee=assignee, reporter=reporter, tag=tag, text=text, created_from=created_from,
        created_to=created_to, sla=sla, sort=sort, limit=limit, cursor=cursor,
    )  # fmt: skip
    query = bug_admin.checked(BugPageQuery, said)
    found = ask(data_dir, partial(bug_admin.page, query=query))
    if as_json:
        show(found.model_dump(mode="json", by_alias=True))
        return
    for line in listed(found.bugs, bug_admin.now()):
        typer.echo(line)
    total = f"{found.total:,}{'' if found.total_is_exact else ' or more'}"
    more = f"; go on with --cursor {found.next_cursor}" if found.next_cursor else ""
    typer.echo(f"{len(found.bugs)} of {total}{more}")


@bugs.command("show")
def bugs_show(bug: Named, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """One bug, with its comments, attachments, links and history."""
    whole = ask(data_dir, partial(bug_admin.whole_bug, name=bug))
    if as_json:
        parts = whole.model_dump(mode="json", by_alias=True)
        show(parts.pop("bug") | parts)
        return
    for line in told(whole, bug_admin.now()):
        typer.echo(line)


@bugs.command("create")
def bugs_create(
    title: Annotated[str, typer.Option()],
    description: Annotated[str, typer.Option(help="- reads it from standard input.")],
    severity: Annotated[str, typer.Option(help="critical, high, medium, low.")],
    priority: Annotated[str, typer.Option(help="urgent, high, medium, low.")],
    category: Said = None,
    device_id: Annotated[str | None, typer.Option("--device-id", "--device")] = None,
    firmware_version: Annotated[str | None, typer.Option("--firmware-version", "--firmware")] = None,
    site_code: Annotated[str | None, typer.Option("--site-code", "--site")] = None,
    reported_by: Said = None,
    reported_by_email: Said = None,
    reproduction_steps: Said = None,
    tags: Tags = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Report a bug and print its number and id."""
    said = _given(
        title=title, description=_typed(description), severity=severity, priority=priority, category=category,
        device_id=device_id, firmware_version=firmware_version, site_code=site_code, reported_by=reported_by,
        reported_by_email=reported_by_email, reproduction_steps=reproduction_steps, tags=tags,
    )  # fmt: skip
    made = ask(data_dir, partial(bug_admin.report, said=bug_admin.checked(models.BugReport, said)))
    _answer(made, f"#{made.number} {made.id}", as_json=as_json)


@bugs.command("comment")
def bugs_comment(
    bug: Named,
    comment: Annotated[str, typer.Argument(help="- reads it from standard input.")],
    author: Annotated[str | None, typer.Option(help="Who says so.")] = None,
    internal: Annotated[bool, typer.Option("--internal", help="For staff alone.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Say something about a bug."""
    said = _given(comment=_typed(comment), author=author, is_internal=internal)
    draft = bug_admin.checked(models.CommentDraft, said)
    made = ask(data_dir, partial(bug_admin.comment, name=bug, said=draft))
    _answer(made, f"commented {made.id}", as_json=as_json)


@bugs.command("set")
def bugs_set(
    bug: Named,
    title: Said = None,
    description: Annotated[str | None, typer.Option(help="- reads it from standard input.")] = None,
    severity: Said = None,
    priority: Said = None,
    category: Said = None,
    status: Annotated[str | None, typer.Option(help="What may follow is the server's to say.")] = None,
    assigned_to: Said = None,
    resolution: Annotated[str | None, typer.Option(help="Needed to resolve.")] = None,
    resolved_by: Said = None,
    fixed_in_firmware: Said = None,
    device_id: Annotated[str | None, typer.Option("--device-id", "--device")] = None,
    firmware_version: Annotated[str | None, typer.Option("--firmware-version", "--firmware")] = None,
    reproduction_steps: Said = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="Once for each; all that it shall have.")] = None,
    duplicate_of: Annotated[
        str | None, typer.Option(metavar="BUG", help="With the status duplicate: of which.")
    ] = None,
    clear: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A member that becomes empty.")] = None,
    if_version: Annotated[int | None, typer.Option(min=1, help="Only while it is this version.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Change a bug: several members at once, all or none."""
    said = _given(
        title=title, description=_typed(description), severity=severity, priority=priority, category=category,
        status=status, assigned_to=assigned_to, resolution=resolution, resolved_by=resolved_by,
        fixed_in_firmware=fixed_in_firmware, device_id=device_id, firmware_version=firmware_version,
        reproduction_steps=reproduction_steps, tags=tags, duplicate_of=duplicate_of,
    )  # fmt: skip
    made = ask(data_dir, partial(bug_admin.change, name=bug, said=said, clear=clear or (), if_version=if_version))
    _answer(made, f"#{made.number} {made.status}, version {made.version}", as_json=as_json)


def _answer(made: models.Wire, line: str, *, as_json: bool) -> None:
    if as_json:
        show(made.model_dump(mode="json", by_alias=True))
    else:
        typer.echo(line)


@bugs.command("export")
def bugs_export(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; without, standard output.")] = None,
    form: Annotated[bug_admin.Form, typer.Option("--format")] = bug_admin.Form.CSV,
    comments: Annotated[bool, typer.Option("--comments", help="In JSON: with what was said.")] = False,
    status: Status = None,
    severity: Severity = None,
    priority: Priority = None,
    category: Category = None,
    device: Device = None,
    firmware: Firmware = None,
    site: Site = None,
    assignee: Assignee = None,
    reporter: Reporter = None,
    tag: TagFilter = None,
    text: Text = None,
    created_from: CreatedFrom = None,
    created_to: CreatedTo = None,
    sla: Sla = None,
    sort: Annotated[str, typer.Option(help="createdAt or number; with -, the other way.")] = "-createdAt",
    data_dir: DataDir = None,
) -> None:
    """All bugs that fit, for a spreadsheet or a program, with what staff sees. A file is there when it is whole."""
    said = _given(
        status=status, severity=severity, priority=priority, category=category, device=device, firmware=firmware,
        site=site, assignee=assignee, reporter=reporter, tag=tag, text=text, created_from=created_from,
        created_to=created_to, sla=sla, sort=sort,
    )  # fmt: skip
    query = bug_admin.checked(BugQuery, said)
    ask(data_dir, partial(bug_admin.export, query=query, form=form, comments=comments, output=output))


@bugs.command("seed")
def bugs_seed(
    count: Annotated[int, typer.Option("--bugs", min=1, max=10_000_000)] = 1_000,
    comments: Annotated[int, typer.Option(min=0, max=100_000_000, help="Between them.")] = 5_000,
    seed: Annotated[int, typer.Option(min=0, help="Other bugs.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Also where there are bugs already.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Fill the database with invented bugs of the last two years, for trying and measuring."""

    def tell(words: str) -> None:
        typer.echo(words, err=True)

    ask(data_dir, partial(bug_admin.invent, bugs=count, comments=comments, seed=seed, progress=tell, force=force))
    asyncio.run(admin.forget_cached(quiet_settings(data_dir)))
    typer.echo(f"{count:,} bugs, {comments:,} comments")
