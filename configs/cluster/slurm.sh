#!/usr/bin/env bash
# A sweep on Slurm, from the root of gatesweep. Options of Slurm go before the script, arguments of sweeps/run.py after
# it.
#   sbatch configs/cluster/slurm.sh experiment=walk_transformer resources=gpu
#   sbatch --nodes=8 --gpus-per-node=4 --partition=gpu configs/cluster/slurm.sh resources=gpu num_samples=200
#   sbatch --nodes=1 --gpus-per-node=0 configs/cluster/slurm.sh experiment=mlp
# `scancel JOB` ends it. `scancel --batch --signal=TERM JOB` stops it for now and queues it again.
#
#SBATCH --job-name=gatesweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1         # one Ray per node, which runs as many trials as its CPUs and GPUs hold
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=08:00:00
#SBATCH --requeue                   # after preemption or the loss of a node: queue again, and resume the sweep
#SBATCH --signal=B:TERM@120         # two minutes before the time limit, to this shell only: end cleanly, queue again
#SBATCH --output=gatesweep-%j.log
#SBATCH --open-mode=append          # all runs of the job write to one log

source configs/cluster/batch.sh

# Each job has its own folder in GATESWEEP_RESULTS, on a file system that all nodes share. There the job finds its sweep
# again. Where tracking.uri is null, `python sweeps/publish.py FOLDER` sends the sweep to an MLflow server later.
results=${GATESWEEP_RESULTS:-$PWD/results}/slurm-$SLURM_JOB_ID

# Ray uses the address that Slurm uses for a node, because the name of a host may resolve to 127.0.1.1.
node_address() {
    local name
    name=$(scontrol show node "$SLURMD_NODENAME" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
    getent ahostsv4 "$name" | awk 'NR == 1 { print $1 }'
}

if [ "${1:-}" = --worker ]; then
    start_worker "$(node_address)" "$SLURM_CPUS_ON_NODE" "${SLURM_GPUS_ON_NODE:-0}"
    trap stop_ray TERM
    wait "$ray_pid"
    exit
fi

start_head "$(node_address)" "$SLURM_JOB_NUM_NODES" "$SLURM_CPUS_ON_NODE" "${SLURM_GPUS_ON_NODE:-0}"
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    others=$((SLURM_JOB_NUM_NODES - 1))
    # Since Slurm 22.05 a step does not inherit --cpus-per-task.
    srun --nodes="$others" --ntasks="$others" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        --exclude="$SLURMD_NODENAME" bash configs/cluster/slurm.sh --worker &
    workers=$!
fi

code=0
await_machines "$SLURM_JOB_NUM_NODES" 300 || code=$?
[ "$code" != 0 ] || run_sweep "$results" "$@" || code=$?
if [ -n "${workers:-}" ]; then  # step 0 is the only step; a signal to `srun` would kill it, and leave its files
    scancel --signal=TERM "$SLURM_JOB_ID.0" 2>/dev/null || true
    wait "$workers" || true
fi
stop_ray

# The sweep ended early, by the time limit or by a signal; after `scancel JOB` the state would be COMPLETING.
if [ "$code" = 130 ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    scontrol requeue "$SLURM_JOB_ID" && sleep infinity     # Slurm ends this run of the job in a moment
    echo "not queued again; resume with: sbatch configs/cluster/slurm.sh resume=$(readlink -f "$results/latest")"
fi
exit "$code"
