"""What the log says of a database that a commit group cannot be written to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from app.core.database import Database
from app.core.metrics import Metrics
from app.sqal.committer import Committer, GroupLimits
from app.sqal.errors import Code
from app.sqal.intake import Intake
from tests.integration.test_database import guarded, of_another_name
from tests.support import trimmed

if TYPE_CHECKING:
    from tests.integration.conftest import Bench


async def away_line(bench: Bench, dsn: str) -> str:
    """The reason that is logged when one sample cannot be written there."""
    storage, intake = guarded(), Intake(10, 100_000)
    database = Database(dsn, storage, Metrics(), size=1, deadline_s=5, name="t")
    limits = GroupLimits(rows=1, bytes=100_000, linger_s=0, max_wait_s=0, commit_deadline_s=5)
    committer = Committer(
        intake, bench.preparer, bench.store, database, storage, bench.clock, limits, lambda _group, _written: None
    )
    assert intake.offer(bench.work(trimmed(sample_id="s")))
    intake.close()
    await database.open()
    with capture_logs() as lines:
        await committer.run()
    await database.close()
    ((_, verdict),) = bench.delivered
    assert verdict.code == Code.BUSY
    (reason,) = [line["reason"] for line in lines if line["event"] == "dependency away"]
    return str(reason)


async def test_a_refused_login_is_said(bench: Bench, dsn: str) -> None:
    said = await away_line(bench, of_another_name(dsn))
    assert said.startswith('LoginRefusedError: InvalidCatalogNameError: database "nowhere"')


async def test_a_table_that_has_gone_is_said(bench: Bench, dsn: str) -> None:
    await bench.connection.execute("ALTER TABLE devices RENAME TO elsewhere")
    assert (await away_line(bench, dsn)).startswith("UndefinedTableError: ")
