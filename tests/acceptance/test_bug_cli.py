"""`gaveurs bugs` beside a running server: what it does is what REST shows, and what REST refuses it refuses."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from app.bug_text import event_words
from app.core.embedded_postgres import EmbeddedPostgres
from app.routers.bug_models import HistoryEvent
from app.terminal import age, cut, printable, table
from tests.support import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import Server


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self
        return json.loads(self.out)


def run_command(arguments: tuple[str, ...], typed: str, dsn: str | None) -> Answer:
    """In a process of its own, whose streams and environment are nobody else's."""
    from app.cli import main

    os.environ.pop("DATABASE_URL", None)
    if dsn is not None:
        os.environ["DATABASE_URL"] = dsn
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(typed), out, err
    sys.argv = ["gaveurs", *arguments]
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    return Answer(code or 0, out.buffer.getvalue().decode(), err.getvalue())


class Shell:
    """Somebody who types commands, one after the other."""

    def __init__(self, server: Server, pool: ProcessPoolExecutor) -> None:
        self.server = server
        self._pool = pool

    def __call__(self, *arguments: str, typed: str = "", dsn: str | None = None) -> Answer:
        where = ("--data-dir", str(self.server.folder))
        return self._pool.submit(run_command, ("bugs", *arguments, *where), typed, dsn).result(60)

    def create(self, title: str, *more: str) -> dict[str, Any]:
        said = ("--title", title, "--description", "x", "--severity", "high", "--priority", "low")
        made: dict[str, Any] = self("create", *said, *more, "--json").json
        return made

    def refused(self, *arguments: str, dsn: str | None = None) -> str:
        """The one line that it says."""
        answer = self(*arguments, dsn=dsn)
        assert (answer.code, answer.out) == (2, ""), answer
        assert answer.err.startswith("gaveurs: "), answer
        assert answer.err.count("\n") == 1, answer
        return answer.err.removeprefix("gaveurs: ").rstrip("\n")


@pytest.fixture(scope="module")
def bugs(server: Server) -> Iterator[Shell]:
    with pytest.MonkeyPatch.context() as patch, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        patch.setenv("COLUMNS", "100")
        shell = Shell(server, pool)
        shell("--help")  # the process begins here, with this environment
        yield shell


def test_a_bug_that_is_reported_on_the_command_line_is_the_one_that_rest_shows(bugs: Shell) -> None:
    answer = bugs(
        "create", "--title", "VL53L8CH sensor timeout", "--description", "-", "--severity", "high", "--priority",
        "urgent", "--category", "hardware", "--device", "ESP32_LL_01", "--firmware", "v2.3.1", "--site", "LL",
        "--reported-by", "Jean Dupont", "--reported-by-email", "jean@euralis.com", "--tag", "sensor", "--tag", "esp32",
        typed="stops after\n2 hours",
    )  # fmt: skip
    number, bug_id = answer.out.split()
    shown = bugs.server.get(f"/api/bugs/{bug_id}")
    assert number == f"#{shown['number']}"
    wanted = {
        "title": "VL53L8CH sensor timeout", "description": "stops after\n2 hours", "severity": "high",
        "priority": "urgent", "category": "hardware", "deviceId": "ESP32_LL_01", "firmwareVersion": "v2.3.1",
        "siteCode": "LL", "reportedBy": "Jean Dupont", "reportedByEmail": "jean@euralis.com",
        "tags": ["sensor", "esp32"], "status": "open", "version": 1,
    }  # fmt: skip
    assert {name: shown[name] for name in wanted} == wanted
    (event,) = bugs.server.get(f"/api/bugs/{bug_id}/history")["items"]
    assert event["actor"].startswith("cli:")
    both = bugs("show", number, "--json").json
    assert {name: both[name] for name in wanted} == wanted
    assert both["history"] == [event]


