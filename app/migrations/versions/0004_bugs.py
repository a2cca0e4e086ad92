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
    # of each alert is counted in it (in none what was raised while its rule was off); the devices, lots and samples
    # that it met.
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
        bug_id   uuid REFERENCES bugs (id),
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
        is_internal  boolean NOT NULL DEFAULT false,
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
    # The words of a bug: of its title; for everybody; with internal comments too, where there are any. Titles weigh A,
    # descriptions B, comments C. The lexeme '#n' tells the shelf: 16,384 bugs in a row, of which the newest are looked
    # through first; '=status:open' and the like what it can be narrowed by beside words, in the same scan.
    """
    CREATE TABLE IF NOT EXISTS bug_search (
        number     bigint PRIMARY KEY REFERENCES bugs (number),
        created_at timestamptz NOT NULL,
        title      tsvector NOT NULL,
        public     tsvector NOT NULL,
        staff      tsvector
    )
    """,
    # Between which times the bugs of a shelf were created: which shelves a page may come from.
    """
    CREATE TABLE IF NOT EXISTS bug_shelves (
        shelf    bigint PRIMARY KEY,
        first_at timestamptz NOT NULL,
        last_at  timestamptz NOT NULL
    ) WITH (fillfactor = 50)
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
    "bug_comments_by_bug ON bug_comments (bug_id, created_at, id)",
    "bug_events_by_bug ON bug_events (bug_id, at, id)",
    "bug_attachments_by_bug ON bug_attachments (bug_id, created_at, id)",
    "bug_links_by_bug ON bug_links (bug_id, created_at, id)",
    "bug_links_by_other ON bug_links (other_id) WHERE other_id IS NOT NULL",
    "bug_links_by_target ON bug_links (kind, target, device_id) WHERE target IS NOT NULL",
    "bug_links_by_device ON bug_links (device_id, created_at) WHERE device_id IS NOT NULL",
    "bug_fingerprints_by_bug ON bug_fingerprints (bug_id)",
    "bug_affected_by_value ON bug_affected (kind, value)",
    "bug_deliveries_waiting ON bug_deliveries (next_at) WHERE state = 'waiting'",
    "bug_deliveries_internal ON bug_deliveries (next_at) WHERE state = 'waiting' AND is_internal",
    "bug_deliveries_by_webhook ON bug_deliveries (webhook_id, created_at, id)",
    "idempotency_keys_by_time ON idempotency_keys (created_at)",
    # Without a list of what is to be indexed later, which every search would have to read.
    "bug_search_title ON bug_search USING gin (title) WITH (fastupdate = off)",
    "bug_search_public ON bug_search USING gin (public) WITH (fastupdate = off)",
    "bug_search_staff ON bug_search USING gin (staff) WITH (fastupdate = off) WHERE staff IS NOT NULL",
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
        UNION ALL SELECT coalesce(resolved_at, status_changed_at), 0, 0, {-sign} FROM {rows}
                  WHERE status NOT IN {UNSETTLED}
    """


