# shellcheck shell=bash
# Functions that slurm.sh and htcondor.sh share: they start Ray on the machines of one job, and the sweep beside its
# head. Sourced by bash, from the root of gatesweep.
#
# `ray symmetric-run` is not enough. It ends with `ray stop`, which ends every Ray of the user on the machine, including
# those of other jobs. It refuses to start beside another Ray. Its exit code is 0 if Ray did not start. A SIGTERM ends
# it without a signal to the sweep.
#
# The functions are safe on shared machines. Every port is a free one, while Ray's defaults are fixed. Requests without
# the token of this job are refused. A job on one machine listens on loopback only. Ray's files are in a short folder of
# this job: the paths of its sockets must have less than 108 characters, and TMPDIR is often long.

set -euo pipefail
set -m          # else bash starts background processes with SIGINT ignored, which the sweep would inherit

[ -f sweeps/run.py ] || { echo "error: got $PWD, expected the root of gatesweep: submit from there" >&2; exit 2; }
if [ -z "${VIRTUAL_ENV:-}" ] && [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1
ray_pid='' ray_folder='' front=''

free_ports() {      # free_ports N
    python -c 'import socket, sys
servers = [socket.create_server(("", 0)) for _ in range(int(sys.argv[1]))]
print(*(server.getsockname()[1] for server in servers))' "$1"
}

# start_head ADDRESS MACHINES CPUS GPUS: start Ray's head in the background; export its addresses and its token.
start_head() {
    local address=$1 ports
    if [ "$2" = 1 ]; then       # Ray uses this address only with the variable below, else it listens everywhere
        address=127.0.0.1
        export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
    fi
    read -ra ports <<< "$(free_ports 3)"
    RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
    # Ray Train uses the API server to clean up after a stopped trial. Without the variable it takes any Ray that it finds
    # on the machine.
    export RAY_AUTH_TOKEN RAY_ADDRESS=$address:${ports[0]} RAY_API_SERVER_ADDRESS=http://$address:${ports[1]}
    _start_ray "$address" "$3" "$4" --head --port="${ports[0]}" --dashboard-host="$address" \
        --dashboard-port="${ports[1]}" --ray-client-server-port="${ports[2]}"
}

# start_worker ADDRESS CPUS GPUS: add this machine to the head of RAY_ADDRESS, in the background.
start_worker() {
    _start_ray "$1" "$2" "$3" --address="$RAY_ADDRESS"
}

# _start_ray ADDRESS CPUS GPUS OPTION...: return once Ray runs. A worker that joins a head too early gives up.
_start_ray() {
    ray_folder=$(mktemp -d /tmp/gs.XXXXXX)      # readable by this user only: Ray opens its own folder to everybody
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

# stop_ray: end the Ray of this job on this machine, and wait for it. SIGTERM to `ray start --block` ends only the
# processes that it started.
stop_ray() {
    [ -n "$ray_pid" ] || return 0
    kill -TERM "$ray_pid" 2>/dev/null || true
    wait "$ray_pid" 2>/dev/null || true
    rm -rf "$ray_folder"
    ray_pid=''
}

# await_machines N SECONDS: wait for N machines, because a sweep uses the resources that exist when it starts.
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

# run_sweep RESULTS ARGUMENT...: start the sweep of this job, or resume it; return its exit code.
run_sweep() {
    local results=$1 argument
    shift
    for argument in "$@"; do
        if [[ $argument = results=* ]]; then
            echo "error: got $argument, expected the folder in GATESWEEP_RESULTS" >&2
            return 2
        fi
    done
    if [ -f "$results/latest/config.yaml" ]; then
        set -- "resume='$(readlink -f "$results/latest")'"
    else
        set -- "$@" "results='$results'"
    fi
    in_front python sweeps/run.py "$@"
}

# in_front COMMAND...: run a command and return its exit code. A SIGTERM to this shell is passed on to the command, and
# the exit code is then 130. So a sweep ends cleanly, and a command that only waits ends at once.
in_front() {
    local code terminated=''
    "$@" <&0 &
    front=$!
    trap 'terminated=1; kill -TERM "$front" 2>/dev/null || true' TERM
    while :; do     # because a trap interrupts `wait`
        code=0
        wait "$front" || code=$?
        kill -0 "$front" 2>/dev/null || break
    done
    trap - TERM
    [ -z "$terminated" ] || [ "$code" -le 128 ] || code=130
    return "$code"
}