def test_several_members_change_at_once_or_none(bugs: Shell) -> None:
    bug = bugs.create("drifts", "--tag", "a")
    number = str(bug["number"])
    changed = bugs(
        "set", number, "--status", "in_progress", "--assigned-to", "Marie Martin", "--tag", "b", "--tag", "c"
    )
    assert changed.out == f"#{number} in_progress, version 2\n"
    assert "resolution" in bugs.refused("set", number, "--status", "resolved", "--title", "not this")
    shown = bugs.server.get(f"/api/bugs/{bug['id']}")
    assert (shown["title"], shown["assignedTo"], shown["tags"], shown["version"]) == (
        "drifts", "Marie Martin", ["b", "c"], 2,
    )  # fmt: skip
    bugs("set", number, "--clear", "assigned-to", "--clear", "tags", "--if-version", "2")
    shown = bugs.server.get(f"/api/bugs/{bug['id']}")
    assert (shown["assignedTo"], shown["tags"], shown["version"]) == (None, [], 3)
    assert "changed meanwhile" in bugs.refused("set", number, "--title", "too late", "--if-version", "2")
    fields = [event["field"] for event in bugs.server.get(f"/api/bugs/{bug['id']}/history")["items"]]
    assert sorted(fields[1:]) == ["assignedTo", "assignedTo", "status", "tags", "tags"]


def test_a_duplicate_names_the_other_bug_by_its_number(bugs: Shell) -> None:
    first, second = bugs.create("lens fogged"), bugs.create("lens is fogged")
    bugs("set", f"#{second['number']}", "--status", "duplicate", "--duplicate-of", f"#{first['number']}")
    assert bugs.server.get(f"/api/bugs/{second['id']}")["duplicateOf"] == first["id"]


def test_what_rest_refuses_is_refused_with_the_member_named(bugs: Shell) -> None:
    number = str(bugs.create("stays as it is")["number"])
    said = ("create", "--title", " ", "--description", "x", "--severity", "huge", "--priority", "low", "--site", "x")
    line = bugs.refused(*said)
    assert all(f"{name}: " in line for name in ("title", "severity", "siteCode")), line
    assert "reopened; allowed: in_progress, awaiting_info" in bugs.refused("set", number, "--status", "reopened")
    assert bugs.refused("set", number, "--clear", "severity").startswith("severity: ")
    assert "there is no colour; known: title," in bugs.refused("set", number, "--clear", "colour")
    assert bugs.refused("set", number) == "nothing to change was said"
    assert bugs.refused("comment", number, "x" * 10_001).startswith("comment: ")
    assert bugs.refused("show", "999999") == "there is no such bug"
    assert bugs.refused("show", "lens") == "a bug is named by its number, such as 12, or by its id"
    assert bugs.refused("list", "--status", "open,lost").startswith("status: ")
    assert bugs.refused("list", "--sla", "late").startswith("sla: ")
    assert bugs.refused("list", "--limit", "201").startswith("limit: ")
    assert "createdFrom" in bugs.refused("list", "--created-from", "yesterday")
    assert bugs.refused("list", "--cursor", "nonsense")
    assert bugs.refused("export", "--sort", "severity").startswith("sort: ")
    assert "No such file" in bugs.refused("export", "--output", "/nowhere/bugs.csv")
    assert bugs.refused("export", "--output", "/") == "--output: / is no file"
    assert bugs.refused("export", "--output", "/dev/null/bugs.csv").endswith("bugs.csv.part: Not a directory")
    assert bugs.refused("export", "--comments").startswith("--comments: ")
    assert bugs.refused("seed", "--bugs", "1") == "there are bugs in this database already"


