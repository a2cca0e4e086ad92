"""Point-in-time recovery as docs/backup.md describes it: our configuration, Debian's pgBackRest and PostgreSQL."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.deploy.debian_postgres import Cluster, as_postgres, new_cluster
from tests.deploy.tools import DEPLOY, tool

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = DEPLOY / "pgbackrest"
PATHS = {
    "/var/lib/pgbackrest": "repo",
    "/var/log/pgbackrest": "log",
    "/tmp/pgbackrest": "lock",
    "/var/lib/postgresql/15/main": "data",
    "/var/run/postgresql": "",
}


class Archived:
    """A server whose WAL is archived, and pgBackRest with our configuration."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        text = (OURS / "pgbackrest.conf").read_text().replace("pg1-user=postgres", "pg1-user=gaveurs")
        for real, ours in PATHS.items():
            assert real in text
            text = text.replace(real, str(cluster.folder / ours))
        self.config = cluster.folder / "pgbackrest.conf"
        self.config.write_text(
            text.replace("log-path=" + str(cluster.folder / "log"), f"log-path={cluster.folder}/said")
        )
        self.config.chmod(0o644)
        command = tool("pgbackrest")
        settings = (OURS / "postgresql.conf").read_text()
        assert "'pgbackrest --stanza" in settings
        with (cluster.data / "postgresql.conf").open("a") as config:
            config.write(settings.replace("'pgbackrest", f"'{command} --config={self.config}"))

    def run(self, *arguments: str) -> str:
        return as_postgres(tool("pgbackrest"), f"--config={self.config}", "--stanza=gaveurs", *arguments)


@pytest.fixture
def archived() -> Iterator[Archived]:
    with new_cluster() as cluster:
        cluster.configure()
        made = Archived(cluster)
        cluster.start()
        yield made


def test_the_moment_before_a_mistake_comes_back(archived: Archived) -> None:
    cluster = archived.cluster
    archived.run("stanza-create")
    archived.run("check")
    cluster.ask("CREATE TABLE samples (id int)")
    cluster.ask("INSERT INTO samples VALUES (1)")
    archived.run("--type=full", "backup")
    cluster.ask("SELECT pg_sleep(1.1)")  # a backup's end is known to the second, and the target must lie after it
    cluster.ask("INSERT INTO samples VALUES (2)")
    moment = cluster.ask("SELECT clock_timestamp()")
    cluster.ask("SELECT pg_sleep(1.1)")
    cluster.ask("DROP TABLE samples")
    segment = cluster.ask("SELECT pg_walfile_name(pg_switch_wal())")
    cluster.until(f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver", "t")
    cluster.stop("immediate")
    shutil.rmtree(cluster.data)
    subprocess.run(["install", "-d", "-m", "700", "-o", "postgres", "-g", "postgres", cluster.data], check=True)
    archived.run("--type=time", f"--target={moment}", "--target-action=promote", "restore")
    cluster.start()
    cluster.until("SELECT pg_is_in_recovery()", "f")
    assert cluster.ask("SELECT array_agg(id ORDER BY id) FROM samples") == "{1,2}"


def test_info_tells_of_the_backup(archived: Archived) -> None:
    archived.run("stanza-create")
    archived.run("--type=full", "backup")
    said = archived.run("info")
    assert "status: ok" in said
    assert "full backup:" in said
    archived.run("verify")
