-- The role by which Grafana reads: only the columns that panels show. No keys, no peers, no e-mail addresses, no
-- descriptions, comments, attachments or webhooks, no message that a device sent.
--
--     psql -X -h HOST -U gaveurs -d gaveurs -v password_file=/run/secrets/grafana_reader_password -f deploy/grafana/grafana_reader.sql
--
-- psql asks for the password, or takes it from ~/.pgpass or PGPASSWORD; not from an address among its arguments, which
-- everybody on the machine can read. In Compose the service `reader` does all this.
--
-- After `gaveurs migrate`, as the owner of the tables, who must be allowed to make roles; again after an upgrade that
-- changes panels. It may be run as often as one likes: rights that are no more granted here are taken away. The password
-- must stand in a file of one line; where statements are logged, so is the line that sets it: give log_statement = none
-- for this session (a superuser may) or change the password by \password afterwards.
\set ON_ERROR_STOP on
\set password `cat :'password_file'`
BEGIN;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'grafana_reader') THEN
        CREATE ROLE grafana_reader;
    END IF;
END
$$;
ALTER ROLE grafana_reader LOGIN NOINHERIT NOCREATEDB NOCREATEROLE CONNECTION LIMIT 10 PASSWORD :'password';
ALTER ROLE grafana_reader SET default_transaction_read_only = on;
ALTER ROLE grafana_reader SET statement_timeout = '15s';
ALTER ROLE grafana_reader SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE grafana_reader SET work_mem = '16MB';

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM grafana_reader;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM grafana_reader;
DO $$
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO grafana_reader', current_database());
END
$$;
GRANT USAGE ON SCHEMA public TO grafana_reader;

GRANT SELECT (
    device_id, site_code, sent_site_code, firmware_version, in_service, boots, last_seen, last_sample_at, clock_offset_s
) ON devices TO grafana_reader;
GRANT SELECT (
    device_id, bucket, site_code, lot, samples, reject, not_gradable, score_n, score_sum
) ON rollups TO grafana_reader;
GRANT SELECT (received_at, code, device_id) ON quarantine TO grafana_reader;
GRANT SELECT (
    number, created_at, status_changed_at, acknowledged_at, resolved_at, active_s, reopened, status, severity,
    severity_rank, title, device_id, firmware_version, site_code
) ON bugs TO grafana_reader;
GRANT SELECT (bucket, created, resolved, opened) ON bug_flow TO grafana_reader;

COMMIT;