def test_comments_and_history_are_shown_and_no_terminal_obeys_them(bugs: Shell) -> None:
    bug = bugs.create("shown")
    number = str(bug["number"])
    bugs("comment", number, "seen again", "--author", "Jean")
    bugs("comment", number, "-", "--internal", typed="\x1b]0;gotcha\x07 customer\n\tangry")
    text = bugs("show", number).out
    assert f"#{number} shown\n" in text
    assert "\x1b" not in text
    assert "    \\x1b]0;gotcha\\x07 customer\n    \tangry\n" in text
    assert ", internal\n" in text
    assert "Jean\n    seen again\n" in text
    assert text.count("  commented\n") == 2
    told = bugs.server.get(f"/api/bugs/{bug['id']}/comments")["comments"]
    assert [(one["comment"], one["isInternal"]) for one in told] == [
        ("seen again", False), ("\x1b]0;gotcha\x07 customer\n\tangry", True),
    ]  # fmt: skip


def test_what_hangs_on_a_bug_and_what_it_is_about_is_shown_and_stands_in_the_history(bugs: Shell) -> None:
    bug, other = bugs.create("with a log"), bugs.create("the other")
    path = f"/api/bugs/{bug['id']}"
    status, body, _ = bugs.server.request_raw(f"{path}/attachments?fileName=boot.log&internal=true", b"hello")
    assert status == 201, body
    for said in ({"kind": "device", "deviceId": "ESP32_LL_09"},
                 {"kind": "bug", "relation": "blocks", "bugId": other["id"]}):  # fmt: skip
        assert bugs.server.request(f"{path}/links", method="POST", body=said)[0] == 201
    text = bugs("show", str(bug["number"])).out
    assert "  5 bytes  boot.log, internal\n" in text
    assert "\nLinks\n  device  ESP32_LL_09\n" in text
    assert f"\n  bug     blocks #{other['number']} the other (open)\n" in text
    history = text.partition("\nHistory\n")[2]
    for line in (
        "  attached boot.log (5 bytes)\n",
        "  linked device ESP32_LL_09\n",
        f"  linked bug: blocks #{other['number']}",
    ):
        assert line in history
    whole = bugs("show", str(bug["number"]), "--json").json
    assert whole["attachments"] == bugs.server.get(f"{path}/attachments")["attachments"]
    assert whole["links"] == bugs.server.get(f"{path}/links")["links"]


@pytest.mark.parametrize(
    ("kind", "old", "new", "words"),
    [
        ("seen", None, {"rule": "sensor_silent", "occurrences": 3}, "sensor_silent x 3"),
        ("unlinked", {"kind": "lot", "lot": "L1"}, None, "lot L1"),
        ("linked", None, {"kind": "sample", "sampleId": "S", "deviceId": "D", "deviceTime": "T"}, "sample S of D at T"),
        ("detached", {"fileName": "a.png", "sizeBytes": 1234}, None, "a.png (1,234 bytes)"),
        ("created", None, {"status": "open"}, ""),
    ],
)
def test_the_history_says_what_was_seen_linked_or_taken_away(kind: str, old: Any, new: Any, words: str) -> None:
    event = HistoryEvent(
        id=uuid4(), at=datetime.now(UTC), version=1, is_internal=False, actor="x", actor_name=None, kind=kind, field=None,
        old=old, new=new,
    )  # fmt: skip
    assert event_words(event) == words


def test_a_list_is_narrowed_as_by_rest_goes_on_by_its_cursor_and_fits_the_terminal(bugs: Shell) -> None:
    for place in range(3):
        bugs.create(f"{place} " + "very long " * 20, "--device", "ESP32_MT_07", "--tag", "listed")
    narrowed = ("list", "--device", "ESP32_MT_07", "--tag", "listed", "--sort", "number", "--limit", "2")
    first = bugs(*narrowed, "--json").json
    rest = bugs.server.get("/api/bugs/?device=ESP32_MT_07&tag=listed&sort=number&limit=2")
    for bug in (*first["bugs"], *rest["bugs"]):
        bug.pop("sla")  # its clocks run on between the two looks
    assert first == rest
    second = bugs(*narrowed, "--cursor", first["nextCursor"], "--json").json
    assert [bug["title"][0] for bug in (*first["bugs"], *second["bugs"])] == ["0", "1", "2"]
    header, *rows, last = bugs(*narrowed).out.splitlines()
    assert header.split() == ["BUG", "STATUS", "SEVERITY", "PRIORITY", "AGE", "DEVICE", "ASSIGNEE", "TITLE"]
    assert [len(row) for row in rows] == [100, 100]
    assert {row[header.index("DEVICE") :].split()[0] for row in rows} == {"ESP32_MT_07"}
    assert all(row.endswith("…") and "\x1b" not in row for row in rows)
    assert last.startswith("2 of 3; go on with --cursor ")


