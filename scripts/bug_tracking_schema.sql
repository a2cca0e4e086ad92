-- The bug tracker's tables, indexes, functions and triggers, for PostgreSQL 14 or later:
--
--     psql -X -d DATABASE -f scripts/bug_tracking_schema.sql
--
-- Nobody has to run it: the service brings its schema up to date at start, and so does `gaveurs migrate`. It is for who
-- wants to read the schema, or to make it with rights that the service does not have. It applies to an empty database,
-- before or after the migrations, and may be run again; all of it is done, or nothing.
--
-- Made by `python -m scripts.bug_schema` from the migration: change that one.
\set ON_ERROR_STOP on
\encoding UTF8
BEGIN;

-- Not while a replica migrates.
DO $$ BEGIN PERFORM pg_advisory_xact_lock(113668295849330); END $$;

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
) WITH (fillfactor = 90);

CREATE TABLE IF NOT EXISTS bug_comments (
    id          uuid PRIMARY KEY,
    bug_id      uuid NOT NULL REFERENCES bugs (id),
    created_at  timestamptz NOT NULL,
    edited_at   timestamptz,
    is_internal boolean NOT NULL,
    author_id   text NOT NULL,
    author      text,
    body        text NOT NULL
);

CREATE TABLE IF NOT EXISTS bug_comment_versions (
    comment_id  uuid NOT NULL REFERENCES bug_comments (id),
    replaced_at timestamptz NOT NULL,
    replaced_by text NOT NULL,
    body        text NOT NULL,
    PRIMARY KEY (comment_id, replaced_at)
);

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
);

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
);

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
);

CREATE TABLE IF NOT EXISTS bug_rules (
    rule       text PRIMARY KEY,
    enabled    boolean NOT NULL,
    group_by   text NOT NULL CHECK (group_by IN ('device', 'firmware')),
    severity   text NOT NULL,
    priority   text NOT NULL,
    updated_at timestamptz NOT NULL,
    updated_by text NOT NULL
);

CREATE TABLE IF NOT EXISTS bug_fingerprints (
    rule      text NOT NULL,
    subject   text NOT NULL,
    site_code text NOT NULL,
    bug_id    uuid NOT NULL REFERENCES bugs (id),
    first_at  timestamptz NOT NULL,
    last_at   timestamptz NOT NULL,
    PRIMARY KEY (rule, subject, site_code)
);

CREATE TABLE IF NOT EXISTS bug_alerts (
    alert_id uuid PRIMARY KEY,
    bug_id   uuid REFERENCES bugs (id),
    counted  bigint NOT NULL,
    last_at  timestamptz NOT NULL
);

CREATE TABLE IF NOT EXISTS bug_affected (
    bug_id   uuid NOT NULL REFERENCES bugs (id),
    kind     text NOT NULL CHECK (kind IN ('device', 'firmware', 'lot', 'sample')),
    value    text NOT NULL,
    times    bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at  timestamptz NOT NULL,
    PRIMARY KEY (bug_id, kind, value)
);

CREATE TABLE IF NOT EXISTS bug_webhooks (
    id               uuid PRIMARY KEY,
    created_at       timestamptz NOT NULL,
    enabled          boolean NOT NULL,
    include_internal boolean NOT NULL,
    creator_id       text NOT NULL,
    url              text NOT NULL,
    secret           text NOT NULL,
    events           text[] NOT NULL
);

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
);

CREATE TABLE IF NOT EXISTS idempotency_keys (
    principal  text NOT NULL,
    key        text NOT NULL,
    created_at timestamptz NOT NULL,
    request    bytea NOT NULL,
    answer     text,
    PRIMARY KEY (principal, key)
);

