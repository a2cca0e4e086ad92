#!/bin/sh
# follow-job.sh NAME: shows what the job's pods say and ends as it ends, 0 when it completed, 1 when it failed or is not there.
# (`kubectl wait --for=condition=complete` goes on waiting after a failure.) The job's own activeDeadlineSeconds bounds it.
set -eu
in_namespace() { kubectl -n "${NAMESPACE:-gaveurs}" "$@"; }
followed=
while :; do
	ended=$(in_namespace get job "$1" -o 'jsonpath={.status.conditions[?(@.status=="True")].type}')
	case " $ended " in
	*" Complete "*) break ;;
	*" Failed "*)
		in_namespace logs --tail=50 --prefix -l "job-name=$1" || :  # each attempt's, where they are still there
		echo "follow-job: $1 failed; kubectl -n ${NAMESPACE:-gaveurs} describe job $1" >&2
		exit 1
		;;
	esac
	# Not before its container has started. An attempt after it is told from its end.
	if [ -z "$followed" ] && in_namespace logs -f "job/$1" 2>/dev/null; then followed=yes; fi
	sleep "${EVERY_S:-2}"
done
[ -n "$followed" ] || in_namespace logs "job/$1"
