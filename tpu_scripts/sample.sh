#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# sample.sh [--dry-run] ARGUMENTS...: runs `python -m mrti_jax.sample ARGUMENTS...` on all workers,
# which share the work; --concept and --out are best gs://BUCKET/FOLDER.
source "$(dirname "$0")/tpu_vm.sh"

on_worker all "cd $FOLDER && .venv/bin/python -m mrti_jax.sample$(quoted "$@")"
