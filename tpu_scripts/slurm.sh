#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A job for GPU clusters with Slurm, one task for each GPU. From the project's folder, installed in
# .venv with '.[cuda13]':
#
#   sbatch --nodes=2 tpu_scripts/slurm.sh configs/sd15.yaml --out /shared/runs/rex ...
#SBATCH --job-name=mrti-train
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@180
set -euo pipefail
MAX_RESTARTS=20

if [[ " $* " == *" --restart "* ]]; then
    echo "error: --restart would begin anew each time the job is queued again: choose another --out" >&2
    exit 2
fi
status=0
srun .venv/bin/python -m mrti_jax.train "$@" || status=$?
# 75: told to stop (here 180 s before the end of the job's time), and saved, or a process was lost.
# Above 128: ended by a signal, as by SIGTERM before the training began.
if ((status == 75 || status > 128)) && ((${SLURM_RESTART_COUNT:-0} < MAX_RESTARTS)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
