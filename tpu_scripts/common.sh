# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts: takes `--dry-run` off their arguments; commands are then only printed.
# All scripts run with the bash 3.2 of macOS as well.
set -euo pipefail

dry_run=false
if [[ ${1:-} == --dry-run ]]; then
    dry_run=true
    shift
fi

run() { # COMMAND...
    printf '%q ' "$@"
    printf '\n'
    "$dry_run" || "$@"
}

quoted() { # ARGUMENTS...: for a shell, each after a space
    if (($#)); then printf ' %q' "$@"; fi
}

fail() { # MESSAGE
    echo "error: $1" >&2
    exit 2
}
