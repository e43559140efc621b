#!/usr/bin/env bash
# A sweep on Slurm, from the root of gatesweep: options of Slurm before the script, arguments of sweeps/run.py after it.
#   sbatch configs/cluster/slurm.sh experiment=walk_transformer resources=gpu
#   sbatch --nodes=8 --gpus-per-node=4 --partition=gpu configs/cluster/slurm.sh resources=gpu num_samples=200
#   sbatch --nodes=1 --gpus-per-node=0 configs/cluster/slurm.sh experiment=mlp
# `scancel JOB` ends it for good;  `scancel --batch --signal=TERM JOB` makes room and queues it again.
#
#SBATCH --job-name=gatesweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1         # one Ray a node, which starts as many trials there as its CPUs and GPUs hold
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=08:00:00
#SBATCH --requeue                   # preempted, or a node lost: queued again, and on with the same sweep
#SBATCH --signal=B:TERM@120         # two minutes before the time is up, to this shell alone: end cleanly, queue again
#SBATCH --output=gatesweep-%j.log
#SBATCH --open-mode=append          # a log that goes on with the job

source configs/cluster/batch.sh

# Each job has a folder of its own in GATESWEEP_RESULTS, which must be on a file system that all nodes share: by it the
# job finds its sweep again. `python sweeps/publish.py FOLDER` brings it to an MLflow, where tracking.uri names none.
results=${GATESWEEP_RESULTS:-$PWD/results}/slurm-$SLURM_JOB_ID

# By the address by which Slurm knows a node, Ray does too: the name of a host may well resolve to 127.0.1.1.
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
    # Since 22.05 a step does not take over --cpus-per-task by itself.
    srun --nodes="$others" --ntasks="$others" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        --exclude="$SLURMD_NODENAME" bash configs/cluster/slurm.sh --worker &
    workers=$!
fi

code=0
await_machines "$SLURM_JOB_NUM_NODES" 300 || code=$?
[ "$code" != 0 ] || run_sweep "$results" "$@" || code=$?
if [ -n "${workers:-}" ]; then  # the only step of the job; a signal to `srun` would have it killed, with its files left
    scancel --signal=TERM "$SLURM_JOB_ID.0" 2>/dev/null || true
    wait "$workers" || true
fi
stop_ray

# Ended early, and not by `scancel JOB` (it would be COMPLETING): by the time limit, or to make room.
if [ "$code" = 130 ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    scontrol requeue "$SLURM_JOB_ID" && sleep infinity     # until Slurm ends this run of the job, in a moment
    echo "not queued again; go on with: sbatch configs/cluster/slurm.sh resume=$(readlink -f "$results/latest")"
fi
exit "$code"
