#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# fetch.sh [--dry-run] FOLDER [HERE]: copies a folder of results, gs://BUCKET/FOLDER or one on
# worker 0 such as runs/rex, to HERE (fetched, if not given).
source "$(dirname "$0")/tpu_vm.sh"
[[ -n ${1:-} ]] || fail "say which folder: fetch.sh gs://bucket/runs/rex"
[[ $# -le 2 ]] || fail "too many arguments: use --dry-run (first), FOLDER and HERE"

here=${2:-fetched}
run mkdir -p "$here"
if [[ $1 == gs://* ]]; then
    run gcloud storage cp --recursive "$1" "$here"
else
    folder=$1
    [[ $folder == /* ]] || folder=$FOLDER/$folder
    run gcloud compute tpus tpu-vm scp "$TPU_NAME:$folder" "$here" --zone="$ZONE" --recurse
fi