CREATE TABLE IF NOT EXISTS bug_counts (
    status       text NOT NULL,
    severity     text NOT NULL,
    priority     text NOT NULL,
    category     text NOT NULL,
    bugs         bigint NOT NULL,
    resolved     bigint NOT NULL,
    resolution_s numeric NOT NULL,
    PRIMARY KEY (status, severity, priority, category)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS bug_flow (
    bucket   timestamptz PRIMARY KEY,
    created  bigint NOT NULL,
    resolved bigint NOT NULL,
    opened   bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS bug_search (
    number     bigint PRIMARY KEY REFERENCES bugs (number),
    created_at timestamptz NOT NULL,
    title      tsvector NOT NULL,
    public     tsvector NOT NULL,
    staff      tsvector
);

CREATE TABLE IF NOT EXISTS bug_shelves (
    shelf    bigint PRIMARY KEY,
    first_at timestamptz NOT NULL,
    last_at  timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE INDEX IF NOT EXISTS bugs_by_device ON bugs (device_id, created_at, number) INCLUDE (status, severity, priority, category) WHERE device_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS bugs_by_firmware ON bugs (firmware_version, created_at, number) INCLUDE (status, severity, priority, category) WHERE firmware_version IS NOT NULL;

CREATE INDEX IF NOT EXISTS bugs_by_assignee ON bugs (assigned_to, created_at, number) INCLUDE (status, severity, priority, category) WHERE assigned_to IS NOT NULL;

CREATE INDEX IF NOT EXISTS bugs_by_reporter ON bugs (reported_by, created_at, number) INCLUDE (status, severity, priority, category) WHERE reported_by IS NOT NULL;

CREATE INDEX IF NOT EXISTS bugs_by_created ON bugs (created_at, number) INCLUDE (status, severity, priority, category);

CREATE INDEX IF NOT EXISTS bugs_by_updated ON bugs (updated_at, number) INCLUDE (status, severity, priority, category);

CREATE INDEX IF NOT EXISTS bugs_by_severity ON bugs (severity_rank, number) INCLUDE (status, priority, category);

CREATE INDEX IF NOT EXISTS bugs_by_priority ON bugs (priority_rank, number) INCLUDE (status, severity, category);

CREATE INDEX IF NOT EXISTS bugs_by_state ON bugs (status, severity, created_at, number) INCLUDE (priority, category);

CREATE INDEX IF NOT EXISTS bug_comments_by_bug ON bug_comments (bug_id, created_at, id);

CREATE INDEX IF NOT EXISTS bug_events_by_bug ON bug_events (bug_id, at, id);

CREATE INDEX IF NOT EXISTS bug_attachments_by_bug ON bug_attachments (bug_id, created_at, id);

CREATE INDEX IF NOT EXISTS bug_links_by_bug ON bug_links (bug_id, created_at, id);

CREATE INDEX IF NOT EXISTS bug_links_by_other ON bug_links (other_id) WHERE other_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS bug_links_by_target ON bug_links (kind, target, device_id) WHERE target IS NOT NULL;

CREATE INDEX IF NOT EXISTS bug_links_by_device ON bug_links (device_id, created_at) WHERE device_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS bug_fingerprints_by_bug ON bug_fingerprints (bug_id);

CREATE INDEX IF NOT EXISTS bug_affected_by_value ON bug_affected (kind, value);

CREATE INDEX IF NOT EXISTS bug_deliveries_waiting ON bug_deliveries (next_at) WHERE state = 'waiting';

CREATE INDEX IF NOT EXISTS bug_deliveries_internal ON bug_deliveries (next_at) WHERE state = 'waiting' AND is_internal;

CREATE INDEX IF NOT EXISTS bug_deliveries_by_webhook ON bug_deliveries (webhook_id, created_at, id);

CREATE INDEX IF NOT EXISTS idempotency_keys_by_time ON idempotency_keys (created_at);

CREATE INDEX IF NOT EXISTS bug_search_title ON bug_search USING gin (title) WITH (fastupdate = off);

CREATE INDEX IF NOT EXISTS bug_search_public ON bug_search USING gin (public) WITH (fastupdate = off);

CREATE INDEX IF NOT EXISTS bug_search_staff ON bug_search USING gin (staff) WITH (fastupdate = off) WHERE staff IS NOT NULL;

CREATE UNIQUE INDEX IF NOT EXISTS bug_links_once ON bug_links
(bug_id, kind, coalesce(relation, ''), coalesce(other_id::text, target), coalesce(device_id, ''),
 coalesce(device_time, '-infinity'));

DO $$
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_ts_dict WHERE dictname = 'bug_stop_english' AND pg_ts_dict_is_visible(oid)) THEN
            CREATE TEXT SEARCH DICTIONARY bug_stop_english (TEMPLATE = simple, STOPWORDS = english, ACCEPT = false);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_ts_config WHERE cfgname = 'bug_french' AND pg_ts_config_is_visible(oid)) THEN
            CREATE TEXT SEARCH CONFIGURATION bug_french (COPY = french);
            ALTER TEXT SEARCH CONFIGURATION bug_french
                ALTER MAPPING FOR asciiword, asciihword, hword_asciipart, word, hword, hword_part
                WITH bug_stop_english, french_stem;
        END IF;
    END
    $$;

DO $$
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_ts_dict WHERE dictname = 'bug_stop_french' AND pg_ts_dict_is_visible(oid)) THEN
            CREATE TEXT SEARCH DICTIONARY bug_stop_french (TEMPLATE = simple, STOPWORDS = french, ACCEPT = false);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_ts_config WHERE cfgname = 'bug_english' AND pg_ts_config_is_visible(oid)) THEN
            CREATE TEXT SEARCH CONFIGURATION bug_english (COPY = english);
            ALTER TEXT SEARCH CONFIGURATION bug_english
                ALTER MAPPING FOR asciiword, asciihword, hword_asciipart, word, hword, hword_part
                WITH bug_stop_french, english_stem;
        END IF;
    END
    $$;

