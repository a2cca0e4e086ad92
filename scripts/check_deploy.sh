#!/bin/sh
# Checks everything in deploy/ by the real tools. Installs what is missing: Debian's packages and the tools of
# deploy/tools.lock. Nothing is skipped: what cannot be had fails.
set -eu
PATH=$PATH:/usr/sbin
fail() { echo "check-deploy: $1" >&2; failed=yes; }
failed=
# What scripts/rehearse_container.py cannot do without, before minutes are spent on the rest.
[ "$(id -u)" = 0 ] || fail "run it as root: the container's rehearsal needs mount namespaces and chroot"
wanted=$(sed -n 's/^ARG PYTHON_IMAGE=.*python:\([0-9]*\.[0-9]*\)\..*/\1/p' deploy/container/Containerfile)
.venv/bin/python -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1] or sys.base_prefix == "/usr")' "$wanted" ||
	fail "make .venv with a Python $wanted that has a folder of its own (pyenv's, /usr/local's): it is what the rehearsed image gets"
missing=
for pair in promtool:prometheus amtool:prometheus-alertmanager haproxy:haproxy mmdebstrap:mmdebstrap pgbackrest:pgbackrest systemd-analyze:systemd; do
	command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
[ -n "$(ls -d /usr/lib/syslog-ng/*/libhttp.so 2>/dev/null)" ] || missing="$missing syslog-ng-core syslog-ng-mod-http"
[ -n "$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null)" ] || missing="$missing postgresql"
[ -z "$missing" ] || [ "$(id -u)" = 0 ] || fail "install Debian's packages first:$missing"
[ -z "$failed" ] || exit 1
if [ -n "$missing" ]; then
	apt-get update -qq
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
# Debian's own kubectl is downloaded, not installed: other packages have the same file.
[ -x .venv/deploy-tools/kubectl-debian ] || apt-get update -qq
.venv/bin/python -m scripts.deploy_tools
promtool --version 2>&1 | head -n 1
amtool --version 2>&1 | head -n 1
.venv/bin/python -m pytest --override-ini addopts="-q --strict-markers -p no:cacheprovider -n 2 --dist loadfile --no-loadscope-reorder" \
	--timeout 600 tests/deploy "$@"
