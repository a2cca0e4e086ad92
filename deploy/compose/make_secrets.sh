#!/bin/sh
# Makes deploy/compose/secrets/: a file for each secret, random, readable in the containers that are given it. The folder
# is for its owner alone; the files in it are 0444, since each container has a user of its own. What is there stays. Files that
# do not fit each other (one was lost, or changed alone) end this with code 1.
set -eu
umask 077
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/secrets}
mkdir -p "$folder"
cd "$folder"
random() { od -An -v -tx1 -N"${1:-24}" /dev/urandom | tr -d ' \n'; }
make() { [ -s "$1" ] || { printf '%s\n' "$2" >"$1.new" && chmod 0444 "$1.new" && mv "$1.new" "$1"; }; }

fail() {
	echo "make_secrets: $folder/$1 $2 $folder/$3: see \"Changing a secret\" in docs/deployment.md" >&2
	exit 1
}
# A secret that another file was made of. If it alone is lost, a new one would not be the one that is in use.
first() { [ -s "$1" ] || [ ! -s "$2" ] || fail "$1" "is gone, and was what made" "$2"; make "$1" "$3"; }
fits() { case $(cat "$1") in *"$2"*) ;; *) fail "$1" "does not fit" "$3" ;; esac; }

first postgres_password database_url "$(random)"
url="postgresql://gaveurs:$(cat postgres_password)@database:5432/gaveurs"
make database_url "$url"
fits database_url "$url" postgres_password
first redis_password redis_auth "$(random)"
make redis_auth "requirepass $(cat redis_password)"
fits redis_auth "requirepass $(cat redis_password)" redis_password
for key in bug_attachments_s3 backup_s3; do
	first ${key}_access_key s3_identities "$(random 10)"
	first ${key}_secret_key s3_identities "$(random)"
done
identity() {
	printf '{"name":"%s","credentials":[{"accessKey":"%s","secretKey":"%s"}],' "$1" "$(cat "$2_access_key")" "$(cat "$2_secret_key")"
	printf '"actions":["Read:%s","Write:%s","List:%s","Tagging:%s"]}' "$3" "$3" "$3" "$3"
}
attachments=$(identity attachments bug_attachments_s3 gaveurs-attachments)
backups=$(identity backups backup_s3 gaveurs-backups)
make s3_identities "{\"identities\":[$attachments,$backups]}"
fits s3_identities "$attachments" bug_attachments_s3_secret_key
# Backups that go elsewhere have that place's keys, which are not for our store.
to=${BACKUP_TO:-$(sed -n 's/^BACKUP_TO=//p' "$here/../.env" 2>/dev/null || :)}
case $to in "" | s3://gaveurs-backups*) fits s3_identities "$backups" backup_s3_secret_key ;; esac
make grafana_admin_password "$(random 12)"
make grafana_reader_password "$(random)"

# Only you know these: whom alerts go to. Until they are replaced nothing is delivered, and Alertmanager says so.
make alertmanager_smtp_password replace-me
make alertmanager_slack_url https://slack.invalid/replace-me
make alertmanager_heartbeat_token replace-me
make alertmanager_pager_token replace-me
chmod 0700 .
for name in alertmanager_*; do
	case $(cat "$name") in *replace-me*) echo "make_secrets: $folder/$name is still to be replaced" >&2 ;; esac
done
