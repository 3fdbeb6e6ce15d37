#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# logs.sh [--dry-run] [WORKER]: follows what the training says; worker 0 shows the progress.
source "$(dirname "$0")/tpu_vm.sh"
[[ $# -le 1 ]] || fail "too many arguments: use --dry-run (first) and the number of a worker"

[[ ${1:-0} =~ ^[0-9]+$ ]] || fail "'$1' is not the number of a worker"
on_worker "${1:-0}" "tail -n 50 -F $FOLDER/train.log"
