"""Alerts (app/sqal/alerts.py, app/sqal/watch.py), lots, the volume that a recipe derives, a device's clock and service.

Expand: new tables and columns with defaults. The release before writes no alerts; nothing else changes for it.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    # An open alert is changed by every group that raises it: room beside it keeps new versions off the indexes.
    """
    CREATE TABLE alerts (
        id               uuid PRIMARY KEY,
        opened_at        timestamptz NOT NULL,
        last_at          timestamptz NOT NULL,
        cleared_at       timestamptz,
        acknowledged_at  timestamptz,
        occurrences      bigint NOT NULL,
        late_occurrences bigint NOT NULL,
        clear_streak     integer NOT NULL,
        value            double precision,
        worst            double precision,
        sample_time      timestamptz,
        sample_id        text,
        rule             text NOT NULL,
        severity         text NOT NULL,
        subject          text NOT NULL,
        device_id        text,
        site_code        text,
        devices          text[] NOT NULL,
        acknowledged_by  text,
        comment          text
    ) WITH (fillfactor = 50)
    """,
    "CREATE UNIQUE INDEX alerts_open ON alerts (subject, rule) WHERE cleared_at IS NULL",
    "CREATE INDEX alerts_by_time ON alerts (opened_at, id)",
    "CREATE INDEX alerts_by_device ON alerts (device_id, opened_at, id)",
    """
    CREATE TABLE lots (
        lot        text PRIMARY KEY,
        species    text NOT NULL,
        updated_at timestamptz NOT NULL,
        updated_by text NOT NULL
    )
    """,
    "ALTER TABLE samples ADD COLUMN derived_volume_mm3 integer",
    "ALTER TABLE devices ADD COLUMN clock_offset_s double precision",
    "ALTER TABLE devices ADD COLUMN in_service boolean NOT NULL DEFAULT true",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
