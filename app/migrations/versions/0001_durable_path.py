"""Samples, their original messages, devices, quarantine, recipes, API keys.

Expand / contract: the first step; there is no previous release.
"""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    """
    CREATE TABLE recipes (
        recipe_id   smallint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
        name        text NOT NULL,
        hash        text NOT NULL,
        definition  jsonb NOT NULL,
        first_used  timestamptz NOT NULL DEFAULT now(),
        UNIQUE (name, hash)
    )
    """,
    """
    CREATE TABLE devices (
        device_id        text PRIMARY KEY,
        first_seen       timestamptz,
        last_seen        timestamptz,
        last_sample_at   timestamptz,
        hello_at         timestamptz,
        mac_address      text,
        ip_address       text,
        location         text,
        firmware_version text,
        sensors          jsonb,
        sent_site_code   text,
        heartbeat_at     timestamptz,
        heartbeat        jsonb,
        uptime_s         double precision,
        boots            integer NOT NULL DEFAULT 0,
        site_code        text,
        profile          text,
        recipe           text,
        trust_defects    boolean NOT NULL DEFAULT false
    )
    """,
    # One row a reading. Scores are integers of 1e-6. Fixed-width columns first: no padding between them.
    """
    CREATE TABLE samples (
        device_time      timestamptz NOT NULL,
        bucket_time      timestamptz NOT NULL,
        received_at      timestamptz NOT NULL,
        claimed_score    double precision,
        id               uuid NOT NULL,
        score            integer,
        tof_score        integer,
        spectral_score   integer,
        freshness        integer,
        fat_quality      integer,
        oxidation        integer,
        color_uniformity integer,
        volume_mm3       double precision,
        temperature_c    double precision,
        humidity_percent double precision,
        message_group    bigint,
        flags            integer NOT NULL,
        recipe_id        smallint NOT NULL,
        claimed_compliant boolean,
        grade            text NOT NULL,
        claimed_grade    text,
        device_id        text NOT NULL,
        sample_id        text NOT NULL,
        site_code        text,
        lot              text,
        lot_id           text,
        farmer           text,
        origin           text,
        location         text,
        firmware_version text,
        profile          text,
        content_hash     bytea NOT NULL,
        frame            bytea NOT NULL,
        -- In this order it also finds a sample by its id and device.
        UNIQUE (sample_id, device_id, device_time) WITH (fillfactor = 100)
    ) PARTITION BY RANGE (device_time)
    """,
    "CREATE TABLE samples_default PARTITION OF samples DEFAULT",
    # Without the id: few rows share a moment, and an incremental sort puts those in order for a third of the bytes.
    # Full leaves: entries come in the order of time, nearly all at the right end.
    "CREATE INDEX samples_by_time ON samples (bucket_time) WITH (fillfactor = 100)",
    "CREATE INDEX samples_by_device ON samples (device_id, bucket_time) WITH (fillfactor = 100)",
    "CREATE INDEX samples_by_lot ON samples (lot, bucket_time) WHERE lot IS NOT NULL",
    # The grades that are rare enough to need one.
    "CREATE INDEX samples_by_rare_grade ON samples (grade, bucket_time) WHERE grade IN ('REJECT', 'NOT_GRADABLE')",
    # Original messages in blocks (app/sqal/originals.py), in segments of bounded size and age that are dropped whole
    # (app/sqal/retention.py).
    """
    CREATE TABLE messages (
        message_group bigint NOT NULL,
        codec         smallint NOT NULL,
        ids           uuid[] NOT NULL,
        ends          integer[] NOT NULL,
        encodings     bytea NOT NULL,
        body          bytea NOT NULL
    ) PARTITION BY RANGE (message_group)
    """,
    "CREATE SEQUENCE message_groups",
    """
    CREATE TABLE message_segments (
        segment   integer PRIMARY KEY,
        opened_at timestamptz NOT NULL,
        closed_at timestamptz
    )
    """,
    """
    CREATE TABLE quarantine (
        id          uuid PRIMARY KEY,
        received_at timestamptz NOT NULL,
        code        text NOT NULL,
        reason      text NOT NULL,
        device_id   text,
        sample_id   text,
        peer        text,
        size_bytes  integer NOT NULL,
        stored_bytes integer NOT NULL,
        codec       smallint NOT NULL,
        encoding    smallint NOT NULL,
        body        bytea NOT NULL,
        replayed_at timestamptz,
        replay_result text
    )
    """,
    "ALTER TABLE quarantine ALTER COLUMN body SET STORAGE EXTERNAL",
    "CREATE INDEX quarantine_by_time ON quarantine (received_at, id)",
    "CREATE INDEX quarantine_by_device ON quarantine (device_id, received_at, id)",
    """
    CREATE TABLE api_keys (
        key_id     text PRIMARY KEY,
        name       text NOT NULL,
        role       text NOT NULL,
        hash       bytea NOT NULL,
        created_at timestamptz NOT NULL,
        revoked_at timestamptz
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
