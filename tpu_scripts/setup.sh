#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# setup.sh [--dry-run]: copies this project, as it is here, to all workers and installs it. Run it
# again after a change.
source "$(dirname "$0")/tpu_vm.sh"
[[ $# -eq 0 ]] || fail "unknown argument $1: use --dry-run or none"
cd "$(dirname "$0")/.."

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
archive=$place/$FOLDER.tar.gz
run tar --exclude=__pycache__ -czf "$archive" pyproject.toml README.md LICENSE mrti_jax configs tpu_scripts
run gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:$FOLDER.tar.gz" --zone="$ZONE" --worker=all
# The system's Python is older than 3.11; uv brings one.
on_worker all "mkdir -p $FOLDER && cd $FOLDER && tar -xzf ../$FOLDER.tar.gz &&
python3 -m pip install --user --quiet uv && python3 -m uv venv --allow-existing --python 3.12 .venv &&
python3 -m uv pip install --quiet --python .venv/bin/python -e '.[tpu,gcs]'"
