#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# delete.sh [--dry-run] [--queued]: the TPU VM, with all that is on it; --queued as for create.sh.
source "$(dirname "$0")/tpu_vm.sh"
[[ $# -le 1 ]] || fail "too many arguments: use --dry-run (first) and --queued"

case ${1:-} in
--queued) run gcloud compute tpus queued-resources delete "$TPU_NAME" --zone="$ZONE" --force --quiet ;;
'') run gcloud compute tpus tpu-vm delete "$TPU_NAME" --zone="$ZONE" --quiet ;;
*) fail "unknown flag $1: use --dry-run (first) and --queued" ;;
esac
