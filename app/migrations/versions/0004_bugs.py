"""The bug tracker (app/bugs/): bugs, what was said and done about them, what they are about, and their figures.

Expand: new tables only; the release before does not know them. Every statement may run again, so that
`scripts/bug_tracking_schema.sql`, which is made from them, may come before or after.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = (
    """
    CREATE TABLE IF NOT EXISTS bugs (
        number             bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
        id                 uuid PRIMARY KEY,
        created_at         timestamptz NOT NULL,
        updated_at         timestamptz NOT NULL,
        status_changed_at  timestamptz NOT NULL,
        acknowledged_at    timestamptz,
        assigned_at        timestamptz,
        resolved_at        timestamptz,
        closed_at          timestamptz,
        active_s           double precision NOT NULL DEFAULT 0,
        occurrences        bigint NOT NULL DEFAULT 0,
        version            integer NOT NULL DEFAULT 1,
        reopened           integer NOT NULL DEFAULT 0,
        comments           integer NOT NULL DEFAULT 0,
        internal_comments  integer NOT NULL DEFAULT 0,
        status             text NOT NULL CHECK (status IN ('open', 'in_progress', 'awaiting_info', 'resolved',
                                                           'closed', 'wont_fix', 'duplicate', 'reopened')),
        severity           text NOT NULL CHECK (severity IN ('critical', 'high', 'medium', 'low')),
        priority           text NOT NULL CHECK (priority IN ('urgent', 'high', 'medium', 'low')),
        category           text CHECK (category IN ('hardware', 'firmware', 'backend', 'frontend', 'sensor', 'quality',
                                                    'ml')),
        severity_rank      smallint NOT NULL GENERATED ALWAYS AS (CASE severity
                               WHEN 'critical' THEN 3 WHEN 'high' THEN 2 WHEN 'medium' THEN 1 ELSE 0 END) STORED,
        priority_rank      smallint NOT NULL GENERATED ALWAYS AS (CASE priority
                               WHEN 'urgent' THEN 3 WHEN 'high' THEN 2 WHEN 'medium' THEN 1 ELSE 0 END) STORED,
        origin             text NOT NULL DEFAULT 'report' CHECK (origin IN ('report', 'telemetry')),
        title              text NOT NULL,
        description        text NOT NULL,
        device_id          text,
        firmware_version   text,
        site_code          text,
        reported_by        text,
        reported_by_email  text,
        reporter_id        text NOT NULL,
        assigned_to        text,
        resolution         text,
        resolved_by        text,
        fixed_in_firmware  text,
        reproduction_steps text,
        tags               text[] NOT NULL DEFAULT '{}'
    ) WITH (fillfactor = 90)
    """,
    # What was said. An internal one leaves no trace on its bug but `internal_comments`.
    """
    CREATE TABLE IF NOT EXISTS bug_comments (
        id          uuid PRIMARY KEY,
        bug_id      uuid NOT NULL REFERENCES bugs (id),
        created_at  timestamptz NOT NULL,
        edited_at   timestamptz,
        is_internal boolean NOT NULL,
        author_id   text NOT NULL,
        author      text,
        body        text NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS bug_comment_versions (
        comment_id  uuid NOT NULL REFERENCES bug_comments (id),
        replaced_at timestamptz NOT NULL,
        replaced_by text NOT NULL,
        body        text NOT NULL,
        PRIMARY KEY (comment_id, replaced_at)
    )
    """,
    # What was done: append-only.
    """
    CREATE TABLE IF NOT EXISTS bug_events (
        id          uuid PRIMARY KEY,
        bug_id      uuid NOT NULL REFERENCES bugs (id),
        at          timestamptz NOT NULL,
        version     integer NOT NULL,
        is_internal boolean NOT NULL DEFAULT false,
        actor       text NOT NULL,
        kind        text NOT NULL,
        field       text,
        old         jsonb,
        new         jsonb
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS bug_attachments (
        id          uuid PRIMARY KEY,
        bug_id      uuid NOT NULL REFERENCES bugs (id),
        comment_id  uuid REFERENCES bug_comments (id),
        created_at  timestamptz NOT NULL,
        size_bytes  bigint NOT NULL,
        is_internal boolean NOT NULL,
        uploader_id text NOT NULL,
        file_name   text NOT NULL,
        media_type  text NOT NULL,
        object_key  text NOT NULL UNIQUE,
        sha256      bytea NOT NULL
    )
    """,
    # What a bug is about. `target` names a device, a firmware, a lot; a sample by its device, id and time; another bug
    # by `other_id`, with the relation as seen from `bug_id`.
    """
    CREATE TABLE IF NOT EXISTS bug_links (
        id          uuid PRIMARY KEY,
        bug_id      uuid NOT NULL REFERENCES bugs (id),
        other_id    uuid REFERENCES bugs (id),
        created_at  timestamptz NOT NULL,
        device_time timestamptz,
        kind        text NOT NULL CHECK (kind IN ('device', 'firmware', 'sample', 'lot', 'bug')),
        relation    text CHECK (relation IN ('blocks', 'duplicates', 'relates')),
        creator_id  text NOT NULL,
        target      text,
        device_id   text,
        sample      jsonb,
        frame       bytea
    )
    """,
    # Bugs from telemetry: what a rule does where it differs from the shipped one; the bug of each fingerprint; how much
    # of each alert is counted in it; the devices, lots and samples that it met.
    """
    CREATE TABLE IF NOT EXISTS bug_rules (
        rule       text PRIMARY KEY,
        enabled    boolean NOT NULL,
        group_by   text NOT NULL CHECK (group_by IN ('device', 'firmware')),
        severity   text NOT NULL,
        priority   text NOT NULL,
        updated_at timestamptz NOT NULL,
        updated_by text NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS bug_fingerprints (
        rule      text NOT NULL,
        subject   text NOT NULL,
        site_code text NOT NULL,
        bug_id    uuid NOT NULL REFERENCES bugs (id),
        first_at  timestamptz NOT NULL,
        last_at   timestamptz NOT NULL,
        PRIMARY KEY (rule, subject, site_code)
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS bug_alerts (
        alert_id uuid PRIMARY KEY,
        bug_id   uuid NOT NULL REFERENCES bugs (id),
        counted  bigint NOT NULL,
        last_at  timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS bug_affected (
        bug_id   uuid NOT NULL REFERENCES bugs (id),
        kind     text NOT NULL CHECK (kind IN ('device', 'firmware', 'lot', 'sample')),
        value    text NOT NULL,
        times    bigint NOT NULL,
        first_at timestamptz NOT NULL,
        last_at  timestamptz NOT NULL,
        PRIMARY KEY (bug_id, kind, value)
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS bug_webhooks (
        id               uuid PRIMARY KEY,
        created_at       timestamptz NOT NULL,
        enabled          boolean NOT NULL,
        include_internal boolean NOT NULL,
        creator_id       text NOT NULL,
        url              text NOT NULL,
        secret           text NOT NULL,
        events           text[] NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS bug_deliveries (
        id           uuid PRIMARY KEY,
        webhook_id   uuid NOT NULL REFERENCES bug_webhooks (id) ON DELETE CASCADE,
        created_at   timestamptz NOT NULL,
        next_at      timestamptz NOT NULL,
        delivered_at timestamptz,
        attempts     integer NOT NULL DEFAULT 0,
        last_status  integer,
        state        text NOT NULL CHECK (state IN ('waiting', 'delivered', 'dead')),
        kind         text NOT NULL,
        last_error   text,
        body         text NOT NULL
    )
    """,
    # What a request with an Idempotency-Key was answered, by who asked.
    """
    CREATE TABLE IF NOT EXISTS idempotency_keys (
        principal  text NOT NULL,
        key        text NOT NULL,
        created_at timestamptz NOT NULL,
        request    bytea NOT NULL,
        answer     text,
        PRIMARY KEY (principal, key)
    )
    """,
    # Figures that are kept up to date by triggers. `category` is '' where a bug has none; seconds from report to
    # resolution of those that are resolved.
    """
    CREATE TABLE IF NOT EXISTS bug_counts (
        status       text NOT NULL,
        severity     text NOT NULL,
        priority     text NOT NULL,
        category     text NOT NULL,
        bugs         bigint NOT NULL,
        resolved     bigint NOT NULL,
        resolution_s numeric NOT NULL,
        PRIMARY KEY (status, severity, priority, category)
    ) WITH (fillfactor = 50)
    """,
    # By quarters of an hour, in which days of all time zones begin: bugs created, bugs whose resolution is of then, and
    # by how many there were more that are neither resolved nor closed.
    """
    CREATE TABLE IF NOT EXISTS bug_flow (
        bucket   timestamptz PRIMARY KEY,
        created  bigint NOT NULL,
        resolved bigint NOT NULL,
        opened   bigint NOT NULL
    ) WITH (fillfactor = 50)
    """,
    # The words of a bug: for everybody; with internal comments too, where there are any. Titles weigh A, descriptions
    # B, comments C. The lexeme '#n' tells the shelf: 16,384 bugs in a row, of which the newest are looked through
    # first.
    """
    CREATE TABLE IF NOT EXISTS bug_search (
        number bigint PRIMARY KEY REFERENCES bugs (number),
        public tsvector NOT NULL,
        staff  tsvector
    )
    """,
)
# By what lists are narrowed and in what order they come; with what else they are narrowed by, so that what does not fit
# is passed over without a look at the bug itself.
_ALSO = "INCLUDE (status, severity, priority, category)"
INDEXES = (
    *(
        f"bugs_by_{name} ON bugs ({column}, created_at, number) {_ALSO} WHERE {column} IS NOT NULL"
        for name, column in (
            ("device", "device_id"),
            ("firmware", "firmware_version"),
            ("assignee", "assigned_to"),
            ("reporter", "reported_by"),
        )
    ),
    f"bugs_by_created ON bugs (created_at, number) {_ALSO}",
    f"bugs_by_updated ON bugs (updated_at, number) {_ALSO}",
    "bugs_by_severity ON bugs (severity_rank, number) INCLUDE (status, priority, category)",
    "bugs_by_priority ON bugs (priority_rank, number) INCLUDE (status, severity, category)",
    "bugs_by_state ON bugs (status, severity, created_at, number) INCLUDE (priority, category)",
    "bugs_by_resolved ON bugs (resolved_at, number) WHERE resolved_at IS NOT NULL",
    "bugs_by_tag ON bugs USING gin (tags)",
    "bug_comments_by_bug ON bug_comments (bug_id, created_at, id)",
    "bug_events_by_bug ON bug_events (bug_id, at, id)",
    "bug_attachments_by_bug ON bug_attachments (bug_id, created_at, id)",
    "bug_links_by_bug ON bug_links (bug_id, created_at, id)",
    "bug_links_by_other ON bug_links (other_id) WHERE other_id IS NOT NULL",
    "bug_links_by_target ON bug_links (kind, target, device_id) WHERE target IS NOT NULL",
    "bug_fingerprints_by_bug ON bug_fingerprints (bug_id)",
    "bug_deliveries_waiting ON bug_deliveries (next_at) WHERE state = 'waiting'",
    "bug_deliveries_by_webhook ON bug_deliveries (webhook_id, created_at, id)",
    "idempotency_keys_by_time ON idempotency_keys (created_at)",
    "bug_search_public ON bug_search USING gin (public)",
    "bug_search_staff ON bug_search USING gin (staff) WHERE staff IS NOT NULL",
)
LINKED_ONCE = """
    CREATE UNIQUE INDEX IF NOT EXISTS bug_links_once ON bug_links
    (bug_id, kind, coalesce(relation, ''), coalesce(other_id::text, target), coalesce(device_id, ''),
     coalesce(device_time, '-infinity'))
"""
UNSETTLED = "('open', 'in_progress', 'awaiting_info', 'reopened')"
QUARTER = "date_bin('15 minutes', {}, '2000-01-01 00:00:00+00')"


def _counted(trigger_rows: str) -> str:
    """SQL that adds rows (n, status, ...) to the counts, in the order of their keys: no two wait in a circle."""
    return f"""
        INSERT INTO bug_counts AS kept
        SELECT status, severity, priority, coalesce(category, ''), sum(n),
               coalesce(sum(n) FILTER (WHERE resolved_at IS NOT NULL), 0),
               coalesce(sum(n * extract(epoch FROM resolved_at - created_at)), 0)
        FROM ({trigger_rows}) AS moved GROUP BY 1, 2, 3, 4
        HAVING sum(n) <> 0 OR coalesce(sum(n) FILTER (WHERE resolved_at IS NOT NULL), 0) <> 0
            OR coalesce(sum(n * extract(epoch FROM resolved_at - created_at)), 0) <> 0
        ORDER BY 1, 2, 3, 4
        ON CONFLICT (status, severity, priority, category) DO UPDATE SET
            bugs = kept.bugs + excluded.bugs, resolved = kept.resolved + excluded.resolved,
            resolution_s = kept.resolution_s + excluded.resolution_s;
    """


def _flowed(moves: str) -> str:
    """SQL that adds (at, created, resolved, opened) to the flow, in the order of time."""
    return f"""
        INSERT INTO bug_flow AS kept
        SELECT {QUARTER.format("at")}, sum(created), sum(resolved), sum(opened) FROM ({moves}) AS moved
        WHERE at IS NOT NULL GROUP BY 1 HAVING sum(created) <> 0 OR sum(resolved) <> 0 OR sum(opened) <> 0 ORDER BY 1
        ON CONFLICT (bucket) DO UPDATE SET created = kept.created + excluded.created,
            resolved = kept.resolved + excluded.resolved, opened = kept.opened + excluded.opened;
    """


def _life(rows: str, sign: int) -> str:
    """What a bug that comes (or goes) as it is means to the flow."""
    return f"""
        SELECT created_at AS at, {sign} AS created, 0 AS resolved, {sign} AS opened FROM {rows}
        UNION ALL SELECT resolved_at, 0, {sign}, 0 FROM {rows}
        UNION ALL SELECT status_changed_at, 0, 0, {-sign} FROM {rows} WHERE status NOT IN {UNSETTLED}
    """


_KEYS = "status, severity, priority, category, resolved_at, created_at"
FUNCTIONS = (
    # Accents folded away, ligatures spelled out: what is searched meets what was written.
    """
    CREATE OR REPLACE FUNCTION bug_fold(said text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
        SELECT lower(regexp_replace(
            normalize(replace(replace(replace(replace(said, 'œ', 'oe'), 'Œ', 'OE'), 'æ', 'ae'), 'Æ', 'AE'), NFKD),
            '[\\u0300-\\u036f]', '', 'g'))
    $$
    """,
    # French and English at once. A text with more different words than a tsvector holds counts by its beginning.
    """
    CREATE OR REPLACE FUNCTION bug_words(said text, weight "char") RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
    DECLARE
        folded text := bug_fold(said);
    BEGIN
        RETURN setweight(to_tsvector('french'::regconfig, folded) || to_tsvector('english'::regconfig, folded), weight);
    EXCEPTION WHEN program_limit_exceeded THEN
        folded := left(folded, 20000);
        RETURN setweight(to_tsvector('french'::regconfig, folded) || to_tsvector('english'::regconfig, folded), weight);
    END
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION bug_words_joined(words tsvector, more tsvector) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
    BEGIN
        RETURN words || more;
    EXCEPTION WHEN program_limit_exceeded THEN
        RETURN words;
    END
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION bug_document(wanted bigint, with_internal boolean) RETURNS tsvector
    LANGUAGE sql STABLE AS $$
        SELECT bug_words_joined(
            bug_words(title, 'A') || bug_words(description, 'B') || array_to_tsvector(ARRAY['#' || (number >> 14)]),
            (SELECT bug_words(coalesce(left(string_agg(body, E'\\n' ORDER BY created_at DESC, id), 200000), ''), 'C')
             FROM bug_comments WHERE bug_id = bugs.id AND (with_internal OR NOT is_internal))
        ) FROM bugs WHERE number = wanted
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION bug_described() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO bug_search (number, public) VALUES (NEW.number, bug_document(NEW.number, false));
        ELSE
            UPDATE bug_search SET public = bug_document(NEW.number, false),
                staff = CASE WHEN staff IS NOT NULL THEN bug_document(NEW.number, true) END WHERE number = NEW.number;
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION bug_commented() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        of_bug bigint := (SELECT number FROM bugs WHERE id = NEW.bug_id);
        said tsvector;
    BEGIN
        IF TG_OP = 'INSERT' THEN
            said := bug_words(NEW.body, 'C');
            UPDATE bug_search SET
                public = CASE WHEN NEW.is_internal THEN public ELSE bug_words_joined(public, said) END,
                staff = CASE WHEN NEW.is_internal OR staff IS NOT NULL
                             THEN bug_words_joined(coalesce(staff, public), said) END
            WHERE number = of_bug;
        ELSE
            UPDATE bug_search SET
                public = CASE WHEN NEW.is_internal THEN public ELSE bug_document(of_bug, false) END,
                staff = CASE WHEN NEW.is_internal OR staff IS NOT NULL THEN bug_document(of_bug, true) END
            WHERE number = of_bug;
        END IF;
        RETURN NULL;
    END
    $$
    """,
    f"""
    CREATE OR REPLACE FUNCTION bugs_counted() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            {_counted(f"SELECT 1 AS n, {_KEYS} FROM new_bugs")}
            {_flowed(_life("new_bugs", 1))}
        ELSIF TG_OP = 'DELETE' THEN
            {_counted(f"SELECT -1 AS n, {_KEYS} FROM old_bugs")}
            {_flowed(_life("old_bugs", -1))}
        ELSE
            {_counted(f"SELECT 1 AS n, {_KEYS} FROM new_bugs UNION ALL SELECT -1, {_KEYS} FROM old_bugs")}
            {
        _flowed(f'''
                SELECT status_changed_at AS at, 0 AS created, 0 AS resolved,
                       CASE WHEN status IN {UNSETTLED} THEN 1 ELSE 0 END
                       - CASE WHEN was IN {UNSETTLED} THEN 1 ELSE 0 END AS opened
                FROM (SELECT new_bugs.status_changed_at, new_bugs.status, old_bugs.status AS was
                      FROM new_bugs JOIN old_bugs USING (number)) AS changed
                UNION ALL SELECT resolved_at, 0, 1, 0 FROM new_bugs
                UNION ALL SELECT resolved_at, 0, -1, 0 FROM old_bugs
            ''')
    }
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION bug_history_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the history of bugs is only added to' USING ERRCODE = 'insufficient_privilege';
    END
    $$
    """,
)
# Name, when, for each row or statement what is done.
TRIGGERS = (
    ("bugs_described_first", "AFTER INSERT ON bugs FOR EACH ROW", "bug_described"),
    (
        "bugs_described",
        "AFTER UPDATE ON bugs FOR EACH ROW WHEN (OLD.title <> NEW.title OR OLD.description <> NEW.description)",
        "bug_described",
    ),
    ("bug_comments_searched", "AFTER INSERT OR UPDATE OF body ON bug_comments FOR EACH ROW", "bug_commented"),
    ("bugs_inserted", "AFTER INSERT ON bugs REFERENCING NEW TABLE AS new_bugs FOR EACH STATEMENT", "bugs_counted"),
    (
        "bugs_updated",
        "AFTER UPDATE ON bugs REFERENCING OLD TABLE AS old_bugs NEW TABLE AS new_bugs FOR EACH STATEMENT",
        "bugs_counted",
    ),
    ("bugs_deleted", "AFTER DELETE ON bugs REFERENCING OLD TABLE AS old_bugs FOR EACH STATEMENT", "bugs_counted"),
    ("bug_events_kept", "BEFORE UPDATE OR DELETE ON bug_events FOR EACH ROW", "bug_history_is_kept"),
)
# Titles that are nearly alike, where the database has pg_trgm and lets us use it (app/bugs/search.py asks for it).
TRIGRAMS = """
    DO $$
    BEGIN
        IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm') THEN
            CREATE EXTENSION IF NOT EXISTS pg_trgm;
            CREATE INDEX IF NOT EXISTS bugs_by_title_trigrams ON bugs USING gin (bug_fold(title) gin_trgm_ops);
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE NOTICE 'pg_trgm may not be created: similar bugs are found by their words alone';
    END
    $$
"""
STATEMENTS = (
    *TABLES,
    *(f"CREATE INDEX IF NOT EXISTS {index}" for index in INDEXES),
    LINKED_ONCE,
    *FUNCTIONS,
    *(f"CREATE OR REPLACE TRIGGER {name} {when} EXECUTE FUNCTION {what}()" for name, when, what in TRIGGERS),
    TRIGRAMS,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement.replace(":", "\\:"))