SHELVED = """
    INSERT INTO bug_shelves AS kept SELECT number >> 14, min(created_at), max(created_at) FROM {} GROUP BY 1 ORDER BY 1
    ON CONFLICT (shelf) DO UPDATE SET
        first_at = least(kept.first_at, excluded.first_at), last_at = greatest(kept.last_at, excluded.last_at)
    WHERE kept.first_at > excluded.first_at OR kept.last_at < excluded.last_at;
"""
# A word that means nothing in one of the languages is none in the other either.
LANGUAGES = tuple(
    f"""
    DO $$
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_ts_dict WHERE dictname = 'bug_stop_{other}' AND pg_ts_dict_is_visible(oid)) THEN
            CREATE TEXT SEARCH DICTIONARY bug_stop_{other} (TEMPLATE = simple, STOPWORDS = {other}, ACCEPT = false);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_ts_config WHERE cfgname = 'bug_{name}' AND pg_ts_config_is_visible(oid)) THEN
            CREATE TEXT SEARCH CONFIGURATION bug_{name} (COPY = {name});
            ALTER TEXT SEARCH CONFIGURATION bug_{name}
                ALTER MAPPING FOR asciiword, asciihword, hword_asciipart, word, hword, hword_part
                WITH bug_stop_{other}, {name}_stem;
        END IF;
    END
    $$
    """
    for name, other in (("french", "english"), ("english", "french"))
)
_KEYS = "status, severity, priority, category, resolved_at, created_at"
FUNCTIONS = (
    # Accents folded away, ligatures spelled out: what is searched meets what was written. Marks beyond ASCII are
    # spaces, since a database of the C locale takes them for letters.
    """
    CREATE OR REPLACE FUNCTION bug_fold(said text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
        SELECT CASE WHEN octet_length(said) = length(said) THEN lower(said) ELSE
            lower(regexp_replace(regexp_replace(
                normalize(replace(replace(replace(replace(said, 'œ', 'oe'), 'Œ', 'OE'), 'æ', 'ae'), 'Æ', 'AE'), NFKD),
                '[\\u0300-\\u036f]', '', 'g'), '[\\u0080-\\u00bf\\u2000-\\u206f\\u3000-\\u303f]', ' ', 'g'))
        END
    $$
    """,
    # A name with underscores (ESP32_LL_01) is one word; a slash parts words.
    """
    CREATE OR REPLACE FUNCTION bug_text(said text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
    DECLARE
        folded text := translate(bug_fold(said), '/', ' ');
    BEGIN
        IF strpos(folded, '_') = 0 THEN
            RETURN folded;
        END IF;
        RETURN regexp_replace(folded, '(?<=[a-z0-9])_+(?=[a-z0-9])', '', 'g');
    END
    $$
    """,
    # French and English at once; of a name with underscores the parts too. A text with more different words than a
    # tsvector holds counts by its beginning.
    """
    CREATE OR REPLACE FUNCTION bug_words(said text, weight "char") RETURNS tsvector LANGUAGE plpgsql IMMUTABLE AS $$
    DECLARE
        folded text := bug_text(said);
        parts text := '';
    BEGIN
        IF strpos(said, '_') > 0 THEN
            parts := (SELECT coalesce(string_agg(DISTINCT replace(name[1], '_', ' '), ' '), '')
                      FROM regexp_matches(bug_fold(said), '([a-z0-9]+(?:_+[a-z0-9]+)+)', 'g') AS name);
        END IF;
        RETURN setweight(to_tsvector('bug_french'::regconfig, folded) || to_tsvector('bug_english'::regconfig, folded)
                         || to_tsvector('simple'::regconfig, parts), weight);
    EXCEPTION WHEN program_limit_exceeded THEN
        folded := left(folded, 20000);
        RETURN setweight(to_tsvector('bug_french'::regconfig, folded) || to_tsvector('bug_english'::regconfig, folded),
                         weight);
    END
    $$
    """,
    # What somebody searches: words, "phrases", or, -not; in both languages where they differ. Stop words of either are
    # none. Never an error; empty where there is no word in it.
    """
    CREATE OR REPLACE FUNCTION bug_query(said text) RETURNS tsquery LANGUAGE plpgsql IMMUTABLE STRICT AS $$
    DECLARE
        folded text := bug_text(translate(said, '“”„«»', repeat('"', 5)));
        french tsquery;
        english tsquery;
    BEGIN
        french := websearch_to_tsquery('bug_french'::regconfig, folded);
        english := websearch_to_tsquery('bug_english'::regconfig, folded);
        RETURN CASE WHEN french = english THEN french ELSE french || english END;
    EXCEPTION
        WHEN internal_error THEN  -- dozens of "not" in a row
            RETURN plainto_tsquery('bug_french'::regconfig, folded);
        WHEN program_limit_exceeded THEN
            RETURN ''::tsquery;
    END
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION bug_words_joined(words tsvector, more tsvector) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        RETURN words || more;
    EXCEPTION WHEN program_limit_exceeded THEN
        RETURN words;
    END
    $$
    """,
    # What a bug can be narrowed by beside words, as lexemes that no text has.
    """
    CREATE OR REPLACE FUNCTION bug_facets(bug bugs) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
        SELECT array_remove(ARRAY[
            '=status:' || bug.status, '=severity:' || bug.severity, '=priority:' || bug.priority,
            '=category:' || bug.category, '=device:' || bug.device_id, '=firmware:' || bug.firmware_version,
            '=site:' || bug.site_code, '=assignee:' || bug.assigned_to, '=reporter:' || bug.reported_by,
            '=origin:' || bug.origin, CASE WHEN bug.assigned_to IS NULL THEN '=unassigned' END
        ], NULL) || ARRAY(SELECT '=tag:' || tag FROM unnest(bug.tags) AS tag)
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION bug_titled(bug bugs) RETURNS tsvector LANGUAGE sql IMMUTABLE AS $$
        SELECT strip(bug_words(bug.title, 'A')) || array_to_tsvector(ARRAY['#' || (bug.number >> 14)])
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION bug_document(bug bugs, with_internal boolean) RETURNS tsvector
    LANGUAGE sql STABLE AS $$
        SELECT bug_words_joined(
            array_to_tsvector(bug_facets(bug) || ('#' || (bug.number >> 14)))
            || bug_words(bug.title, 'A') || bug_words(bug.description, 'B'),
            bug_words((SELECT coalesce(left(string_agg(body, E'\\n' ORDER BY created_at DESC, id), 200000), '')
                       FROM bug_comments WHERE bug_id = bug.id AND (with_internal OR NOT is_internal)), 'C'))
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION bug_described() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO bug_search (number, created_at, title, public)
            VALUES (NEW.number, NEW.created_at, bug_titled(NEW), bug_document(NEW, false));
        ELSIF OLD.title <> NEW.title OR OLD.description <> NEW.description THEN
            UPDATE bug_search SET title = bug_titled(NEW), public = bug_document(NEW, false),
                staff = CASE WHEN staff IS NOT NULL THEN bug_document(NEW, true) END WHERE number = NEW.number;
        ELSE
            UPDATE bug_search SET
                public = bug_words_joined(array_to_tsvector(bug_facets(NEW)), ts_delete(public, bug_facets(OLD))),
                staff = CASE WHEN staff IS NOT NULL THEN
                    bug_words_joined(array_to_tsvector(bug_facets(NEW)), ts_delete(staff, bug_facets(OLD))) END
            WHERE number = NEW.number;
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE OR REPLACE FUNCTION bug_commented() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        bug bugs := (SELECT bugs FROM bugs WHERE id = NEW.bug_id);
        said tsvector;
    BEGIN
        IF TG_OP = 'INSERT' THEN
            said := bug_words(NEW.body, 'C');
            UPDATE bug_search SET
                public = CASE WHEN NEW.is_internal THEN public ELSE bug_words_joined(public, said) END,
                staff = CASE WHEN NEW.is_internal OR staff IS NOT NULL
                             THEN bug_words_joined(coalesce(staff, public), said) END
            WHERE number = bug.number;
        ELSE
            UPDATE bug_search SET
                public = CASE WHEN NEW.is_internal THEN public ELSE bug_document(bug, false) END,
                staff = CASE WHEN NEW.is_internal OR staff IS NOT NULL THEN bug_document(bug, true) END
            WHERE number = bug.number;
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
            {SHELVED.format("new_bugs")}
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
_SEARCHED = (
    "title", "description", "status", "severity", "priority", "category", "device_id", "firmware_version", "site_code",
    "assigned_to", "reported_by", "origin", "tags",
)  # fmt: skip


def _searched(row: str) -> str:
    return f"({', '.join(f'{row}.{name}' for name in _SEARCHED)})"


# Name, when, for each row or statement what is done.
TRIGGERS = (
    ("bugs_described_first", "AFTER INSERT ON bugs FOR EACH ROW", "bug_described"),
    (
        "bugs_described",
        f"AFTER UPDATE ON bugs FOR EACH ROW WHEN ({_searched('OLD')} IS DISTINCT FROM {_searched('NEW')})",
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
    ("bug_events_not_emptied", "BEFORE TRUNCATE ON bug_events FOR EACH STATEMENT", "bug_history_is_kept"),
)
# How alike two titles are, where the database has pg_trgm and lets us use it (app/bugs/similar.py).
TRIGRAMS = """
    DO $$
    BEGIN
        IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm') THEN
            CREATE EXTENSION IF NOT EXISTS pg_trgm;
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE NOTICE 'pg_trgm may not be created: similar bugs are found by their words alone';
    END
    $$
"""
# The feature next door's: which alerts were cleared lately. One on `last_at` would do too, but an open alert changes
# that with every group of readings, and its new versions would no longer stay off the indexes.
ALERTS_CLEARED = "CREATE INDEX IF NOT EXISTS alerts_by_clearing ON alerts (cleared_at) WHERE cleared_at IS NOT NULL"
STATEMENTS = (
    *TABLES,
    *(f"CREATE INDEX IF NOT EXISTS {index}" for index in INDEXES),
    LINKED_ONCE,
    *LANGUAGES,
    *FUNCTIONS,
    *(f"CREATE OR REPLACE TRIGGER {name} {when} EXECUTE FUNCTION {what}()" for name, when, what in TRIGGERS),
    TRIGRAMS,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement.replace(":", "\\:"))
    op.execute(ALERTS_CLEARED)