CREATE OR REPLACE FUNCTION bug_fold(said text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT AS $$
        SELECT CASE WHEN octet_length(said) = length(said) THEN lower(said) ELSE
            lower(regexp_replace(regexp_replace(
                normalize(replace(replace(replace(replace(said, 'œ', 'oe'), 'Œ', 'OE'), 'æ', 'ae'), 'Æ', 'AE'), NFKD),
                '[\u0300-\u036f]', '', 'g'), '[\u0080-\u00bf\u2000-\u206f\u3000-\u303f]', ' ', 'g'))
        END
    $$;

CREATE OR REPLACE FUNCTION bug_text(said text) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
    DECLARE
        folded text := translate(bug_fold(said), '/', ' ');
    BEGIN
        IF strpos(folded, '_') = 0 THEN
            RETURN folded;
        END IF;
        RETURN regexp_replace(folded, '(?<=[a-z0-9])_+(?=[a-z0-9])', '', 'g');
    END
    $$;

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
    $$;

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
    $$;

CREATE OR REPLACE FUNCTION bug_words_joined(words tsvector, more tsvector) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        RETURN words || more;
    EXCEPTION WHEN program_limit_exceeded THEN
        RETURN words;
    END
    $$;

CREATE OR REPLACE FUNCTION bug_facets(bug bugs) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
        SELECT array_remove(ARRAY[
            '=status:' || bug.status, '=severity:' || bug.severity, '=priority:' || bug.priority,
            '=category:' || bug.category, '=device:' || bug.device_id, '=firmware:' || bug.firmware_version,
            '=site:' || bug.site_code, '=assignee:' || bug.assigned_to, '=reporter:' || bug.reported_by,
            '=origin:' || bug.origin, CASE WHEN bug.assigned_to IS NULL THEN '=unassigned' END
        ], NULL) || ARRAY(SELECT '=tag:' || tag FROM unnest(bug.tags) AS tag)
    $$;

CREATE OR REPLACE FUNCTION bug_titled(bug bugs) RETURNS tsvector LANGUAGE sql IMMUTABLE AS $$
        SELECT strip(bug_words(bug.title, 'A')) || array_to_tsvector(ARRAY['#' || (bug.number >> 14)])
    $$;

CREATE OR REPLACE FUNCTION bug_document(bug bugs, with_internal boolean) RETURNS tsvector
    LANGUAGE sql STABLE AS $$
        SELECT bug_words_joined(
            array_to_tsvector(bug_facets(bug) || ('#' || (bug.number >> 14)))
            || bug_words(bug.title, 'A') || bug_words(bug.description, 'B'),
            bug_words((SELECT coalesce(left(string_agg(body, E'\n' ORDER BY created_at DESC, id), 200000), '')
                       FROM bug_comments WHERE bug_id = bug.id AND (with_internal OR NOT is_internal)), 'C'))
    $$;

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
    $$;

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
    $$;

CREATE OR REPLACE FUNCTION bugs_counted() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            
        INSERT INTO bug_counts AS kept
        SELECT status, severity, priority, coalesce(category, ''), sum(n),
               coalesce(sum(n) FILTER (WHERE resolved_at IS NOT NULL), 0),
               coalesce(sum(n * extract(epoch FROM resolved_at - created_at)), 0)
        FROM (SELECT 1 AS n, status, severity, priority, category, resolved_at, created_at FROM new_bugs) AS moved GROUP BY 1, 2, 3, 4
        HAVING sum(n) <> 0 OR coalesce(sum(n) FILTER (WHERE resolved_at IS NOT NULL), 0) <> 0
            OR coalesce(sum(n * extract(epoch FROM resolved_at - created_at)), 0) <> 0
        ORDER BY 1, 2, 3, 4
        ON CONFLICT (status, severity, priority, category) DO UPDATE SET
            bugs = kept.bugs + excluded.bugs, resolved = kept.resolved + excluded.resolved,
            resolution_s = kept.resolution_s + excluded.resolution_s;
    
            
        INSERT INTO bug_flow AS kept
        SELECT date_bin('15 minutes', at, '2000-01-01 00:00:00+00'), sum(created), sum(resolved), sum(opened) FROM (
        SELECT created_at AS at, 1 AS created, 0 AS resolved, 1 AS opened FROM new_bugs
        UNION ALL SELECT resolved_at, 0, 1, 0 FROM new_bugs
        UNION ALL SELECT coalesce(resolved_at, status_changed_at), 0, 0, -1 FROM new_bugs
                  WHERE status NOT IN ('open', 'in_progress', 'awaiting_info', 'reopened')
    ) AS moved
        WHERE at IS NOT NULL GROUP BY 1 HAVING sum(created) <> 0 OR sum(resolved) <> 0 OR sum(opened) <> 0 ORDER BY 1
        ON CONFLICT (bucket) DO UPDATE SET created = kept.created + excluded.created,
            resolved = kept.resolved + excluded.resolved, opened = kept.opened + excluded.opened;
    
            
    INSERT INTO bug_shelves AS kept SELECT number >> 14, min(created_at), max(created_at) FROM new_bugs GROUP BY 1 ORDER BY 1
    ON CONFLICT (shelf) DO UPDATE SET
        first_at = least(kept.first_at, excluded.first_at), last_at = greatest(kept.last_at, excluded.last_at)
    WHERE kept.first_at > excluded.first_at OR kept.last_at < excluded.last_at;

        ELSIF TG_OP = 'DELETE' THEN
            
        INSERT INTO bug_counts AS kept
        SELECT status, severity, priority, coalesce(category, ''), sum(n),
               coalesce(sum(n) FILTER (WHERE resolved_at IS NOT NULL), 0),
               coalesce(sum(n * extract(epoch FROM resolved_at - created_at)), 0)
        FROM (SELECT -1 AS n, status, severity, priority, category, resolved_at, created_at FROM old_bugs) AS moved GROUP BY 1, 2, 3, 4
        HAVING sum(n) <> 0 OR coalesce(sum(n) FILTER (WHERE resolved_at IS NOT NULL), 0) <> 0
            OR coalesce(sum(n * extract(epoch FROM resolved_at - created_at)), 0) <> 0
        ORDER BY 1, 2, 3, 4
        ON CONFLICT (status, severity, priority, category) DO UPDATE SET
            bugs = kept.bugs + excluded.bugs, resolved = kept.resolved + excluded.resolved,
            resolution_s = kept.resolution_s + excluded.resolution_s;
    
            
        INSERT INTO bug_flow AS kept
        SELECT date_bin('15 minutes', at, '2000-01-01 00:00:00+00'), sum(created), sum(resolved), sum(opened) FROM (
        SELECT created_at AS at, -1 AS created, 0 AS resolved, -1 AS opened FROM old_bugs
        UNION ALL SELECT resolved_at, 0, -1, 0 FROM old_bugs
        UNION ALL SELECT coalesce(resolved_at, status_changed_at), 0, 0, 1 FROM old_bugs
                  WHERE status NOT IN ('open', 'in_progress', 'awaiting_info', 'reopened')
    ) AS moved
        WHERE at IS NOT NULL GROUP BY 1 HAVING sum(created) <> 0 OR sum(resolved) <> 0 OR sum(opened) <> 0 ORDER BY 1
        ON CONFLICT (bucket) DO UPDATE SET created = kept.created + excluded.created,
            resolved = kept.resolved + excluded.resolved, opened = kept.opened + excluded.opened;
    
        ELSE
            
        INSERT INTO bug_counts AS kept
        SELECT status, severity, priority, coalesce(category, ''), sum(n),
               coalesce(sum(n) FILTER (WHERE resolved_at IS NOT NULL), 0),
               coalesce(sum(n * extract(epoch FROM resolved_at - created_at)), 0)
        FROM (SELECT 1 AS n, status, severity, priority, category, resolved_at, created_at FROM new_bugs UNION ALL SELECT -1, status, severity, priority, category, resolved_at, created_at FROM old_bugs) AS moved GROUP BY 1, 2, 3, 4
        HAVING sum(n) <> 0 OR coalesce(sum(n) FILTER (WHERE resolved_at IS NOT NULL), 0) <> 0
            OR coalesce(sum(n * extract(epoch FROM resolved_at - created_at)), 0) <> 0
        ORDER BY 1, 2, 3, 4
        ON CONFLICT (status, severity, priority, category) DO UPDATE SET
            bugs = kept.bugs + excluded.bugs, resolved = kept.resolved + excluded.resolved,
            resolution_s = kept.resolution_s + excluded.resolution_s;
    
            
        INSERT INTO bug_flow AS kept
        SELECT date_bin('15 minutes', at, '2000-01-01 00:00:00+00'), sum(created), sum(resolved), sum(opened) FROM (
                SELECT status_changed_at AS at, 0 AS created, 0 AS resolved,
                       CASE WHEN status IN ('open', 'in_progress', 'awaiting_info', 'reopened') THEN 1 ELSE 0 END
                       - CASE WHEN was IN ('open', 'in_progress', 'awaiting_info', 'reopened') THEN 1 ELSE 0 END AS opened
                FROM (SELECT new_bugs.status_changed_at, new_bugs.status, old_bugs.status AS was
                      FROM new_bugs JOIN old_bugs USING (number)) AS changed
                UNION ALL SELECT resolved_at, 0, 1, 0 FROM new_bugs
                UNION ALL SELECT resolved_at, 0, -1, 0 FROM old_bugs
            ) AS moved
        WHERE at IS NOT NULL GROUP BY 1 HAVING sum(created) <> 0 OR sum(resolved) <> 0 OR sum(opened) <> 0 ORDER BY 1
        ON CONFLICT (bucket) DO UPDATE SET created = kept.created + excluded.created,
            resolved = kept.resolved + excluded.resolved, opened = kept.opened + excluded.opened;
    
        END IF;
        RETURN NULL;
    END
    $$;

CREATE OR REPLACE FUNCTION bug_history_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the history of bugs is only added to' USING ERRCODE = 'insufficient_privilege';
    END
    $$;

CREATE OR REPLACE TRIGGER bugs_described_first AFTER INSERT ON bugs FOR EACH ROW EXECUTE FUNCTION bug_described();

CREATE OR REPLACE TRIGGER bugs_described AFTER UPDATE ON bugs FOR EACH ROW WHEN ((OLD.title, OLD.description, OLD.status, OLD.severity, OLD.priority, OLD.category, OLD.device_id, OLD.firmware_version, OLD.site_code, OLD.assigned_to, OLD.reported_by, OLD.origin, OLD.tags) IS DISTINCT FROM (NEW.title, NEW.description, NEW.status, NEW.severity, NEW.priority, NEW.category, NEW.device_id, NEW.firmware_version, NEW.site_code, NEW.assigned_to, NEW.reported_by, NEW.origin, NEW.tags)) EXECUTE FUNCTION bug_described();

CREATE OR REPLACE TRIGGER bug_comments_searched AFTER INSERT OR UPDATE OF body ON bug_comments FOR EACH ROW EXECUTE FUNCTION bug_commented();

CREATE OR REPLACE TRIGGER bugs_inserted AFTER INSERT ON bugs REFERENCING NEW TABLE AS new_bugs FOR EACH STATEMENT EXECUTE FUNCTION bugs_counted();

CREATE OR REPLACE TRIGGER bugs_updated AFTER UPDATE ON bugs REFERENCING OLD TABLE AS old_bugs NEW TABLE AS new_bugs FOR EACH STATEMENT EXECUTE FUNCTION bugs_counted();

CREATE OR REPLACE TRIGGER bugs_deleted AFTER DELETE ON bugs REFERENCING OLD TABLE AS old_bugs FOR EACH STATEMENT EXECUTE FUNCTION bugs_counted();

CREATE OR REPLACE TRIGGER bug_events_kept BEFORE UPDATE OR DELETE ON bug_events FOR EACH ROW EXECUTE FUNCTION bug_history_is_kept();

CREATE OR REPLACE TRIGGER bug_events_not_emptied BEFORE TRUNCATE ON bug_events FOR EACH STATEMENT EXECUTE FUNCTION bug_history_is_kept();

DO $$
    BEGIN
        IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm') THEN
            CREATE EXTENSION IF NOT EXISTS pg_trgm;
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE NOTICE 'pg_trgm may not be created: similar bugs are found by their words alone';
    END
    $$;

COMMIT;
