"""What a PostgreSQL's facts mean to us. Pure: facts in, findings out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from app.core.migrations import head
from app.doctor.finding import Finding, fine, note, problem, warning
from app.resources import WATCHERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.doctor.database_facts import DatabaseFacts
    from app.doctor.patient import Patient

TOPIC: Final = "database"
NAMED: Final = 3
REVISION: Final = re.compile(r"\d{4}\Z")
OLDEST: Final = 140_000
XID_WARNING: Final = 1_000_000_000  # autovacuum begins at 200 million; the server stops near 2,147 million
SLOT_BYTES: Final = 1024**3
CHECKS_LIVE_AND_MIGRATION: Final = 3
LOST: Final = "an acknowledged sample can be lost when the server's machine loses power: an ack means committed"


def judge_database(facts: DatabaseFacts, patient: Patient) -> list[Finding]:
    found = [*_server(facts), *_durability(facts), *_rights(facts), *_connections(facts, patient), *_upkeep(facts)]
    if not found:
        size_mb = facts.about.get("size_bytes", 0) / 1e6
        said = (
            f"PostgreSQL {facts.settings['server_version']}, {size_mb:,.0f} MB; durable, writable, room for our pools"
        )
        found = [fine(TOPIC, said)]
    return [*found, *_unseen(facts)]


def _unseen(facts: DatabaseFacts) -> list[Finding]:
    if facts.about["sees_all"]:
        return []
    role = facts.about["role"]
    what = f"role {role} is not shown the transactions of other roles"
    follows = "one of theirs that is open for hours, and in vacuum's way, would not be told here"
    return [note(TOPIC, what, follows, f"GRANT pg_read_all_stats TO {role};")]


def _on(facts: DatabaseFacts, name: str) -> bool:
    return facts.settings.get(name, "on") == "on"


def _server(facts: DatabaseFacts) -> list[Finding]:
    found = []
    if int(facts.settings["server_version_num"]) < OLDEST:
        version = facts.settings["server_version"]
        found.append(
            problem(
                TOPIC, f"PostgreSQL {version} is too old", "migrations and queries fail", "upgrade it to 14 or later"
            )
        )
    encoding = facts.settings["server_encoding"]
    if encoding != "UTF8":
        do = "make a database with ENCODING 'UTF8' TEMPLATE template0, and DATABASE_URL name it"
        found.append(problem(TOPIC, f"its encoding is {encoding}", "text of devices and bugs cannot be stored", do))
    if not facts.about["local"] and not facts.about["tls"]:
        follows = "password and data travel in the clear"
        found.append(
            warning(TOPIC, "the connection is not encrypted", follows, "add ?sslmode=verify-full to DATABASE_URL")
        )
    return found


def _durability(facts: DatabaseFacts) -> list[Finding]:
    found = [
        problem(TOPIC, f"{name} is off", LOST, f"ALTER SYSTEM RESET {name}; SELECT pg_reload_conf();")
        for name in ("fsync", "full_page_writes")
        if not _on(facts, name)
    ]
    if facts.settings["synchronous_commit"] == "off":
        do = f"ALTER ROLE {facts.about['role']} SET synchronous_commit = on;"
        found.append(problem(TOPIC, "synchronous_commit is off", LOST, do))
    if not _on(facts, "data_checksums"):
        follows = "what a disk spoils is found late, or never"
        found.append(
            note(TOPIC, "the cluster has no checksums", follows, "stop it, then: pg_checksums --enable -D DATA")
        )
    if facts.settings.get("synchronous_standby_names") and not facts.about["sync_standbys"]:
        follows = "each COMMIT waits for a standby that is not there: samples are answered busy"
        do = "bring the standby back, or: ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();"
        found.append(problem(TOPIC, "a synchronous standby is wanted and none is connected", follows, do))
    return found


def _rights(facts: DatabaseFacts) -> list[Finding]:
    role, database = facts.about["role"], facts.about["database"]
    if facts.about["in_recovery"]:
        follows = "samples are answered busy: nothing can be written there"
        return [problem(TOPIC, "it is a standby", follows, "point DATABASE_URL at the primary")]
    if facts.settings["default_transaction_read_only"] == "on":
        do = f"ALTER DATABASE {database} RESET default_transaction_read_only; (or ALTER ROLE {role} ...)"
        return [problem(TOPIC, "it is read-only", "samples are answered busy: nothing can be written", do)]
    if not facts.about["can_create"]:
        follows = "the service cannot make its tables, nor a week's partitions"
        do = f"GRANT CREATE, USAGE ON SCHEMA public TO {role}; (as the owner of {database})"
        nothing = problem(TOPIC, f"role {role} may create nothing in its schema", follows, do)
        return [nothing, *_tables(facts, role)]
    return _tables(facts, role)


def _tables(facts: DatabaseFacts, role: str) -> list[Finding]:
    """A partition is made and dropped by who owns its table; so is what a migration alters."""
    if closed := [one for one in facts.tables if not one["writable"]]:
        what = f"role {role} may not write to {_some(closed)}"
        follows = "the service does not start, or samples are answered busy"
        return [problem(TOPIC, what, follows, _lend(closed, role))]
    if foreign := [one for one in facts.tables if not one["owned"]]:
        what = f"role {role} does not own {_some(foreign)}"
        follows = "no partition can be made or dropped, and the next migration fails"
        return [problem(TOPIC, what, follows, _lend(foreign, role))]
    return []


def _some(tables: Sequence[Mapping[str, Any]]) -> str:
    names = [one["name"] for one in tables]
    more = f" and {len(names) - NAMED} more of our tables" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _lend(tables: Sequence[Mapping[str, Any]], role: str) -> str:
    return " ".join(f"GRANT {owner} TO {role};" for owner in sorted({one["owner"] for one in tables}))


def connections_needed(patient: Patient) -> int:
    """Of one replica: its pools, the check, the live feed's and a migration's."""
    settings = patient.settings
    return (
        settings.database_reads
        + settings.database_writers
        + WATCHERS
        + settings.database_bugs
        + CHECKS_LIVE_AND_MIGRATION
    )


def _connections(facts: DatabaseFacts, patient: Patient) -> list[Finding]:
    reserved = int(facts.settings["superuser_reserved_connections"]) + int(
        facts.settings.get("reserved_connections", 0)
    )
    most = int(facts.settings["max_connections"])
    rolling = patient.replicas + (0 if patient.embedded else 1)  # an update brings the new one before it ends the old
    needed, others = rolling * connections_needed(patient), int(facts.about["others"])
    if needed <= most - reserved - others:
        return []
    what = (
        f"{patient.replicas} replica(s), and one more during an update, may want {needed} connections;"
        f" max_connections is {most}, of which {reserved} are reserved and {others} are others'"
    )
    do = f"ALTER SYSTEM SET max_connections = {needed + reserved + others + 20}; and restart, or lower DATABASE_READS"
    if needed > most - reserved:
        return [problem(TOPIC, what, "under load requests and commits are refused a connection", do)]
    return [warning(TOPIC, what, "with those others connected some are refused a connection", do)]


def _upkeep(facts: DatabaseFacts) -> list[Finding]:
    found = []
    if not _on(facts, "autovacuum"):
        follows = "tables and figures about them rot until queries and disk suffer"
        found.append(
            warning(TOPIC, "autovacuum is off", follows, "ALTER SYSTEM RESET autovacuum; SELECT pg_reload_conf();")
        )
    if count := facts.about["long_transactions"]:
        oldest_s = facts.about["oldest_transaction_s"]
        do = (
            "SELECT pid, usename, application_name, state, xact_start, query FROM pg_stat_activity ORDER BY xact_start;"
        )
        follows = "nothing that died since can be vacuumed away, and migrations wait behind their locks"
        found.append(
            warning(TOPIC, f"{count} transaction(s) are open for up to {oldest_s / 60:.0f} minutes", follows, do)
        )
    for name, held in facts.slots:
        do = f"SELECT pg_drop_replication_slot('{name}'); if nobody will come back for it"
        if held > SLOT_BYTES:
            what = f"replication slot {name} is idle and holds {held / 1e9:.1f} GB of WAL"
            found.append(warning(TOPIC, what, "the disk fills until it stops the server", do))
    if facts.settings.get("archive_mode", "off") != "off" and facts.about["archiving_fails"]:
        follows = "WAL piles up on the disk, and recovery to a point in time ends before now"
        do = "SELECT * FROM pg_stat_archiver; and the server's log say why"
        found.append(warning(TOPIC, "the last archiving of WAL failed", follows, do))
    if facts.about["xid_age"] > XID_WARNING:
        follows = "near 2.1 billion the server stops taking writes"
        found.append(
            warning(TOPIC, f"the oldest transaction id is {facts.about['xid_age']:,} old", follows, "VACUUM (FREEZE);")
        )
    return found


def judge_migrations(facts: DatabaseFacts) -> list[Finding]:
    ours, theirs = head(), facts.revision
    if theirs == ours:
        return [fine("migrations", f"the schema is at {theirs}, as this program wants it")]
    if theirs is None:
        return [
            note("migrations", "the database has no schema yet", "the service makes it at start", "gaveurs migrate")
        ]
    if not REVISION.match(theirs):
        what = f"the schema's revision is {theirs!r}, which is none of this product's"
        do = "DATABASE_URL must name a database of this product's own"
        return [problem("migrations", what, "the service cannot know what it finds there", do)]
    if theirs < ours:
        follows = "the service brings it up to date at start"
        return [
            note("migrations", f"the schema is at {theirs}, this program is for {ours}", follows, "gaveurs migrate")
        ]
    follows = "this release works with it only if it is the one just before (docs/upgrading.md)"
    what = f"the schema is at {theirs}, newer than this program's {ours}"
    return [warning("migrations", what, follows, "run the release that made it")]


EXTENSIONS: Final = {
    "pg_trgm": "similar bugs are told by trigrams of their titles; without it by the words that both have",
    "timescaledb": "nothing needs it: samples lie in weekly partitions, figures in rollups of our own",
    "pg_stat_statements": "shows a DBA which statements cost most; the service does not need it",
}


def judge_extensions(facts: DatabaseFacts) -> list[Finding]:
    found = []
    for name, brings in EXTENSIONS.items():
        if name in facts.installed:
            found.append(fine("extensions", f"{name} is installed: {brings}"))
        else:
            could = "is available and not installed" if name in facts.available else "is not on this server"
            do = f"CREATE EXTENSION {name};" if name == "pg_stat_statements" and name in facts.available else ""
            found.append(note("extensions", f"{name} {could}", brings, do))
    return found
