#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# train.sh [--dry-run] ARGUMENTS...: starts `python -m mrti_jax.train ARGUMENTS...` on all workers,
# in the background: see logs.sh, which shows the log of earlier runs as well. With more than one
# worker, --out must be gs://BUCKET/FOLDER.
source "$(dirname "$0")/tpu_vm.sh"

on_worker all "cd $FOLDER &&
{ nohup .venv/bin/python -m mrti_jax.train$(quoted "$@") >>train.log 2>&1 </dev/null & }"
