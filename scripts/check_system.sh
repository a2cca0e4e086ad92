#!/bin/sh
# Runs the database tests against Debian's own PostgreSQL (another version than the embedded one), started for this
# run on a free socket folder and ended with it, the page's tests in Debian's Chromium, two replicas behind Debian's
# haproxy, and every way of losing a dependency. Installs a package when it is missing and we may.
set -eu
PATH=$PATH:/usr/sbin
for package in chromium haproxy; do
	command -v "$package" >/dev/null && continue
	[ "$(id -u)" = 0 ] || { echo "check-system: install Debian's $package package first" >&2; exit 1; }
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
done
bindir() { ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1; }
if [ -z "$(bindir)" ]; then
	[ "$(id -u)" = 0 ] || { echo "check-system: install Debian's postgresql package first" >&2; exit 1; }
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null
fi
bin=$(bindir)
folder=$(mktemp -d /tmp/gaveurs-system-XXXXXX)
as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; else "$@"; fi; }
cleanup() { (cd / && as "$bin/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1) || true; rm -rf "$folder"; }
trap cleanup EXIT INT TERM
[ "$(id -u)" != 0 ] || chown postgres "$folder"
(cd / && as "$bin/initdb" -D "$folder/data" -U gaveurs --auth=trust --encoding=UTF8 --locale=C >/dev/null)
(cd / && as "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/log" -o "-c listen_addresses= -c unix_socket_directories=$folder" start >/dev/null)
"$bin/postgres" --version
# The bug tracker's script by psql itself, twice, and the migrations on top of it.
"$bin/createdb" -h "$folder" -U gaveurs by_script
for _ in 1 2; do
	PGOPTIONS=-cclient_min_messages=warning "$bin/psql" -X -q -h "$folder" -U gaveurs -d by_script -f scripts/bug_tracking_schema.sql
done
DATABASE_URL="postgresql://gaveurs@/by_script?host=$folder" .venv/bin/gaveurs migrate
TEST_DATABASE_URL="postgresql://gaveurs@/postgres?host=$folder" .venv/bin/python -m pytest tests/integration
chromium --version
.venv/bin/python -m pytest --override-ini addopts="-q --strict-markers -p no:cacheprovider" tests/browser
haproxy -v | head -n 1
.venv/bin/python -m pytest --override-ini addopts="-q --strict-markers -p no:cacheprovider -s" tests/system/test_rolling_restart.py
# Each way of losing PostgreSQL and Redis, as docs/failure-modes.md says it goes.
.venv/bin/python -m pytest --override-ini addopts="-q --strict-markers -p no:cacheprovider -n 2 --dist loadfile" tests/system/test_failure_modes_*.py
