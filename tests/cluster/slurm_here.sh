#!/usr/bin/env bash
# A throwaway Slurm of two nodes on this machine, for one command:  tests/cluster/slurm_here.sh FOLDER COMMAND...
# It lives in namespaces of its own: nothing listens outside, nothing outlives the command. Needs root, and
#   apt-get install slurmctld slurmd slurm-client munge iproute2
set -euo pipefail

if [ "${1:-}" != --inside ]; then
    exec unshare --pid --fork --kill-child --mount --mount-proc --net --uts "$0" --inside "$@"
fi
shift
folder=$(readlink -m "$1")
shift
mkdir -p "$folder/state"

ip link set lo up
ip address add 10.77.0.1/32 dev lo
ip address add 10.77.0.2/32 dev lo
hostname here
printf '%s\n' '127.0.0.1 localhost' '10.77.0.1 here' > "$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts

head -c 1024 /dev/urandom > "$folder/munge.key"
chmod 600 "$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
sed "s|@DIR@|$folder|" "$(dirname "$0")/slurm.conf" > "$folder/slurm.conf"
export SLURM_CONF=$folder/slurm.conf
slurmctld
for node in n1 n2; do slurmd -N "$node"; done
for _ in $(seq 100); do
    [ "$(sinfo --noheader --nodes=n1,n2 --states=idle --format=%D)" = 2 ] && break
    sleep 0.1
done
sinfo --noheader --format='slurm %T nodes: %N' >&2
"$@"
