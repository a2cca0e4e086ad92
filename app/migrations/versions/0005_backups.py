"""Backups that were made (app/core/backup_log.py): whoever serves can tell how old the newest is.

Expand: a new table. The release before knows nothing of it.
"""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    """
    CREATE TABLE backups (
        id          uuid PRIMARY KEY,
        started_at  timestamptz NOT NULL,
        finished_at timestamptz NOT NULL,
        outcome     text NOT NULL CHECK (outcome IN ('succeeded', 'failed')),
        verified    boolean NOT NULL,
        size_bytes  bigint,
        place       text NOT NULL,
        detail      text
    )
    """,
    "CREATE INDEX backups_by_outcome ON backups (outcome, started_at DESC)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
