#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# create.sh [--dry-run] [--queued] [--spot]: a TPU VM of the type $TPU_TYPE, such as v5litepod-8.
# --queued waits in line for it instead of failing if there is none; --spot is cheap, and may be
# taken away at any time.
source "$(dirname "$0")/tpu_vm.sh"
[[ -n ${TPU_TYPE:-} ]] || fail "TPU_TYPE is not set: say which type: export TPU_TYPE=v5litepod-8"

case $TPU_TYPE in
v6e-*) software=v2-alpha-tpuv6e ;;
v5p-*) software=v2-alpha-tpuv5 ;;
v5litepod-*) software=v2-alpha-tpuv5-lite ;;
v[234]-*) software=tpu-ubuntu2204-base ;;
*) fail "TPU_TYPE is $TPU_TYPE, but must be v6e-N, v5p-N, v5litepod-N, v4-N, v3-N or v2-N" ;;
esac

queued=false
flags=(--zone="$ZONE" --accelerator-type="$TPU_TYPE")
for flag in "$@"; do
    case $flag in
    --queued) queued=true ;;
    --spot) flags+=(--spot) ;;
    *) fail "unknown flag $flag: use --dry-run (first), --queued and --spot" ;;
    esac
done

if "$queued"; then
    run gcloud compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" \
        --runtime-version="$software" "${flags[@]}"
else
    run gcloud compute tpus tpu-vm create "$TPU_NAME" --version="$software" "${flags[@]}"
fi
