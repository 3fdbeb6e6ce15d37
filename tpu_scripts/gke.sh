#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# gke.sh [--dry-run] ARGUMENTS...: runs `python -m mrti_jax.train ARGUMENTS...` as a JobSet on a GKE
# cluster that xpk has made (https://github.com/AI-Hypercomputer/xpk); --out must be gs://... With
# NUM_SLICES, several slices share the batch.
source "$(dirname "$0")/common.sh"
[[ -n ${CLUSTER:-} ]] || fail "CLUSTER is not set: say which cluster: export CLUSTER=my-cluster"
[[ -n ${WORKLOAD:-} ]] || fail "WORKLOAD is not set: name the job: export WORKLOAD=rex"
[[ -n ${TPU_TYPE:-} ]] || fail "TPU_TYPE is not set: say which type: export TPU_TYPE=v6e-8"
[[ " $*" =~ \ --out[=\ ]gs:// ]] || fail "--out must be gs://BUCKET/FOLDER: a pod's disk goes with it"
[[ " $* " != *" --restart "* ]] || fail "--restart would begin anew each time the job is restarted: choose another --out"
cd "$(dirname "$0")/.."

# 75: told to stop, and saved; above 126, xpk restarts by itself. The grace period is for saving.
run xpk workload create --cluster="$CLUSTER" --workload="$WORKLOAD" \
    --tpu-type="$TPU_TYPE" --num-slices="${NUM_SLICES:-1}" \
    --max-restarts=100 --restart-on-exit-codes=75 --termination-grace-period-seconds=120 \
    --base-docker-image=python:3.12 --script-dir=. \
    --command="pip install --quiet -e '.[tpu,gcs]' && exec python -m mrti_jax.train$(quoted "$@")"
