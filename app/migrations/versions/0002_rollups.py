"""Rollups: what is known of every device, hour and lot (app/sqal/rollups.py).

Expand: a new table, filled from the samples that are there. The release before does not know it: what it writes while
both run is missing in the rows until `gaveurs rollups --from ... --to ...` makes those hours anew.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

GRADES = ("A+", "A", "B", "C", "REJECT", "NOT_GRADABLE")
MEASURES = ("score", "freshness", "fat_quality", "oxidation", "color_uniformity")
LATENCY = "(CASE WHEN flags & 64 = 0 THEN trunc(extract(epoch FROM received_at - device_time) * 1000)::int8 END)"


def _statistics(measure: str) -> str:
    return f"""
        {measure}_n       bigint NOT NULL,
        {measure}_sum     bigint NOT NULL,
        {measure}_squares bigint NOT NULL,
        {measure}_min     bigint,
        {measure}_max     bigint,"""


def _summary(measure: str) -> str:
    return (
        f"count({measure}), coalesce(sum({measure}), 0), coalesce(sum({measure}::int8 * {measure}), 0),"
        f" min({measure}), max({measure})"
    )


STATEMENTS = (
    # Rows of the running hours are changed by every group: room beside them keeps the new versions off the indexes.
    f"""
    CREATE TABLE rollups (
        device_id       text NOT NULL,
        bucket          timestamptz NOT NULL,
        site_code       text NOT NULL,
        lot             text NOT NULL,
        samples         bigint NOT NULL,
        a_plus          bigint NOT NULL,
        a               bigint NOT NULL,
        b               bigint NOT NULL,
        c               bigint NOT NULL,
        reject          bigint NOT NULL,
        not_gradable    bigint NOT NULL,
        claim_disagrees bigint NOT NULL,
        clock_off       bigint NOT NULL,
        {"".join(map(_statistics, MEASURES))}
        latency_ms_n    bigint NOT NULL,
        latency_ms_sum  bigint NOT NULL,
        latency_ms_min  bigint,
        latency_ms_max  bigint,
        PRIMARY KEY (device_id, bucket, site_code, lot)
    ) WITH (fillfactor = 50)
    """,
    f"""
    INSERT INTO rollups
    SELECT device_id, date_trunc('hour', bucket_time, 'UTC'), coalesce(site_code, ''), coalesce(lot, ''), count(*),
           {", ".join(f"count(*) FILTER (WHERE grade = '{label}')" for label in GRADES)},
           count(*) FILTER (WHERE flags & 256 <> 0), count(*) FILTER (WHERE flags & 64 <> 0),
           {", ".join(map(_summary, MEASURES))},
           count({LATENCY}), coalesce(sum({LATENCY}), 0), min({LATENCY}), max({LATENCY})
    FROM samples GROUP BY 1, 2, 3, 4
    """,
    "CREATE INDEX rollups_by_time ON rollups (bucket, device_id)",
    "CREATE INDEX rollups_by_site ON rollups (site_code, bucket, device_id)",
    "CREATE INDEX rollups_by_lot ON rollups (lot, bucket) WHERE lot <> ''",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
