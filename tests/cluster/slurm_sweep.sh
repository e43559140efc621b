#!/usr/bin/env bash
# Inside slurm_here.sh: a sweep on N nodes, told to make room after its first trial, queued again, and on to its end.
#   slurm_sweep.sh FOLDER N
set -euo pipefail
folder=$1 nodes=$2
log=$folder/job.log
export GATESWEEP_RESULTS=$folder/results OMP_NUM_THREADS=1
cd "$(dirname "$0")/../.."

sbatch --nodes="$nodes" --gpus-per-node=0 --cpus-per-task=1 --output="$log" configs/cluster/slurm.sh experiment=mlp \
    num_samples=8 training.max_epochs=2 scheduler=none max_concurrent=1 tracking=none figures=none
until grep -qs '^trial_0000' "$log"; do sleep 0.2; done
scancel --batch --signal=TERM 1
until [ "$(squeue --noheader --format=%T)" = PENDING ]; do sleep 0.2; done
echo "interrupted: $(pgrep -fc 'raylet|gcs_server|sweeps/run|ray::' || true) of Ray left"
while [ -n "$(squeue --noheader)" ]; do sleep 0.2; done
scontrol show job 1 | grep -oE 'Restarts=[0-9]+|ExitCode=[0-9:]+|NodeList=n.*'
sleep 1
echo "ended: $(pgrep -fc 'raylet|gcs_server|sweeps/run|ray::' || true) of Ray left"