def test_an_export_is_what_rest_exports_and_a_file_is_there_when_it_is_whole(bugs: Shell, tmp_path: Path) -> None:
    bug = bugs.create("=HYPERLINK(1)", "--tag", "exported")
    bugs("comment", str(bug["number"]), "inside", "--internal")
    path = tmp_path / "bugs.csv"
    answer = bugs("export", "--tag", "exported", "--output", str(path))
    assert (answer.code, answer.out, [one.name for one in tmp_path.iterdir()]) == (0, "", ["bugs.csv"])
    status, exported, _ = bugs.server.request("/api/bugs/export.csv?tag=exported")
    assert (status, path.read_bytes()) == (200, exported)
    (row,) = csv.DictReader(io.StringIO(path.read_text()))
    assert (row["title"], row["commentCount"]) == ("'=HYPERLINK(1)", "1")
    (one,) = bugs("export", "--format", "json", "--comments", "--tag", "exported").json
    assert (one["title"], one["comments"][0]["comment"]) == ("=HYPERLINK(1)", "inside")


def test_invented_bugs_fill_a_database_where_that_is_wanted(bugs: Shell) -> None:
    before = bugs.server.get("/api/bugs/?limit=1")["total"]
    answer = bugs("seed", "--bugs", "40", "--comments", "90", "--seed", "7", "--force")
    assert (answer.code, answer.out) == (0, "40 bugs, 90 comments\n")
    assert bugs.server.get("/api/bugs/?limit=1")["total"] == before + 40


def test_a_database_that_cannot_be_asked_or_does_not_do_it_is_one_line(bugs: Shell) -> None:
    embedded = EmbeddedPostgres(bugs.server.folder)
    bug = bugs.create("kept")
    read_only = f"{embedded.dsn}{'&' if '?' in embedded.dsn else '?'}default_transaction_read_only=on"
    line = bugs.refused("set", str(bug["number"]), "--title", "changed", dsn=read_only)
    why = "ReadOnlySQLTransactionError: cannot execute SELECT FOR UPDATE in a read-only transaction"
    assert line == f"the database did not do it: {why}"
    assert bugs("list", "--limit", "1", dsn=read_only).code == 0
    nowhere = f"postgresql://gaveurs@127.0.0.1:{free_port()}/gaveurs"
    assert bugs.refused("list", dsn=nowhere).startswith("the database does not answer")
    assert bugs.server.get(f"/api/bugs/{bug['id']}")["title"] == "kept"


def test_ages_are_in_their_largest_unit() -> None:
    now = datetime(2026, 2, 2, 12, tzinfo=UTC)
    spans = {"0 min": timedelta(seconds=-5), "59 min": timedelta(minutes=59, seconds=59), "1 h": timedelta(hours=1)}
    spans |= {"23 h": timedelta(hours=23), "3 d": timedelta(days=3, hours=20), "400 d": timedelta(days=400)}
    assert {word: age(now - span, now) for word, span in spans.items()} == {word: word for word in spans}


def test_columns_are_aligned_whatever_the_script_and_the_last_one_is_cut() -> None:
    lines = table([("A", "TITLE"), ("漢字", "défaut e\u0301clair"), ("x", "long " * 9)], 20, colours={"x": "31"})
    assert lines == ["A     TITLE", "漢字  défaut e\u0301clair", "\x1b[31mx\x1b[0m     long long lon…"]
    assert cut("漢字漢字", 5) == "漢字…"
    assert printable("a\x9bb\u202ec\n") == "a\\x9bb\\u202ec\\n"
