"""Which database this is: a place of backups holds those of one (docs/backup.md). What is restored keeps it.

Expand: a new table of one row. The release before knows nothing of it.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = (
    "CREATE TABLE database_identity (id uuid NOT NULL, single boolean PRIMARY KEY DEFAULT true CHECK (single))",
    "INSERT INTO database_identity (id) VALUES (gen_random_uuid())",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
