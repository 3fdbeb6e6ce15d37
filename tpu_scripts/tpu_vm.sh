# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts for TPU VMs: which TPU, and commands on its workers.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ -n ${TPU_NAME:-} ]] || fail "TPU_NAME is not set: say which TPU: export TPU_NAME=my-tpu"
[[ -n ${ZONE:-} ]] || fail "ZONE is not set: say where it is: export ZONE=us-west4-a"
# shellcheck disable=SC2034  # of this project, in the home folder of each worker
FOLDER=mrti_jax

on_worker() { # WORKER COMMAND: a worker's number, or all
    run gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker="$1" --command="$2"
}
