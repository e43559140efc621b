#!/usr/bin/env bash
# A throwaway HTCondor on this machine, for one command:  tests/cluster/condor_here.sh FOLDER COMMAND...
# It lives in namespaces of its own: nothing listens outside, nothing outlives the command. Needs root, iproute2 and
# HTCondor: apt-get install condor (Debian 13, Ubuntu 24.04 or later).
set -euo pipefail

if [ "${1:-}" = --inside ]; then
    shift
    ip link set lo up
    ip address add 10.77.0.1/32 dev lo
    hostname here
    mkdir -p "$1"
    printf '%s\n' '127.0.0.1 localhost' '10.77.0.1 here' > "$1/hosts"
    mount --bind "$1/hosts" /etc/hosts
    # HTCondor takes no jobs of root: by another name, that of `daemon`, the files stay ours.
    exec unshare --user --map-user=1 --map-group=1 "$0" --pool "$@"
elif [ "${1:-}" != --pool ]; then
    exec unshare --pid --fork --kill-child --mount --mount-proc --net --uts "$0" --inside "$@"
fi
shift
folder=$(readlink -m "$1")
shift
mkdir -p "$folder"/{log,spool,execute}
sed "s|@DIR@|$folder|" "$(dirname "$0")/condor.conf" > "$folder/condor.conf"
export CONDOR_CONFIG=$folder/condor.conf
set -m      # else bash starts it with SIGINT ignored, and so does every job
condor_master -f &
for _ in $(seq 50); do
    [ "$(condor_status -af Name 2>/dev/null | wc -l)" = 2 ] && condor_q > /dev/null 2>&1 && break
    sleep 0.2
done
condor_status -af:h Name State >&2
"$@"
