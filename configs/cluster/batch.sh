# shellcheck shell=bash
# What slurm.sh and htcondor.sh have in common: Ray on the machines of one job, and the sweep beside its head.
# Sourced, by bash, from the root of gatesweep.
#
# `ray symmetric-run` does less than is needed: it ends with `ray stop`, which ends every Ray of that user on the
# machine, another job's too; it refuses to start beside one; its exit code is 0 where Ray did not start; and a SIGTERM
# ends it without the sweep hearing of it.
#
# Safe on a machine that others use: every port is a free one (Ray's own defaults are fixed), who has not this job's
# token is refused, a job on one machine listens on loopback only, and Ray's files are in a short folder of this job
# (its sockets must have paths of less than 108 characters, and TMPDIR is often long).

set -euo pipefail
set -m          # without it bash starts what is in the background with SIGINT ignored, which the sweep would inherit

[ -f sweeps/run.py ] || { echo "error: got $PWD, expected the root of gatesweep: submit from there" >&2; exit 2; }
if [ -z "${VIRTUAL_ENV:-}" ] && [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1
ray_pid='' ray_folder='' front=''

free_ports() {      # free_ports N
    python -c 'import socket, sys
held = [socket.create_server(("", 0)) for _ in range(int(sys.argv[1]))]
print(*(one.getsockname()[1] for one in held))' "$1"
}

# start_head ADDRESS MACHINES CPUS GPUS: Ray's head in the background; exports how to reach it and its token.
start_head() {
    local address=$1 ports
    if [ "$2" = 1 ]; then       # with the second, Ray takes the first as it is, else it listens everywhere
        address=127.0.0.1
        export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
    fi
    read -ra ports <<< "$(free_ports 3)"
    RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
    # Ray Train asks there when it clears up after a stopped trial; by itself it would look for any Ray of the machine.
    export RAY_AUTH_TOKEN RAY_ADDRESS=$address:${ports[0]} RAY_API_SERVER_ADDRESS=http://$address:${ports[1]}
    _start_ray "$address" "$3" "$4" --head --port="${ports[0]}" --dashboard-host="$address" \
        --dashboard-port="${ports[1]}" --ray-client-server-port="${ports[2]}"
}

# start_worker ADDRESS CPUS GPUS: a machine more for the head of RAY_ADDRESS, in the background.
start_worker() {
    _start_ray "$1" "$2" "$3" --address="$RAY_ADDRESS"
}

_start_ray() {      # _start_ray ADDRESS CPUS GPUS OPTION...; returns once it runs: who joins a head too early gives up
    ray_folder=$(mktemp -d /tmp/gs.XXXXXX)      # Ray opens its own folder to everybody, and this one is ours alone
    ray start --block --node-ip-address="$1" --num-cpus="$2" --num-gpus="$3" --temp-dir="$ray_folder/r" \
        --object-store-memory=268435456 --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 \
        --disable-usage-stats "${@:4}" > "$ray_folder/start.log" 2>&1 &
    ray_pid=$!
    trap stop_ray EXIT
    until [ -s "$ray_folder/r/ray_current_cluster" ]; do
        kill -0 "$ray_pid" 2>/dev/null || { cat "$ray_folder/start.log" >&2; return 1; }
        sleep 0.2
    done
}

# Tell Ray of this machine to end, and wait until it has: SIGTERM to `ray start --block` ends what it started, no more.
stop_ray() {
    [ -n "$ray_pid" ] || return 0
    kill -TERM "$ray_pid" 2>/dev/null || true
    wait "$ray_pid" 2>/dev/null || true
    rm -rf "$ray_folder"
    ray_pid=''
}

# await_machines N SECONDS: a sweep takes the resources that are there when it starts, so all should be there.
await_machines() {
    in_front python - "$@" <<'PY'
import logging, sys, time
import ray
wanted, deadline, there = int(sys.argv[1]), time.time() + float(sys.argv[2]), 0
ray.init(log_to_driver=False, logging_level=logging.CRITICAL)
while there < wanted and time.time() < deadline:
    there = sum(node["Alive"] for node in ray.nodes())
    time.sleep(0.3)
print(f"machines: {there} of {wanted}", flush=True)
sys.exit(there == 0)
PY
}

# run_sweep RESULTS ARGUMENT...: the sweep of this job, or on with it where it has begun; returns its exit code.
run_sweep() {
    local results=$1 one
    shift
    for one in "$@"; do
        if [[ $one = results=* ]]; then echo "error: got $one, expected GATESWEEP_RESULTS to say it" >&2; return 2; fi
    done
    if [ -f "$results/latest/config.yaml" ]; then
        set -- "resume='$(readlink -f "$results/latest")'"
    else
        set -- "$@" "results='$results'"
    fi
    in_front python sweeps/run.py "$@"
}

# in_front COMMAND...: run it and return its exit code; a SIGTERM to this shell is passed on to it, and makes that 130:
# the sweep ends cleanly, and what only waits ends at once.
in_front() {
    local code terminated=''
    "$@" <&0 &
    front=$!
    trap 'terminated=1; kill -TERM "$front" 2>/dev/null || true' TERM
    while :; do     # a trap interrupts `wait`
        code=0
        wait "$front" || code=$?
        kill -0 "$front" 2>/dev/null || break
    done
    trap - TERM
    [ -z "$terminated" ] || [ "$code" -le 128 ] || code=130
    return "$code"
}
