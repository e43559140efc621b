#!/usr/bin/env bash
# One machine of a sweep on HTCondor; htcondor.sub starts it.
#   htcondor.sh CLUSTER PROCESS MACHINES CPUS GPUS ARGUMENT...

cd "$(dirname "$0")/../.."
cluster=$1 process=$2 machines=$3 cpus=$4 gpus=$5
shift 5

# Each cluster of jobs has its own folder, where it finds its sweep again. The log is there too, because HTCondor's own
# output file is overwritten in each run of a job.
results=${GATESWEEP_RESULTS:-$PWD/results}/condor-$cluster
mkdir -p "$results"
exec >> "$results/machine-$process.log" 2>&1
source configs/cluster/batch.sh

meeting=$results/.head          # addresses and token of Ray's head, readable by this user only
ended=$results/.ended
# Ray uses the address that HTCondor uses for this machine.
address=$(sed -n 's/^StartdIpAddr = "<\([0-9.]*\):.*/\1/p' "$_CONDOR_MACHINE_AD")

if [ "$process" = 0 ]; then
    rm -f "$meeting" "$ended"
    start_head "$address" "$machines" "$cpus" "$gpus"
    (umask 077; echo "$RAY_ADDRESS $RAY_API_SERVER_ADDRESS $RAY_AUTH_TOKEN" > "$meeting.new")
    mv "$meeting.new" "$meeting"
    code=0
    # The other jobs may get their machines late. After five minutes the sweep starts with the machines that are there.
    # With max_concurrent set, it also uses machines that come later.
    await_machines "$machines" 300 || code=$?
    [ "$code" != 0 ] || run_sweep "$results" "$@" || code=$?
    rm -f "$meeting"
    [ "$code" = 130 ] || touch "$ended"
    stop_ray
    exit "$code"
fi

trap 'exit 130' TERM
until [ -e "$ended" ]; do       # the head may be evicted, and start again elsewhere
    if head=$(cat "$meeting" 2>/dev/null); then
        read -r RAY_ADDRESS RAY_API_SERVER_ADDRESS RAY_AUTH_TOKEN <<< "$head"
        export RAY_ADDRESS RAY_API_SERVER_ADDRESS RAY_AUTH_TOKEN
        start_worker "$address" "$cpus" "$gpus" || { stop_ray; sleep 5; continue; }    # the head has gone
        while kill -0 "$ray_pid" 2>/dev/null && [ "$(cat "$meeting" 2>/dev/null)" = "$head" ]; do sleep 1; done
        stop_ray
    fi
    sleep 1
done
