#!/usr/bin/env bash
# Inside condor_here.sh: a sweep on N machines, whose first is held after its first trial, released, and on to its end.
#   condor_sweep.sh FOLDER N
set -euo pipefail
folder=$1 machines=$2
log=$folder/results/condor-1/machine-0.log
export GATESWEEP_RESULTS=$folder/results OMP_NUM_THREADS=1 HOME=$folder
cd "$(dirname "$0")/../.."

sweep='experiment=mlp num_samples=8 training.max_epochs=2 data.n_samples=40000 scheduler=none max_concurrent=1'
condor_submit machines="$machines" gpus=0 cpus=1 memory=1GB sweep="$sweep tracking=none figures=none" \
    -append "log = $folder/job.events" configs/cluster/htcondor.sub
until grep -qs '^trial_0000' "$log"; do sleep 0.2; done
condor_hold 1.0
while pgrep -f 'condor_shadow 1[.]0' > /dev/null; do sleep 0.2; done
echo "interrupted: $(pgrep -fc 'gcs_server|sweeps/run' || true) of Ray's head left"
condor_release 1.0
while [ -n "$(condor_q -af ProcId)" ]; do sleep 0.2; done
condor_history -limit 9 -af ProcId ExitCode NumJobStarts
sleep 1
echo "ended: $(pgrep -fc 'raylet|gcs_server|sweeps/run|ray::' || true) of Ray left"
